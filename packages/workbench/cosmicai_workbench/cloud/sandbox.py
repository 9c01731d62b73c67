"""One sandbox: AWS's Lambda Runtime Interface Emulator and the function's runtime behind it.

The emulator speaks the Runtime API, keeps the time-out and starts the runtime at the first call,
as Lambda does. What it does not do is done here: the memory is measured and limited, the REPORT
line says what was measured, and a failed runtime ends the sandbox.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import platform
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cosmicai_workbench.cloud import tether
from cosmicai_workbench.cloud.records import LogStream, Report, peak_memory, start_line
from cosmicai_workbench.cloud.state import LocalCloudError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cosmicai_workbench.cloud.template import Function

TETHER = Path(tether.__file__)
_PATH = "/2015-03-31/functions/function/invocations"
_START_SECONDS = 20.0
_INIT_SECONDS = 120.0
"""How long the start of the runtime may take on a busy machine, over the function's time-out."""
_LAST_LINES_SECONDS = 1.0
_TIMED_OUT = re.compile(r"Task timed out after [\d.]+ seconds")
_INIT_REPORT = re.compile(r"INIT REPORT\(durationMs: ([\d.]+)\)")
_INVOKE_DONE = re.compile(r"INVOKE RTDONE\(status: \w+, .*duration: ([\d.]+)ms\)")
_START = re.compile(r"START RequestId: (\S+)")
_HANDLER_ERROR = {"errorMessage", "errorType", "requestId", "stackTrace"}
"""Keys of what awslambdaric answers when the handler raised; the emulator flags it nowhere else."""


@dataclass(frozen=True)
class Outcome:
    """What a call came to.

    ``error`` is None, or Lambda's ``X-Amz-Function-Error``; ``usable`` says whether the sandbox
    may serve another call.
    """

    payload: bytes
    report: Report
    error: str | None = None
    usable: bool = True


def emulator() -> Path:
    """Return the path of the Runtime Interface Emulator, which comes inside aws-sam-cli.

    Raises
    ------
    LocalCloudError
        On a system that AWS has no emulator for.
    """
    kinds = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
    machine = platform.machine().lower()
    if platform.system() != "Linux" or machine not in kinds:
        raise LocalCloudError(
            "the local cloud needs Linux on x86_64 or arm64, for which AWS publishes its Lambda "
            f"emulator; this is {platform.system()} on {machine}"
        )
    package = importlib.util.find_spec("samcli")
    if package is None or package.origin is None:
        raise LocalCloudError("aws-sam-cli is not installed: it carries the Lambda emulator")
    return Path(package.origin).parent / "local" / "rapid" / f"aws-lambda-rie-{kinds[machine]}"


def loopback_host() -> str:
    """Return a random address of the loopback network, 127.0.0.0/8.

    The emulator asks nobody who they are. A web page that tried to reach it would have to guess the
    address as well as the port. Another user of the machine could look them up.
    """
    return f"127.{secrets.randbelow(256)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"


