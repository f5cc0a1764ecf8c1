"""How a request is refused: a status, and one sentence that says why."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from server.confine import BadName, LeadsOut

__all__ = ["Refused", "answer_refused", "flag", "named"]


class Refused(HTTPException):
    """Raised in a route; answered as `{"error": why}` where `answer_refused` is registered for it."""


async def answer_refused(request: Request, refused: Exception) -> JSONResponse:
    """The exception handler of `Refused`."""
    assert isinstance(refused, Refused)
    return JSONResponse({"error": refused.detail}, refused.status_code, refused.headers)


def named(error: BadName, leads_out: int = 403) -> Refused:
    """The refusal of a name: `leads_out` when it leaves its folder, else 400."""
    return Refused(leads_out if isinstance(error, LeadsOut) else 400, str(error))


def flag(request: Request, name: str, default: bool) -> bool:
    """A yes or no of the query. Raises Refused for anything else."""
    text = request.query_params.get(name, "").strip().lower()
    if text not in ("", "true", "1", "false", "0"):
        raise Refused(400, f"{name} must be true or false, not {text[:40]!r}")
    return text in ("true", "1") if text else default
