"""A small S3 of read-only objects with a bandwidth limit, a latency, and faults on demand.

An S3 client of one Lambda function gets about 90 MB/s; moto on loopback gives what the machine
gives. This serves the files of a folder (path-style: /bucket/key) by GET with ranges and
conditions, all connections together within the limit, so that reading can be measured, and its
retries tested, as they would be on AWS.

Run it: python benchmarks/throttled_s3.py FOLDER --mb-per-second 90 --latency-ms 20
It prints its address and serves until it is interrupted.
"""

from __future__ import annotations

import argparse
import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from mypy_boto3_s3 import S3Client

CHUNK = 64 * 1024


class Bandwidth:
    """Bytes per second that all connections share; each waits for its turn."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Wait until ``count`` bytes may be sent."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            # A late wake-up may be caught up, or every one of them would cost bandwidth.
            self._free_at = max(self._free_at, now - 0.02) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)


@dataclass
class State:
    """What the handlers of one server share."""

    root: Path
    bandwidth: Bandwidth
    latency: float
    faults: deque[str] = field(default_factory=deque)
    requests: list[str] = field(default_factory=list)
    served_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)


class ThrottledS3:
    """The server, in threads of this process; a context manager.

    Parameters
    ----------
    root
        Its folders are the buckets.
    mb_per_second
        Bandwidth of all connections together, in 10^6 bytes per second; None for no limit.
    latency_ms
        From a request to its first byte.
    faults
        What happens to the first requests, in order: ``ok``, ``503``, ``cut`` (half the body, then
        the connection closes), ``reset`` (no answer at all), ``stall`` (half the body, then
        silence), ``replace`` (the file is other than it was), ``delete``.
    port
        0 for any that is free.
    """

    def __init__(
        self,
        root: Path,
        *,
        mb_per_second: float | None = None,
        latency_ms: float = 0.0,
        faults: Iterable[str] = (),
        port: int = 0,
    ) -> None:
        rate = None if mb_per_second is None else mb_per_second * 1e6
        self.state = State(root, Bandwidth(rate), latency_ms / 1000, deque(faults))
        self._server = _Server(("127.0.0.1", port), partial(_Handler, self.state))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Endpoint for an S3 client."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def client(self, **config: Any) -> S3Client:
        """Return a client of this server; keywords go to botocore's Config."""
        return client(self.url, **config)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.state.stopping.set()
        self._server.shutdown()
        self._server.server_close()


def client(url: str, **config: Any) -> S3Client:
    """Return an S3 client of the server at ``url``."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=32, **config),
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # five, the default, would make clients wait seconds to connect


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, state: State, *args: Any) -> None:
        self.state = state
        super().__init__(*args)

    def do_GET(self) -> None:
        state = self.state
        with state.lock:
            fault = state.faults.popleft() if state.faults else "ok"
            state.requests.append(f"{self.headers.get('Range', 'all')} {fault}")
        path = state.root / self.path.split("?")[0].lstrip("/")
        time.sleep(state.latency)
        if fault == "reset":
            self.close_connection = True
            return
        if fault == "replace":
            path.write_bytes(path.read_bytes()[::-1])
        if fault == "delete":
            path.unlink()
        if fault == "503":
            self._refuse(503, "SlowDown")
        elif not path.is_file():
            self._refuse(404, "NoSuchKey")
        else:
            self._serve(path, fault)

    def _serve(self, path: Path, fault: str) -> None:
        status = path.stat()
        version = f"{path} {status.st_size} {status.st_mtime_ns}"
        etag = f'"{sha256(version.encode()).hexdigest()[:32]}"'
        if self.headers.get("If-Match", etag) != etag:
            self._refuse(412, "PreconditionFailed")
            return
        first, last = 0, status.st_size - 1
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2]), last)
            if first > last:
                self._refuse(416, "InvalidRange")
                return
        length = last - first + 1
        self.send_response(206)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Range", f"bytes {first}-{last}/{status.st_size}")
        self.end_headers()
        if fault in ("cut", "stall"):
            length //= 2
        self._send(path, first, length)
        if fault == "stall":
            self.state.stopping.wait(60)
        if fault != "ok":
            self.close_connection = True

    def _send(self, path: Path, first: int, length: int) -> None:
        with path.open("rb") as file:
            file.seek(first)
            while length > 0:
                chunk = file.read(min(CHUNK, length))
                self.state.bandwidth.take(len(chunk))
                self.wfile.write(chunk)
                with self.state.lock:
                    self.state.served_bytes += len(chunk)
                length -= len(chunk)

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def handle(self) -> None:
        """Serve a connection; a client that goes away is no error."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def main() -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a folder as a throttled S3.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mb-per-second", type=float, default=90.0)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = ThrottledS3(
        options.folder,
        mb_per_second=options.mb_per_second,
        latency_ms=options.latency_ms,
        port=options.port,
    )
    with server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