def free_port(host: str) -> int:
    """Return a TCP port of a loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class SandboxNotStarted(RuntimeError):
    """The emulator ended before it listened, e.g. because another process took its port."""


class Sandbox:
    """One execution environment: it serves one call at a time.

    Parameters
    ----------
    function
        What to run.
    environment
        Variables of the sandbox, the function's own included; nothing is inherited.
    log
        Where its lines go.
    launch
        Starts a process, as :class:`subprocess.Popen` does. It must do so from a thread that lives
        as long as the sandbox may: the kernel ends a tethered process with the *thread* that
        started it.
    """

    def __init__(
        self,
        function: Function,
        environment: dict[str, str],
        log: LogStream,
        launch: Callable[..., subprocess.Popen[bytes]],
    ) -> None:
        self._function = function
        self._log = log
        host = loopback_host()
        port, runtime_port = free_port(host), free_port(host)
        tethered = [sys.executable, "-IS", str(TETHER)]
        self._process = launch(
            [
                *tethered,
                str(emulator()),
                "--runtime-interface-emulator-address",
                f"{host}:{port}",
                "--runtime-api-address",
                f"{host}:{runtime_port}",
                *tethered,
                sys.executable,
                "-m",
                "awslambdaric",
                function.handler,
            ],
            cwd=function.code,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._runtime: int | None = None
        self._request_id, self._payload = "", b""
        self._init_duration: float | None = None
        self._duration: float | None = None
        self._done = threading.Event()
        self._out_of_memory = False
        self._peak = 0  # MB
        self._last_words: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, take), daemon=True)
            for stream, take in (
                (self._process.stdout, self._take_output),
                (self._process.stderr, self._take_emulator_line),
            )
        ]
        for reader in self._readers:
            reader.start()
        self._connection = http.client.HTTPConnection(host, port)

    def invoke(self, payload: bytes) -> Outcome:
        """Call the function and wait for its answer.

        Raises
        ------
        SandboxNotStarted
            If there is no sandbox to call it in; nothing was called.
        OSError
            If what it said could not be written, e.g. as the disk is full.
        """
        if self._connection.sock is None:
            self._connect()
        self._done.clear()
        self._duration = self._init_duration = None
        self._request_id, self._payload = "", payload
        begin = time.monotonic()
        try:
            status, body = self._post(payload)
        except (OSError, http.client.HTTPException) as lost:
            status, body = 0, str(lost).encode()
        elapsed = (time.monotonic() - begin) * 1000
        self.watch_memory()
        answered = status == 200 and not _is_time_out(body) and not self._out_of_memory
        # What the function said last comes before its report: the answer overtakes the lines in
        # the pipes by microseconds, and those of a sandbox that is lost end with it.
        if answered:
            self._done.wait(_LAST_LINES_SECONDS)
        else:
            self._end()
        answer, error, state = self._judge(status, body)
        report = Report(
            request_id=self._request_id or str(uuid.uuid4()),
            duration=self._duration if self._duration is not None else elapsed,
            memory_size=self._function.memory_size,
            max_memory_used=min(self._peak, self._function.memory_size),
            init_duration=self._init_duration,
            status=state,
        )
        self._log.write(report.line())
        if (fault := self._log.fault) is not None:
            reason = f"the logs of {self._function.name} cannot be written: {fault.strerror}"
            raise OSError(fault.errno, reason)
        return Outcome(answer, report, error, usable=state is None)

    @property
    def alive(self) -> bool:
        """Whether neither emulator nor runtime has ended; a runtime that starts counts as alive."""
        if self._process.poll() is not None:
            return False
        return self._runtime is None or peak_memory(self._runtime) is not None

    def watch_memory(self) -> None:
        """Take the peak memory, and end the runtime if that is over the memory size."""
        used = peak_memory(self._runtime) if self._runtime is not None else None
        if used is None:
            return
        self._peak = max(self._peak, used)
        if used > self._function.memory_size:
            self._out_of_memory = True
            _kill(self._runtime)

    def close(self) -> None:
        """End emulator and runtime, now."""
        self._end()
        self._connection.close()
        self._log.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        _kill(self._runtime)
        for reader in self._readers:
            reader.join(_LAST_LINES_SECONDS)

    # The call

    def _post(self, payload: bytes) -> tuple[int, bytes]:
        connection = self._connection
        connection.sock.settimeout(self._function.timeout + _INIT_SECONDS)
        connection.request("POST", _PATH, body=payload)
        response = connection.getresponse()
        return response.status, response.read()

    def _connect(self) -> None:
        """Connect to the emulator, which takes some milliseconds to listen."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                return self._connection.connect()
            except ConnectionRefusedError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    words = " | ".join(self._last_words[-3:]) or "it said nothing"
                    raise SandboxNotStarted(
                        f"no sandbox of {self._function.name}: {words}"
                    ) from None
            time.sleep(0.005)

    def _judge(self, status: int, body: bytes) -> tuple[bytes, str | None, str | None]:
        """Return payload, function error and (for a sandbox that is lost) the report's status."""
        if self._out_of_memory:
            return self._failure(
                "Runtime.OutOfMemory",
                f"Runtime exited with error: signal: killed (over {self._function.memory_size} MB)",
                "error",
            )
        text = body.decode(errors="replace")
        if status == 200 and _is_time_out(body):
            return self._failure("Sandbox.Timedout", text, "timeout")
        if status == 200:
            return body, "Unhandled" if _is_handler_error(body) else None, None
        try:
            told = json.loads(text)
            kind, message = told["errorType"], told["errorMessage"]
        except (ValueError, TypeError, KeyError):
            # The emulator itself is gone, or refuses: what it said last says why.
            kind = "Runtime.ExitError"
            message = " | ".join([text, *self._last_words[-3:]])
        return self._failure(kind, message, "error")

    def _failure(self, kind: str, message: str, state: str) -> tuple[bytes, str, str]:
        if "RequestId: " not in message:
            message = f"RequestId: {self._request_id} Error: {message}"
        self._log.write(f"{message} {kind}")
        payload = {"errorType": kind, "errorMessage": message}
        return json.dumps(payload).encode(), "Unhandled", state

    # What emulator and runtime say

    def _read(self, stream: IO[bytes] | None, take: Callable[[str], None]) -> None:
        for line in stream or ():
            take(line.decode(errors="replace").rstrip("\n"))

    def _take_output(self, line: str) -> None:
        if line.startswith(tether.PROCESS_ID_MARK):
            process_id = int(line.removeprefix(tether.PROCESS_ID_MARK))
            if process_id != self._process.pid:
                self._runtime = process_id
        elif line.startswith("REPORT RequestId: "):
            self._done.set()  # ours follows, with what was measured
        elif line:
            if match := _START.match(line):
                self._request_id = match[1]
                line = start_line(match[1], self._payload)
            self._log.write(line)

    def _take_emulator_line(self, line: str) -> None:
        if match := _INIT_REPORT.search(line):
            self._init_duration = float(match[1])
        elif match := _INVOKE_DONE.search(line):
            self._duration = float(match[1])
        elif "[ERROR]" in line or "[WARNING]" in line or "[FATAL]" in line:
            self._last_words = [*self._last_words[-9:], line]


def _is_time_out(body: bytes) -> bool:
    return _TIMED_OUT.fullmatch(body.decode(errors="replace")) is not None


def _is_handler_error(body: bytes) -> bool:
    if not body.startswith(b'{"errorMessage"'):
        return False
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and set(answer) == _HANDLER_ERROR


def _kill(process_id: int | None) -> None:
    if process_id is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
