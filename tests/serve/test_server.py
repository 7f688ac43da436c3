"""The page over HTTP: ranked results, uploads, limits, and refusals."""

from __future__ import annotations

import http.client
import io
import socket
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reidx.errors import ConfigError, DataError
from reidx.serve import PageServer
from reidx.serve import server as module
from reidx.serve.uploads import uploaded_file

BOUNDARY = "----boundary7"


Answer = tuple[int, dict[str, str], bytes]


def ask(server: PageServer, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def form(content: bytes, field: str = "image", name: str = "../../etc/passwd") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
    head += "Content-Type: image/png\r\n\r\n"
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def upload(server: PageServer, body: bytes, **headers: str) -> Answer:
    given = {"Content_Type": f"multipart/form-data; boundary={BOUNDARY}", **headers}
    return ask(server, "POST", "/queries", body, **given)


class Page(HTMLParser):
    """Elements, links, images and text of a page; checks that elements are closed and fields have labels."""

    VOID = frozenset({"meta", "link", "input", "img", "br"})

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.fields: list[tuple[str, bool]] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(content.decode())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        self.attributes.append((tag, given))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(given["href"])
        if tag == "img":
            assert "alt" in given
            self.pictures.append(given["src"])
        if tag in ("input", "select") and given.get("type") != "hidden":
            self.fields.append((given["name"], "label" in self.open))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_first_page_shows_images_to_pick(server: PageServer) -> None:
    status, headers, content = ask(server, "GET", "/")
    page = Page(content)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.pictures == [f"/image/{n}" for n in range(48)]
    assert {name for name, _ in page.fields} == {"image", "camera", "count", "rerank"}
    assert all(labelled for _, labelled in page.fields)
    assert "/?start=48" in page.links
    later = Page(ask(server, "GET", "/?start=48")[2])
    assert later.pictures == [f"/image/{n}" for n in range(48, 60)] and "/?" in later.links


def test_page_uses_nothing_from_elsewhere(server: PageServer) -> None:
    _, headers, content = ask(server, "GET", "/?row=1")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for _, given in Page(content).attributes:
        for name in ("src", "href", "action"):
            assert (given.get(name) or "/").startswith(("/", "#", "data:,"))
        assert not any(name.startswith("on") or name == "style" for name in given)


def test_results_are_ranked_without_the_query(server: PageServer) -> None:
    page = Page(ask(server, "GET", "/?row=7&count=10")[2])
    index = server.gallery.index
    expected = [row for row in index.search(index.vectors([7]), 11).rows[0].tolist() if row != 7]
    assert page.pictures == ["/image/7", *(f"/image/{row}" for row in expected)]
    text = " ".join(page.text)
    assert "1. similarity" in text and "10. similarity" in text and "007.png" in text


def test_camera_filter_and_reranking(server: PageServer) -> None:
    page = Page(ask(server, "GET", "/?row=7&count=50&camera=2")[2])
    assert {int(path.rpartition("/")[2]) % 3 for path in page.pictures[1:]} == {2} and len(page.pictures) == 21
    again = Page(ask(server, "GET", "/?row=7&count=50&camera=2&rerank=1")[2])
    assert sorted(again.pictures) == sorted(page.pictures)
    assert all("camera=2" in link and "rerank=1" in link for link in again.links if link.startswith("/?row"))


def test_upload_is_searched_and_shown(server: PageServer, images: list[str]) -> None:
    status, headers, _ = upload(server, form(Path(images[11]).read_bytes()))
    assert status == 303 and headers["Location"].startswith("/?upload=")
    page = Page(ask(server, "GET", headers["Location"])[2])
    assert page.pictures[1] == "/image/11"
    shown = Image.open(io.BytesIO(ask(server, "GET", page.pictures[0])[2]))
    assert shown.format == "JPEG" and max(shown.size) <= 512
    camera = Page(ask(server, "GET", headers["Location"] + "&camera=1")[2])
    assert {int(path.rpartition("/")[2]) % 3 for path in camera.pictures[1:]} == {1}


def test_old_uploads_are_forgotten(server: PageServer, images: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reidx.serve.gallery.KEPT", 2)
    places = [upload(server, form(Path(images[n]).read_bytes()))[1]["Location"] for n in range(3)]
    status, _, content = ask(server, "GET", places[0])
    assert status == 400 and b"Upload the image again" in content
    assert ask(server, "GET", places[2])[0] == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form(b"\x89PNG\r\n\x1a\n broken"), "The file cannot be read as an image"),
        (form(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "The file cannot be read as an image"),
        (form(b""), "No file was chosen"),
        (form(b"x", field="other"), "The form holds no image"),
        (b"", "The form holds no image"),
        (b"\xff\x00--" + BOUNDARY.encode(), "The form holds no image"),
    ],
)
def test_bad_uploads_are_answered_with_a_page(server: PageServer, body: bytes, message: str) -> None:
    status, _, content = upload(server, body)
    page = Page(content)
    assert status == 400 and message in " ".join(page.text)
    assert ("p", {"role": "alert", "class": "error"}) in page.attributes
    assert b"/tmp" not in content
    assert ask(server, "GET", "/")[0] == 200


