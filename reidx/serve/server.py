"""HTTP around the page, with the standard library: addresses, limits, headers, and errors as pages."""

from __future__ import annotations

import ipaddress
import re
import socket
import socketserver
import sys
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from reidx.data.decode import CorruptImage
from reidx.errors import ConfigError, ReidxError
from reidx.serve.gallery import Gallery, Query
from reidx.serve.page import View, error_page, search_page
from reidx.serve.uploads import uploaded_file

LARGEST = 10 << 20
"""Maximum bytes of an uploaded form."""

_READ_AWAY = 10 * LARGEST  # of a larger form, so that the browser shows the message instead of a broken connection
_SECONDS = 30  # without a byte, after which a connection is closed
_FILES = {"/style.css": "text/css; charset=utf-8", "/keys.js": "text/javascript; charset=utf-8"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class PageServer(ThreadingHTTPServer):
    """The server of one gallery's page. A loopback address answers only requests that name a loopback host.

    Raises :class:`ConfigError` if the address cannot be used.
    """

    daemon_threads = True

    def __init__(self, gallery: Gallery, host: str = "127.0.0.1", port: int = 8000) -> None:
        self.gallery, self.host = gallery, host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            place = f"{host}, port {port}"
            raise ConfigError(f"The page cannot be served at {place}: {error}. Name another --port or --host.") from error

    def server_bind(self) -> None:
        """Bind the address without asking a name server for the machine's name, as the base class does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.server_address[1]}/"

    @property
    def on_loopback(self) -> bool:
        """True if only this machine can reach the page."""
        return _is_loopback(self.host)


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version = "reidx"
    sys_version = ""
    timeout = _SECONDS

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, work: Callable[[], None]) -> None:
        try:
            self._refuse_other_sites()
            work()
        except _Refused as refusal:
            self._page(refusal.status, error_page(self.server.gallery, str(refusal)))
        except ReidxError as error:
            self._page(HTTPStatus.BAD_REQUEST, error_page(self.server.gallery, str(error)))
        except ConnectionError:
            self.close_connection = True
        except Exception:  # one request must not end the server; the terminal gets the traceback
            traceback.print_exc(file=sys.stderr)
            message = "The server failed at this request; its terminal shows the reason."
            self._page(HTTPStatus.INTERNAL_SERVER_ERROR, error_page(self.server.gallery, message))

    def _refuse_other_sites(self) -> None:
        """Refuse a page of another site that reaches this server through its name (DNS rebinding) or posts to it."""
        host = self.headers.get("Host", "")
        if self.server.on_loopback and not _is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise _Refused(HTTPStatus.FORBIDDEN, f"This page is at {self.server.address} only.")
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise _Refused(HTTPStatus.FORBIDDEN, "Another site may not send images to this page.")

    def _get(self) -> None:
        address, gallery = urlsplit(self.path), self.server.gallery
        if address.path == "/":
            self._page(HTTPStatus.OK, search_page(gallery, View.of(address.query)))
        elif address.path in _FILES:
            content = (Path(__file__).parent / address.path[1:]).read_bytes()
            self._send(HTTPStatus.OK, _FILES[address.path], content, "max-age=300")
        elif found := re.fullmatch(r"/image/([0-9]{1,12})", address.path):
            self._picture(Query(row=int(found[1])))
        elif found := re.fullmatch(r"/upload/([\w-]{1,40})", address.path, re.ASCII):
            self._picture(Query(token=found[1]))
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _picture(self, query: Query) -> None:
        try:
            self._send(HTTPStatus.OK, "image/jpeg", self.server.gallery.picture(query), "private, max-age=300")
        except (ReidxError, CorruptImage) as error:
            self._send(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", str(error).encode("utf-8", "replace"))

    def _post(self) -> None:
        if urlsplit(self.path).path != "/queries":
            raise _Refused(HTTPStatus.NOT_FOUND, "There is no such page.")
        token = self.server.gallery.upload(uploaded_file(self.headers.get("Content-Type", ""), self._body(), "image"))
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", View(Query(token=token)).address())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,15}", length):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "The upload does not state its length.")
        if int(length) > LARGEST:
            left = min(int(length), _READ_AWAY)
            while left > 0 and (part := self.rfile.read(min(left, 1 << 16))):
                left -= len(part)
            self.close_connection = True
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The file is too large: at most {LARGEST >> 20} MB are read.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("the upload broke off")
        return body

    def _page(self, status: HTTPStatus, html: str) -> None:
        self._send(status, "text/html; charset=utf-8", html.encode("utf-8", "replace"))

    def _send(self, status: HTTPStatus, kind: str, content: bytes, cache: str = "no-store") -> None:
        self.send_response(status)
        facts = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": cache}
        for name, value in {**facts, **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing: the terminal shows errors alone."""


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
