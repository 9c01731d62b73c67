"""fmilib's Redis client against real servers, with and without TLS, and against a bad one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
from fmi_support import free_port, stop, wait_for_port
from fmilib.channels.redis import _url
from fmilib.channels.resp import Resp
from fmilib.errors import FmiChannelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None or shutil.which("openssl") is None,
    reason="a Redis server with TLS is missing (Debian: redis-server, openssl)",
)


@pytest.fixture
def tls_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Yield the port of a server that wants TLS and a login."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    port = free_port()
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no",
         "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
         "--requirepass", "p@ss/word", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port, server)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        yield port
    finally:
        stop(server)


@needs_redis
def test_tls_with_a_login(tls_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMI_REDIS_PASSWORD", "p@ss/word")
    client = Resp(_url({"url": f"rediss://localhost:{tls_port}/1"}), 5.0)
    assert client.call(5.0, "SET", "key", b"value" * 100_000) == b"OK"
    assert bytes(client.call(5.0, "GET", "key")) == b"value" * 100_000
    client.close()


@needs_redis
def test_a_wrong_password_and_a_certificate_of_nobody_are_refused(
    tls_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FmiChannelError, match="refused the connection") as wrong:
        Resp(f"rediss://:guess@localhost:{tls_port}", 5.0)
    assert "guess" not in str(wrong.value)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(FmiChannelError, match="certificate"):
        Resp(f"rediss://localhost:{tls_port}", 5.0)


def test_the_environments_password_is_for_urls_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMI_REDIS_PASSWORD", "a/b")
    assert _url({"url": "rediss://host:1"}) == "rediss://:a%2Fb@host:1"
    assert _url({"url": "redis://me:own@host"}) == "redis://me:own@host"
    assert _url({"host": "h", "port": 2}) == "redis://:a%2Fb@h:2/0"


@pytest.mark.parametrize(
    "answer",
    [b"$99999999999999\r\n", b"$many\r\n", b"*99999999999\r\n", b":one\r\n", b"HTTP/1.1 400\r\n"],
)
def test_what_is_not_redis_is_refused_without_making_memory_for_it(answer: bytes) -> None:
    with pytest.raises(FmiChannelError, match=r"of size|does not speak"):
        ask(answer)


def test_a_reply_that_trickles_ends_by_its_time() -> None:
    started = time.monotonic()
    with pytest.raises(FmiChannelError, match="no reply in time"):
        ask(b"$100\r\n", *[b"x"] * 30, pause=0.1, timeout=0.5)
    assert time.monotonic() - started < 2


def ask(*pieces: bytes, pause: float = 0.0, timeout: float = 5.0) -> None:
    """Ask a server that answers with these pieces, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    for piece in pieces:
                        connection.sendall(piece)
                        time.sleep(pause)
                    connection.recv(1)
                    connection.recv(1 << 16)
                except OSError:
                    return  # the client hung up, as it should

        server = threading.Thread(target=serve)
        server.start()
        client = Resp(f"redis://127.0.0.1:{listener.getsockname()[1]}", 5.0)
        try:
            client.call(timeout, "PING")
        finally:
            client.close()
            server.join(10)
