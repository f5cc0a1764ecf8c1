"""Uploading, looking at and listing files."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, PngImagePlugin
from starlette.applications import Starlette
from starlette.testclient import TestClient

from graph_engine import Folders
from server.refusal import Refused, answer_refused
from server.routes import files
from server.settings import ServerSettings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
    return tmp_path


@pytest.fixture
def client(home: Path) -> TestClient:
    app = Starlette(routes=files.routes(), exception_handlers={Refused: answer_refused})
    app.state.server = SimpleNamespace(settings=ServerSettings(home=home, pixel_limit=10_000), folders=Folders(home), specs={})
    return TestClient(app)


def picture(
    color: object = (200, 30, 10), size: tuple[int, int] = (8, 6), mode: str = "RGB", kind: str = "PNG", **options: object
) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def upload(client: TestClient, name: str, data: bytes, route: str = "/upload/image", **fields: str) -> object:
    return client.post(route, files={"image": (name, data)}, data=fields)


# view


def test_a_file_goes_out_as_it_is_and_sealed(client: TestClient, home: Path) -> None:
    data = picture()
    (home / "output" / "a.png").write_bytes(data)
    answer = client.get("/view", params={"filename": "a.png", "subfolder": "", "type": "output", "rand": "0.1"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, data, "image/png")
    assert 'filename="a.png"' in answer.headers["content-disposition"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    again = client.get("/view", params={"filename": "a.png"}, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    part = client.get("/view", params={"filename": "a.png"}, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, data[:4])


def test_the_folder_comes_from_type_or_from_the_name(client: TestClient, home: Path) -> None:
    (home / "input" / "sub").mkdir()
    (home / "input" / "sub" / "b c.png").write_bytes(picture())
    assert client.get("/view", params={"filename": "b c.png", "subfolder": "sub", "type": "input"}).status_code == 200
    assert client.get("/view", params={"filename": "b c.png [input]", "subfolder": "sub", "type": "output"}).status_code == 200
    assert client.get("/view", params={"filename": "sub/b c.png", "type": "input"}).status_code == 200
    assert client.get("/view", params={"filename": "b c.png", "subfolder": "sub"}).status_code == 404


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({}, 400),
        ({"filename": ""}, 400),
        ({"filename": "."}, 400),
        ({"filename": "missing.png"}, 404),
        ({"filename": "a.png", "type": "models"}, 400),
        ({"filename": "../input/a.png"}, 400),
        ({"filename": "/etc/passwd"}, 400),
        ({"filename": "..%2finput%2fa.png"}, 400),
        ({"filename": "a\0.png"}, 400),
        ({"filename": "a.png", "subfolder": ".."}, 403),
        ({"filename": "a.png", "subfolder": "/etc"}, 403),
        ({"filename": "a.png", "subfolder": "..\\input"}, 403),
        ({"filename": "link.png"}, 403),
        ({"filename": "folder"}, 404),
        ({"filename": ".hidden.png"}, 404),
        ({"filename": "x" * 300}, 400),
        ({"filename": "a.png", "channel": "b"}, 400),
    ],
)
def test_what_is_not_shown(client: TestClient, home: Path, params: dict[str, str], status: int) -> None:
    for place in ("output/a.png", "input/a.png", "output/.hidden.png", "secret.png"):
        (home / place).write_bytes(picture())
    (home / "output" / "folder").mkdir()
    (home / "output" / "link.png").symlink_to(home / "secret.png")
    answer = client.get("/view", params=params)
    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "name", ["x.html", "x.HTM", "x.xhtml", "x.js", "x.mjs", "x.css", "x.svg", "x.xml", "x.pdf", "x.swf", "x", "x.png.html"]
)
def test_what_could_hold_a_script_is_bytes_to_download(client: TestClient, home: Path, name: str) -> None:
    (home / "output" / name).write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")
    answer = client.get("/view", params={"filename": name})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_drawing_is_shown_only_inside_a_page(client: TestClient, home: Path) -> None:
    (home / "output" / "x.svg").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    answer = client.get("/view", params={"filename": "x.svg"}, headers={"Sec-Fetch-Dest": "image"})
    assert answer.headers["content-type"] == "image/svg+xml"
    assert (answer.headers["vary"], answer.headers["cache-control"]) == ("Sec-Fetch-Dest", "no-store")


def test_quotes_in_a_name_do_not_break_the_header(client: TestClient, home: Path) -> None:
    (home / "output" / 'a"; x=猫.png').write_bytes(picture())
    answer = client.get("/view", params={"filename": 'a"; x=猫.png'})
    assert answer.headers["content-disposition"] == "inline; filename*=utf-8''a%22%3B%20x%3D%E7%8C%AB.png"


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [("webp;90", "WEBP"), ("webp", "WEBP"), ("jpeg;80", "JPEG"), ("jpeg", "JPEG"), ("gif;x", "WEBP"), ("", "WEBP"), ("webp;9999", "WEBP")],
)
def test_a_preview_is_re_encoded(client: TestClient, home: Path, wanted: str, kind: str) -> None:
    (home / "output" / "a.png").write_bytes(picture((200, 30, 10, 128), mode="RGBA"))
    answer = client.get("/view", params={"filename": "a.png", "preview": wanted})
    image = opened(answer.content)
    assert (image.format, image.size) == (kind, (8, 6))
    assert answer.headers["content-type"] == f"image/{kind.lower()}"
    assert max(abs(a - b) for a, b in zip(image.convert("RGB").getpixel((3, 3)), (200, 30, 10), strict=True)) < 25
    known = client.get("/view", params={"filename": "a.png", "preview": wanted}, headers={"If-None-Match": answer.headers["etag"]})
    assert known.status_code == 304


def test_a_lower_quality_is_smaller(client: TestClient, home: Path) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    noise.save(home / "output" / "n.png")
    sizes = [len(client.get("/view", params={"filename": "n.png", "preview": f"jpeg;{quality}"}).content) for quality in (10, 90)]
    assert sizes[0] * 2 < sizes[1]


def test_channels(client: TestClient, home: Path) -> None:
    (home / "input" / "a.png").write_bytes(picture((200, 30, 10, 77), mode="RGBA"))
    params = {"filename": "a.png", "type": "input"}
    rgb = opened(client.get("/view", params={**params, "channel": "rgb"}).content)
    assert (rgb.mode, rgb.getpixel((0, 0))) == ("RGB", (200, 30, 10))
    alpha = opened(client.get("/view", params={**params, "channel": "a"}).content)
    assert (alpha.mode, alpha.getpixel((0, 0))) == ("RGBA", (0, 0, 0, 77))
    assert opened(client.get("/view", params={**params, "channel": "rgba"}).content).getpixel((0, 0)) == (200, 30, 10, 77)
    assert opened(client.get("/view", params={**params, "channel": "rgb", "preview": "webp;90"}).content).mode == "RGB"
    (home / "input" / "b.jpg").write_bytes(picture(kind="JPEG"))
    opaque = opened(client.get("/view", params={"filename": "b.jpg", "type": "input", "channel": "a"}).content)
    assert opaque.getpixel((0, 0)) == (0, 0, 0, 255)


def test_too_many_pixels_are_not_decoded_and_damage_is_said(client: TestClient, home: Path) -> None:
    (home / "output" / "big.png").write_bytes(picture(size=(101, 100)))
    assert client.get("/view", params={"filename": "big.png"}).status_code == 200
    assert client.get("/view", params={"filename": "big.png", "preview": "webp"}).status_code == 413
    assert client.get("/view", params={"filename": "big.png", "channel": "a"}).status_code == 413
    noise = io.BytesIO()
    Image.effect_noise((90, 90), 80).save(noise, "PNG")
    (home / "output" / "cut.png").write_bytes(noise.getvalue()[:2000])
    answer = client.get("/view", params={"filename": "cut.png", "preview": "webp"})
    assert answer.status_code == 400
    assert "damaged" in answer.json()["error"]


# upload


def test_an_upload_is_there_whole_and_can_be_viewed(client: TestClient, home: Path) -> None:
    data = picture()
    answer = upload(client, "a b.png", data)
    assert (answer.status_code, answer.json()) == (200, {"name": "a b.png", "subfolder": "", "type": "input"})
    assert client.get("/view", params={"filename": "a b.png", "type": "input"}).content == data
    assert os.listdir(home / "input") == ["a b.png"]


def test_the_same_content_is_the_same_file_another_gets_a_number(client: TestClient, home: Path) -> None:
    red, blue, green = picture(), picture((0, 0, 255)), picture((0, 255, 0))
    names = [upload(client, "a.png", data).json()["name"] for data in (red, red, blue, blue, green, red)]
    assert names == ["a.png", "a.png", "a (1).png", "a (1).png", "a (2).png", "a.png"]
    assert upload(client, "a.png", green, overwrite="true").json()["name"] == "a.png"
    assert (home / "input" / "a.png").read_bytes() == green
    assert upload(client, "a.png", blue, overwrite="1").json()["name"] == "a.png"
    assert sorted(os.listdir(home / "input")) == ["a (1).png", "a (2).png", "a.png"]


def test_type_and_subfolder_of_an_upload(client: TestClient, home: Path) -> None:
    answer = upload(client, "a.png", picture(), type="temp", subfolder="x/./y/")
    assert answer.json() == {"name": "a.png", "subfolder": "x/y", "type": "temp"}
    assert (home / "temp/x/y/a.png").is_file()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("../a.png", {}),
        ("/a.png", {}),
        ("..\\a.png", {}),
        ("con.png", {}),
        (".hidden.png", {}),
        ("a.png", {"subfolder": "../x"}),
        ("a.png", {"subfolder": "/tmp"}),
        ("a.png", {"subfolder": "%2e%2e"}),
        ("a.png", {"type": "models"}),
        ("x" * 260 + ".png", {}),
    ],
)
def test_uploads_stay_in_their_folder(client: TestClient, home: Path, name: str, fields: dict[str, str]) -> None:
    before = sorted(home.rglob("*"))
    answer = upload(client, name, picture(), **fields)
    assert answer.status_code == 400, answer.text
    assert sorted(home.rglob("*")) == before


def test_an_upload_does_not_follow_a_link_out(client: TestClient, home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (home / "input" / "out").symlink_to(outside)
    assert upload(client, "a.png", picture(), subfolder="out").status_code == 400
    assert not list(outside.iterdir())


def test_what_calls_itself_a_picture_must_be_one_of_reasonable_size(client: TestClient, home: Path) -> None:
    assert upload(client, "a.png", b"<html>").status_code == 400
    assert upload(client, "a.png", picture(size=(101, 100))).status_code == 413
    assert upload(client, "a.bin", picture(size=(101, 100))).status_code == 413  # whatever it calls itself
    assert upload(client, "a.webm", b"\x1aE\xdf\xa3 a film").status_code == 200
    assert sorted(os.listdir(home / "input")) == ["a.webm"]


def test_requests_that_are_no_upload(client: TestClient) -> None:
    assert client.post("/upload/image", content=b"x").status_code == 400
    assert client.post("/upload/image", data={"image": "text"}).status_code == 400
    assert client.post("/upload/image", data={"image": "x"}, files={"other": ("a.png", b"x")}).status_code == 400
    broken = client.post("/upload/image", content=b"--x\r\nrubbish", headers={"Content-Type": "multipart/form-data"})
    assert broken.status_code == 400
    assert client.post("/upload/image", content=b"zz", headers={"Content-Type": "multipart/form-data; boundary=x"}).status_code == 400
    many = [("image", (f"{n}.png", b"x")) for n in range(50)]
    assert client.post("/upload/image", files=many).status_code == 400


def test_a_folder_in_the_way(client: TestClient, home: Path) -> None:
    (home / "input" / "a.png").mkdir()
    (home / "input" / "file").write_text("x")
    assert upload(client, "a.png", picture()).json()["name"] == "a (1).png"
    assert upload(client, "a.png", picture(), overwrite="true").status_code == 400
    assert upload(client, "b.png", picture(), subfolder="file").status_code == 400


def test_a_mask_becomes_the_alpha_of_the_original(client: TestClient, home: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", '{"a": "猫"}')
    (home / "output" / "o.png").write_bytes(picture(pnginfo=texts))
    ref = json.dumps({"filename": "o.png", "type": "output", "subfolder": ""})
    mask = picture((9, 9, 9, 40), mode="RGBA")
    answer = upload(client, "painted.png", mask, "/upload/mask", original_ref=ref, subfolder="clipspace")
    assert answer.json() == {"name": "painted.png", "subfolder": "clipspace", "type": "input"}
    stored = (home / "input/clipspace/painted.png").read_bytes()
    image = opened(stored)
    assert image.getpixel((2, 2)) == (200, 30, 10, 40)
    assert image.text == {"workflow": '{"a": "猫"}'}
    assert b"zTXt" not in stored


@pytest.mark.parametrize(
    ("ref", "status"),
    [
        (None, 400),
        ("{", 400),
        ("[" * 100_000, 400),
        ('{"filename": 3}', 400),
        ("[]", 400),
        ('{"filename": "missing.png"}', 404),
        ('{"filename": "../o.png"}', 400),
        ('{"filename": "o.png", "subfolder": ".."}', 403),
        ('{"filename": "o.png", "type": "models"}', 400),
        ('{"filename": "other.png"}', 400),
        ('{"filename": "text.png"}', 400),
        ('{"filename": "big.png"}', 413),
    ],
)
def test_masks_that_do_not_fit(client: TestClient, home: Path, ref: str | None, status: int) -> None:
    (home / "output" / "o.png").write_bytes(picture())
    (home / "output" / "other.png").write_bytes(picture(size=(3, 3)))
    (home / "output" / "big.png").write_bytes(picture(size=(101, 100)))
    (home / "output" / "text.png").write_bytes(b"text")
    fields = {} if ref is None else {"original_ref": ref}
    answer = upload(client, "m.png", picture(size=(8, 6)), "/upload/mask", **fields)
    assert answer.status_code == status, answer.text
    assert not list((home / "input").iterdir())


# lists


def test_lists_are_newest_first_and_hold_what_can_be_seen(client: TestClient, home: Path) -> None:
    (home / "input" / "sub").mkdir()
    for age, name in enumerate(["c.png", "sub/a.png", "b.webm", ".x.part"]):
        (home / "input" / name).write_bytes(b"x")
        os.utime(home / "input" / name, (1000 - age, 1000 - age))
    (home / "input" / "out").symlink_to("/etc/passwd")
    assert client.get("/internal/files/input").json() == ["c.png", "sub/a.png", "b.webm"]
    assert client.get("/internal/files/output").json() == []
    assert client.get("/internal/files/models").status_code == 400


def test_folder_paths_name_every_kind(client: TestClient, home: Path) -> None:
    paths = client.get("/internal/folder_paths").json()
    assert paths["checkpoints"] == [str(home / "models" / "checkpoints")]
    assert paths["output"] == [str(home / "output")]
