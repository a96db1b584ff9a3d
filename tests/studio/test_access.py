"""Who may ask, from where, and how much."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from nelbo import NelboError
from nelbo.cli import main
from nelbo.studio.access import Users, check_address, is_loopback, is_own_page
from nelbo.studio.limits import Limits
from nelbo.studio.uploads import Upload
from tests.studio.conftest import ask, picture

USERS = Users({"ada": "analytical", "bob": "engines:and:more"})


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises far more pixels than it has bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/hostname"/></svg>'


def test_the_page_may_load_nothing_from_elsewhere(serve):
    client = serve()
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert client.get("/static/main.js").headers["content-security-policy"] == policy
    assert client.get("/api/studio").json()["models"] == ["digits"]


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/%2e%2e/server.py", "/server.py"])
def test_nothing_beside_the_page_is_served(serve, path):
    assert serve().get(path).status_code == 404


def test_a_name_of_someone_else_is_no_name_of_this_server(serve):
    assert serve().get("/", headers={"host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("name", ["host", "origin"])
def test_half_an_address_is_refused(serve, name):
    client = serve()
    response = client.post(
        "/api/open", files={"settings": (None, "{}")}, headers={name: "http://["}
    )
    assert response.status_code in (403, 421)
    assert client.get("/").status_code == 200


def test_other_pages_cannot_ask(serve):
    client = serve()
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        response = client.post("/api/open", files={"settings": (None, "{}")}, headers=headers)
        assert response.status_code == 403


def test_passwords(serve):
    client = serve(users=USERS)
    assert client.get("/").status_code == 401
    assert client.post("/api/open", files={"settings": (None, "{}")}).status_code == 401
    assert client.get("/static/main.js").headers["www-authenticate"].startswith("Basic")
    assert client.get("/", auth=("ada", "analytical")).status_code == 200
    assert client.get("/", auth=("bob", "engines:and:more")).status_code == 200
    assert client.get("/", headers={"authorization": "Basic ???"}).status_code == 401
    # With passwords the server may have any name.
    named = client.get("/", auth=("ada", "analytical"), headers={"host": "studio.example"})
    assert named.status_code == 200


@pytest.mark.parametrize("header", [None, "", "Basic", "Basic é", "Basic /w==", "Bearer YTpi"])
def test_headers_that_are_no_passwords(header):
    """Base64 of b"\\xff" is no UTF-8."""
    assert not USERS.admit(header)


@pytest.mark.parametrize("given", [("ada", "wrong"), ("bob", "analytical"), ("", ""), ("ada", "")])
def test_wrong_passwords(given):
    import base64

    encoded = base64.b64encode(":".join(given).encode()).decode()
    assert not USERS.admit(f"Basic {encoded}")


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("ada:analytical\n", 0o644, "can be read by others: chmod 600"),
        ("ada\n", 0o600, "line 1: expected name:password"),
        ("# users\n\n", 0o600, "holds no users"),
        ("ada:short\n", 0o600, "line 1: the password of ada has fewer than 8 characters"),
        ("ada:analytical\nada:analytical\n", 0o600, "line 2: there is a user ada already"),
    ],
)
def test_mistakes_in_the_file_of_users(tmp_path, capsys, content, mode, message):
    file = tmp_path / "users"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(SystemExit) as stopped:
        main(["studio", "--host", "0.0.0.0", "--auth-file", str(file)])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_file_of_users(tmp_path):
    file = tmp_path / "users"
    file.write_text("# of the laboratory\nada:analytical\n\nbob:engines:and:more\n")
    file.chmod(0o600)
    assert Users.read(file) == USERS
    with pytest.raises(NelboError, match="cannot read --auth-file"):
        Users.read(tmp_path / "none")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "example.org"])
def test_an_address_that_others_reach_needs_passwords(host, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["studio", "--host", host])
    assert stopped.value.code == 2
    assert "give --auth-file" in capsys.readouterr().err
    check_address(host, USERS)


def test_addresses_of_this_machine():
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["10.0.0.1", "::", "localhost.evil.example", ""]))
    assert is_own_page("127.0.0.1:7860", "http://127.0.0.1:7860", "same-origin")
    assert not is_own_page("127.0.0.1:7860", "http://127.0.0.1:7861", None)
    assert not is_own_page("127.0.0.1:7860", "null", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture at all", "is no picture that can be read here"),
        (SVG, "is no picture that can be read here"),
        (bomb(50_000, 50_000), "too large: more than"),
        (bomb(6_000, 6_000), "6,000×6,000 pixels, at most 32,000,000"),
        (picture()[1][1][:30], "is no picture that can be read here"),
        (b"", "is no picture that can be read here"),
    ],
    ids=["text", "drawing", "huge bomb", "bomb", "cut short", "empty"],
)
def test_pictures_that_are_refused(serve, content, message):
    client = serve()
    file = ("control", ("../../x.png", content, "image/png"))
    (event,) = ask(client, "generate", {"model": "digits"}, [file])
    assert event["status"] == 400
    assert message in event["error"]
    assert ".." not in event["error"]
    assert ask(client, "open", {"model": "digits"})[-1] == {"type": "done"}


def test_a_photograph_is_turned_as_its_camera_was():
    """Orientation 6 is a quarter turn: what is left in the file is the top of the picture."""
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 2, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", exif=exif)
    pixels = Upload("photo.png", buffer.getvalue()).pixels((1, 8, 8))[0]
    assert (pixels[:2] == 255).all()
    assert (pixels[2:] == 0).all()


@pytest.mark.parametrize("run", ["no/such/run", "tests"])
def test_what_is_no_model_is_found_before_the_server_starts(run, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["studio", run])
    assert stopped.value.code == 2
    assert run in capsys.readouterr().err


def test_more_bytes_than_are_taken(serve):
    client = serve(limits=Limits(upload_bytes=20_000))
    (event,) = ask(client, "generate", {}, [picture("control", (200, 200))])
    assert event["status"] == 413
    assert "the pictures are too large" in event["error"]

    def without_length():
        yield b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
        yield from (bytes(5_000) for _ in range(10))

    kind = {"content-type": "multipart/form-data; boundary=x"}
    response = client.post("/api/generate", content=without_length(), headers=kind)
    assert response.status_code == 413


def test_a_full_queue_is_an_answer(serve):
    client = serve(limits=Limits(waiting=0))
    (event,) = ask(client, "open", {"model": "digits"})
    assert event["status"] == 503
    assert "try again" in event["error"]


def test_an_unknown_task(serve):
    (event,) = ask(serve(), "delete", {})
    assert event["status"] == 404


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"steps": 1%s}' % ("0" * 400), "steps must lie in 1..1,000"),
        ('{"guidance": 1%s}' % ("0" * 400), "guidance must lie in 0..50"),
        ('{"guidance": NaN}', "guidance must lie in"),
        ('{"steps": true}', "steps must be a whole number"),
        ('{"prompt": "\\ud800"}', "halves of letters"),
        ('{"prompt": "\\u0000"}', "control characters"),
    ],
    ids=["long", "large", "nan", "bool", "surrogate", "zero"],
)
def test_odd_settings_are_refused_and_the_next_request_is_served(serve, settings, message):
    client = serve()
    (event,) = ask(client, "generate", settings)
    assert event["status"] == 400
    assert message in event["error"]
    assert ask(client, "open", {"model": "digits"})[-1] == {"type": "done"}


def test_a_body_that_is_no_form(serve):
    response = serve().post("/api/open", json={"model": "digits"})
    assert response.status_code == 400
    assert "send a form" in response.json()["error"]


def test_a_name_in_another_character_set_is_no_fault_of_the_server(serve):
    head = b'Content-Disposition: form-data; name="image"; filename="+2AA-.png"'
    response = serve().post(
        "/api/process",
        content=b"--x\r\n" + head + b"\r\n\r\nx\r\n--x--\r\n",
        headers={"content-type": "multipart/form-data; boundary=x; charset=utf-7"},
    )
    assert response.status_code == 400
    assert "?.png is no picture" in response.json()["error"]


def test_the_settings_are_a_field(serve):
    response = serve().post("/api/open", files={"settings": ("a.json", io.BytesIO(b"{}"))})
    assert response.status_code == 400