def test_large_uploads_are_refused(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 1 << 20)
    status, _, content = upload(server, form(bytes(3 << 20)))
    assert status == 413 and b"at most 1 MB" in content
    assert ask(server, "GET", "/")[0] == 200


def test_uploads_without_a_length_are_refused(server: PageServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        connection.sendall(b"POST /queries HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(100).split(b" ")[1] == b"411"


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd", "/image/../../etc/passwd", "/image/%2e%2e%2fsetup.cfg", "/image/0/../1", "/server.py",
        "/style.css/../server.py", "/image/-1", "/image/60", "/image/99999999999999999999", "/image/x", "/upload/unknown",
        "/image/59", "//etc/passwd",
    ],
)  # fmt: skip
def test_paths_outside_the_page_are_not_found(server: PageServer, path: str) -> None:
    status, _, content = ask(server, "GET", path)
    assert status == 404 and b"root:" not in content and b"import" not in content


@pytest.mark.parametrize(
    "path",
    ["/?row=60", "/?row=x", "/?row=-1", "/?count=7", "/?start=-5", "/?camera=9&row=1", "/?upload=x", f"/?row={'9' * 30}"],
)
def test_bad_addresses_are_answered_with_a_page(server: PageServer, path: str) -> None:
    status, _, content = ask(server, "GET", path)
    assert status == 400 and any(tag == "p" and given.get("role") == "alert" for tag, given in Page(content).attributes)


def test_names_are_escaped(server: PageServer) -> None:
    content = ask(server, "GET", "/?start=48")[2]
    assert b"<b>gone" not in content and b"&lt;b&gt;gone &amp; &quot;away" in content
    assert b"people &lt;1&gt;" in content


def test_other_sites_are_refused(server: PageServer, images: list[str]) -> None:
    body = form(Path(images[0]).read_bytes())
    assert ask(server, "GET", "/", Host="evil.example")[0] == 403
    assert upload(server, body, Origin="http://evil.example")[0] == 403
    assert upload(server, body, Origin="null")[0] == 403
    own = f"127.0.0.1:{server.server_port}"
    assert upload(server, body, Origin=f"http://{own}")[0] == 303
    assert ask(server, "GET", "/", Host=f"localhost:{server.server_port}")[0] == 200


def test_other_methods_are_refused(server: PageServer) -> None:
    for method in ("PUT", "DELETE", "TRACE"):
        assert ask(server, method, "/")[0] == 501
    assert upload(server, b"")[0] == 400 and ask(server, "POST", "/", b"x")[0] == 404


def test_port_in_use_is_a_message(server: PageServer) -> None:
    with pytest.raises(ConfigError, match=f"port {server.server_port}: .*in use.*--port"):
        PageServer(server.gallery, port=server.server_port)


def test_failure_of_the_server_is_answered(
    server: PageServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(type(server.gallery), "search", lambda *_: 1 / 0)
    status, _, content = ask(server, "GET", "/?row=1")
    assert status == 500 and b"division" not in content
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_uploaded_bytes_are_kept() -> None:
    content = bytes(range(256)) * 3 + b"\r\n\n\r--x\r\n"
    assert uploaded_file(f"multipart/form-data; boundary={BOUNDARY}", form(content), "image") == content
    with pytest.raises(DataError, match="no image"):
        uploaded_file("text/plain", form(content), "image")
