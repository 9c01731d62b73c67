"""A proxy before a real S3 server that disturbs requests as a bad network or a bad day would."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

FAULTS = ("refused", "broken", "denied", "reset", "lost", "cut", "late")
"""What can happen to a request.

refused, broken, denied
    Answered 503 (SlowDown), 500 or 403; never seen by S3.
reset
    The connection ends; never seen by S3.
lost
    S3 does what is asked, and the connection ends without an answer.
cut
    S3 answers, and the connection ends in the middle of the body.
late
    The connection ends, and S3 gets the request some time after that.
"""
_LATE_SECONDS = 0.03


@dataclass(frozen=True)
class Request:
    """What the proxy was asked."""

    method: str
    path: str
    """Bucket and key, decoded."""
    query: str

    @property
    def is_write(self) -> bool:
        return self.method in {"PUT", "POST", "DELETE"}


@dataclass
class FaultySession:
    """The proxy's state: what it was asked, and which fault comes next."""

    upstream: str
    fault: Callable[[Request], str | None] = lambda _: None
    requests: list[Request] = field(default_factory=list)
    late: list[threading.Thread] = field(default_factory=list)

    def settle(self) -> None:
        """Wait for the requests that come late."""
        while self.late:
            self.late.pop().join()


class FaultyS3:
    """A proxy on a port of its own, before the S3 server at ``upstream``."""

    def __init__(self, upstream: str) -> None:
        self.session = FaultySession(upstream)
        handler = type("Handler", (_Handler,), {"session": self.session})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyS3:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.session.settle()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    session: FaultySession

    def _serve(self) -> None:
        address = urlsplit(self.path)
        request = Request(self.command, unquote(address.path).lstrip("/"), address.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.session.requests.append(request)
        fault = self.session.fault(request)
        if fault in {"refused", "broken", "denied"}:
            status, code = {
                "refused": (503, "SlowDown"),
                "broken": (500, "InternalError"),
                "denied": (403, "AccessDenied"),
            }[fault]
            answer = f"<Error><Code>{code}</Code><Message>by the test</Message></Error>".encode()
            self._answer(status, [("Content-Type", "application/xml")], answer, len(answer))
            return
        if fault == "reset":
            self.close_connection = True
            return
        if fault == "late":
            thread = threading.Thread(target=self._forward_late, args=(body,))
            self.session.late.append(thread)
            thread.start()
            self.close_connection = True
            return
        status, headers, content = self._forward(body)
        if fault == "lost":
            self.close_connection = True
            return
        if fault == "cut" and len(content) > 1 and self.command != "HEAD":
            self._answer(status, headers, content[: len(content) // 2], len(content))
            self.close_connection = True
            return
        length = next(
            int(v) for k, v in [*headers, ("content-length", "0")] if k == "content-length"
        )
        self._answer(status, headers, content, length if self.command == "HEAD" else len(content))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - http.server's names

    def _forward_late(self, body: bytes) -> None:
        time.sleep(_LATE_SECONDS)
        self._forward(body)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        address = urlsplit(self.session.upstream)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        with contextlib.closing(connection):
            headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            return response.status, [(k.lower(), v) for k, v in response.getheaders()], content

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, length: int
    ) -> None:
        with contextlib.suppress(ConnectionError):  # the client may be gone
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client hung up
            super().handle()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""
