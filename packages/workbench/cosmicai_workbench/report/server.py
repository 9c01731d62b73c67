"""Serves a page that changes to this machine's browser, and to nobody without its token."""

import json
import secrets
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from cosmicai_workbench.report.page import data_of, main, policy, render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmicai_workbench.report.page import Page

_ADDRESS = "127.0.0.1"
_TIME_OUT = 10.0
"""Seconds that a client may take to send its request."""
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": policy(live=True),
}


@dataclass
class Live:
    """What is served at ``url``: a page, which :meth:`show` replaces, and how far the work is."""

    url: str
    _token: str
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _told: threading.Event = field(default_factory=threading.Event)
    _page: "Page | None" = None
    _version: int = 0
    _status: str = "starting"
    _done: bool = False
    _asked: bool = False
    _news: bytes = b""

    def show(self, page: "Page", status: str, *, done: bool = False) -> None:
        """Serve this page from now on; with ``done`` it is the last."""
        news = {
            "title": page.title,
            "subtitle": page.subtitle,
            "main": main(page, static=done),
            "data": data_of(page),
        }
        with self._lock:
            self._page, self._status, self._done = page, status, done
            self._version += 1
            self._news = json.dumps(
                {"version": self._version, "status": status, "done": done, **news}
            ).encode()

    def tell(self, status: str) -> None:
        """Say how far the work is; the page stays."""
        with self._lock:
            self._status = status

    def wait_until_seen(self, seconds: float) -> None:
        """Wait until a browser that has asked before has the last page; none may have."""
        with self._lock:
            if not (self._done and self._asked):
                return
        self._told.wait(seconds)

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, type and body of the answer to a request for a path."""
        where, _, query = path.partition("?")
        token, _, name = where.lstrip("/").partition("/")
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            return 404, "text/plain", b"not found\n"
        if name == "":
            with self._lock:
                page = self._page
            if page is None:
                return 503, "text/plain", b"nothing to show yet\n"
            return 200, "text/html; charset=utf-8", render(page, live=True).encode()
        if name == "state":
            seen = parse_qs(query).get("seen", [""])[0]
            return 200, "application/json", self._state(seen)
        return 404, "text/plain", b"not found\n"

    def _state(self, seen: str) -> bytes:
        with self._lock:
            self._asked = True
            if self._done:
                self._told.set()
            if seen != str(self._version):
                return self._news
            brief: dict[str, Any] = {"version": self._version, "status": self._status}
            return json.dumps(brief | {"done": self._done}).encode()


@contextmanager
def serving(page: "Page", status: str) -> "Iterator[Live]":
    """Serve a page on a free port of the loopback interface while the block runs.

    A request must name this machine as its host, so that no other site's name can lead to it, and
    have the token that is part of the address.
    """
    token = secrets.token_urlsafe(24)
    live: Live

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIME_OUT
        server_version, sys_version = "cosmicai", ""

        def do_GET(self) -> None:
            if self.headers.get("Host") not in hosts:
                self._send(403, "text/plain", b"this address is for this machine only\n")
            else:
                self._send(*live.answer(self.path))

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            try:
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the browser went away

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing: the address holds the token."""

    with ThreadingHTTPServer((_ADDRESS, 0), Handler) as server:
        server.daemon_threads = True
        port = server.server_address[1]
        hosts = {f"{_ADDRESS}:{port}", f"localhost:{port}"}
        live = Live(f"http://{_ADDRESS}:{port}/{token}/", token)
        live.show(page, status)
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield live
        finally:
            server.shutdown()
            thread.join(_TIME_OUT)
