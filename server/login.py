"""The page that asks a person for the token."""

from __future__ import annotations

import html

from starlette.responses import HTMLResponse

__all__ = ["login_page"]

_CSP = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>latentgraph</title>
<style>
  :root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
  body {{ max-width: 22rem; margin: 20vh auto; padding: 0 1rem }}
  input, button {{ font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; margin-top: .75rem }}
  p[role=alert] {{ color: #c33 }}
</style>
<h1>latentgraph</h1>
<form method="post" action="{action}">
  <label for="token">The token that this server was started with</label>
  <input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
  <button>Log in</button>
  {alert}
</form>
</html>
"""


def login_page(action: str, status: int, problem: str = "") -> HTMLResponse:
    """A form that posts the token to `action`, with what went wrong before."""
    alert = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
    headers = {"Content-Security-Policy": _CSP, "Cache-Control": "no-store"}
    return HTMLResponse(_PAGE.format(action=html.escape(action), alert=alert), status, headers)
