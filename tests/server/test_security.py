"""Names, origins, tokens and sizes: what reaches the application and what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from server.origins import Doors
from server.refusal import Refused, answer_refused
from server.security import Guard, check_listen
from server.sessions import Attempts, Key
from server.settings import ServerSettings

HOME = "http://127.0.0.1:8188"


def application() -> Starlette:
    async def take(request: Request) -> Response:
        return JSONResponse(len(await request.body()))

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    methods = ["GET", "POST", "DELETE", "PATCH", "PUT"]
    routes = [Route("/", take, methods=methods), Route("/prompt", take, methods=methods), WebSocketRoute("/ws", talk)]
    return Starlette(routes=routes, exception_handlers={Refused: answer_refused})


def guarded(url: str = HOME, **options: Any) -> TestClient:
    return TestClient(Guard(application(), ServerSettings(**options)), base_url=url, follow_redirects=False, client=("192.0.2.7", 5000))


def connects(client: TestClient, **headers: str) -> bool:
    try:
        with client.websocket_connect("ws://127.0.0.1:8188/ws", headers=headers) as socket:
            return bool(socket.receive_text() == "hello")
    except WebSocketDisconnect:
        return False


# names and origins


@pytest.mark.parametrize("host", ["127.0.0.1:8188", "localhost", "LOCALHOST:9", "[::1]:8188", "127.1.2.3", "studio.example:443"])
def test_own_names_are_answered(host: str) -> None:
    client = guarded(hosts=("studio.example",))
    assert client.get("/", headers={"Host": host}).status_code == 200
    assert connects(client, Host=host)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "192.0.2.1", "127.0.0.1@evil", "", "a b", "localhost:", "[::1", "127.0.0.1.evil"]
)
def test_foreign_names_are_refused_also_for_reading(host: str) -> None:
    client = guarded()
    assert client.get("/", headers={"Host": host}).status_code == 403
    assert client.post("/prompt", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 403
    assert not connects(client, Host=host)


def test_addresses_are_names_where_the_server_listens_to_others() -> None:
    client = guarded(host="0.0.0.0", token="t")
    allowed = {"Authorization": "Bearer t"}
    assert client.get("/", headers={"Host": "192.0.2.1:8188", **allowed}).status_code == 200
    assert client.get("/", headers={"Host": "[2001:db8::1]", **allowed}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example", **allowed}).status_code == 403


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "http://localhost:8188"},
    {"Origin": "http://127.0.0.1:8188.evil.example"},
    {"Origin": "file://"},
    {"Origin": "chrome-extension://127.0.0.1:8188"},
    {"Origin": "http://[::1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": HOME, "Sec-Fetch-Site": "cross-site"},
]
OWN = [
    {},
    {"Origin": HOME},
    {"Origin": "HTTP://127.0.0.1:8188"},
    {"Origin": HOME, "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "REPORT"])
def test_foreign_pages_change_nothing(method: str, headers: dict[str, str]) -> None:
    answer = guarded().request(method, "/prompt", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]


@pytest.mark.parametrize("headers", FOREIGN)
def test_foreign_pages_do_not_listen(headers: dict[str, str]) -> None:
    assert not connects(guarded(), **headers)


@pytest.mark.parametrize("headers", OWN)
def test_own_pages_and_programs_do(headers: dict[str, str]) -> None:
    client = guarded()
    assert client.post("/prompt", headers=headers, content=b"abc").json() == 3
    assert connects(client, **headers)


def test_two_origins_or_hosts_at_once_are_judged_by_the_worse() -> None:
    client = guarded()
    assert client.post("/prompt", headers=[("Origin", HOME), ("Origin", "https://evil.example")]).status_code == 403
    assert client.get("/", headers=[("Host", "127.0.0.1"), ("Host", "evil.example")]).status_code == 403


def test_behind_a_proxy_the_usual_ports_do_not_matter() -> None:
    doors = Doors(frozenset({"studio.example"}), frozenset())
    for origin, host, fine in [
        ("https://studio.example", "studio.example", True),
        ("https://studio.example", "studio.example:443", True),
        ("https://studio.example:443", "studio.example", True),
        ("http://studio.example", "studio.example:80", True),
        ("http://studio.example", "studio.example:443", False),
        ("https://studio.example:8443", "studio.example", False),
    ]:
        assert (doors.origin_objection("POST", Headers({"origin": origin, "host": host})) is None) == fine, origin


def test_links_from_elsewhere_open_the_page_but_nothing_is_embedded() -> None:
    client = guarded()
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert client.get("/", headers={**cross, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}).status_code == 200
    assert client.get("/", headers={**cross, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert client.get("/prompt", headers={**cross, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}).status_code == 403


def test_an_origin_that_was_let_in_may_do_everything() -> None:
    client = guarded(origins=("https://studio.example",))
    headers = {"Origin": "https://studio.example", "Sec-Fetch-Site": "cross-site"}
    answer = client.post("/prompt", headers=headers, content=b"ab")
    assert (answer.json(), answer.headers["access-control-allow-origin"]) == (2, "https://studio.example")
    asked = client.options("/prompt", headers={**headers, "Access-Control-Request-Method": "POST"})
    assert asked.status_code == 200
    assert connects(client, **headers)
    assert client.post("/prompt", headers={"Origin": "https://evil.example"}).status_code == 403


def test_without_origins_no_other_page_may_read() -> None:
    answer = guarded().get("/", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-content-type-options"] == "nosniff"


# sizes


def chunks(count: int, size: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * size


def test_bodies_are_limited_with_and_without_a_length() -> None:
    client = guarded(body_limit=1000)
    assert client.post("/prompt", content=b"x" * 1000).json() == 1000
    assert client.post("/prompt", content=b"x" * 1001).status_code == 413
    assert client.post("/prompt", content=chunks(10, 100)).json() == 1000
    answer = client.post("/prompt", content=chunks(11, 100))
    assert answer.status_code == 413
    assert "1000 bytes" in answer.json()["error"]
    assert client.post("/prompt", headers={"Content-Length": "-1"}).status_code == 413


# the token


def test_listening_to_others_needs_a_token() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "studio.example"):
        with pytest.raises(ValueError, match="token"):
            check_listen(ServerSettings(host=host))
        check_listen(ServerSettings(host=host, token="t"))
    for host in ("127.0.0.1", "localhost", "::1"):
        check_listen(ServerSettings(host=host))


def test_without_the_token_nothing_is_answered() -> None:
    client = guarded(token="right")
    for path in ("/", "/prompt", "/nothing"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.post("/prompt").status_code == 401
    assert not connects(client)
    for value in ("Bearer wrong", "Bearer", "Basic right", "right", "Bearer rightt", "Bearer \udcff"):
        header = {"Authorization": value.encode("utf-8", "surrogateescape")}
        assert client.get("/", headers=header).status_code == 401, value


def test_the_bearer_header_opens() -> None:
    client = guarded(token="right")
    for value in ("Bearer right", "bearer  right "):
        assert client.post("/prompt", headers={"Authorization": value}, content=b"x").json() == 1
        assert connects(client, Authorization=value)


@pytest.mark.parametrize("base", ["/", "/studio/"])
def test_a_person_logs_in_once(base: str) -> None:
    client = guarded(token="right ü", base=base)
    page = client.get(base, headers={"Accept": "text/html"})
    assert page.status_code == 401
    assert f'action="{base}login"' in page.text
    assert client.get(f"{base}login").status_code == 200
    answer = client.post(f"{base}login", data={"token": "right ü"}, headers={"Origin": HOME})
    assert (answer.status_code, answer.headers["location"]) == (303, base)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert f"path={base}" in cookie
    assert "right" not in cookie
    client.cookies.clear()
    name, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
    kept = {"Cookie": f"{name}={value}"}
    assert client.get("/", headers=kept).status_code == 200
    assert connects(client, **kept)
    assert client.post("/prompt", headers={**kept, "Origin": "https://evil.example"}).status_code == 403
    assert client.get("/", headers={"Cookie": f"{name}=9{value}"}).status_code == 401
    assert client.get("/", headers={"Cookie": f"{name}=x.y"}).status_code == 401


def test_behind_tls_the_cookie_stays_there() -> None:
    answer = guarded(token="t").post("/login", data={"token": "t"}, headers={"X-Forwarded-Proto": "https"})
    assert "secure" in answer.headers["set-cookie"].lower()


def test_a_wrong_token_and_a_foreign_form() -> None:
    client = guarded(token="right")
    answer = client.post("/login", data={"token": "<b>"})
    assert answer.status_code == 401
    assert "not the token" in answer.text
    assert client.post("/login", data={"token": "right"}, headers={"Origin": "null"}).status_code == 403
    assert client.post("/login", content=b"token=" + b"x" * 10_000).status_code == 413
    assert client.post("/login", content=b"\xff\x00=&&&").status_code == 401


def test_guessing_is_slowed_down_for_the_guesser_only() -> None:
    client = guarded(token="right")
    codes = [client.get("/", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(12)]
    assert codes == [401] * 10 + [429] * 2
    late = client.get("/", headers={"Authorization": "Bearer right"})
    assert late.status_code == 429
    assert 0 < int(late.headers["retry-after"]) <= 60
    assert client.post("/login", data={"token": "right"}).status_code == 429


def test_asking_without_a_token_is_no_guess() -> None:
    client = guarded(token="right")
    for _ in range(30):
        assert client.get("/").status_code == 401
    assert client.get("/", headers={"Authorization": "Bearer right"}).status_code == 200


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_attempts_are_forgotten_in_time_and_after_success() -> None:
    clock = Clock()
    attempts = Attempts(most=3, window=60, addresses=2, clock=clock)
    for _ in range(3):
        assert attempts.wait("a") == 0
        attempts.failed("a")
        clock.now += 10
    assert attempts.wait("a") == 30
    assert attempts.wait("b") == 0
    clock.now += 29.5
    assert attempts.wait("a") == 1
    clock.now += 1
    assert attempts.wait("a") == 0
    attempts.failed("a")
    assert attempts.wait("a") == 10
    attempts.succeeded("a")
    assert attempts.wait("a") == 0
    for address in "abcd":
        attempts.failed(address)
    assert len(attempts._failed) == 2


def test_a_cookie_ends_in_time_and_with_another_token() -> None:
    clock = Clock()
    key = Key("token", clock)
    value, lasts = key.cookie()
    assert key.opens(value)
    assert not Key("other", clock).opens(value)
    until, _, signature = value.partition(".")
    for forged in ("", ".", f"{int(until) + 1}.{signature}", f"{until}.", f"{until}.{signature[:-1]}", "ü.ü", value.upper() + "0"):
        assert not key.opens(forged), forged
    clock.now += lasts + 1
    assert not key.opens(value)


@pytest.mark.parametrize("compare", [Key("token").fits, lambda text: Key("token").bearer(f"Bearer {text}")])
def test_tokens_are_compared_whole(compare: Callable[[str], bool]) -> None:
    assert compare("token")
    for wrong in ("", "toke", "tokem", "tokenn", "TOKEN", "\ud800"):
        assert not compare(wrong)
