"""What the server answers over HTTP; each file has a function `routes`."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor


class Rest(Convertor[str]):
    """The rest of a path, as `{name:rest}`: like `path`, but also with line breaks, so that a name that holds one is refused in words."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("rest", Rest())
