"""Start and stop local clouds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cosmicai.errors import InvalidInput

from cosmicai_workbench.application import TEMPLATE
from cosmicai_workbench.cloud.sandbox import emulator
from cosmicai_workbench.cloud.state import LocalCloudError, Settings, Status, logs_folder, prune

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

STATE_ROOT = Path(".cosmicai")

_START_SECONDS = 90.0
_STOP_SECONDS = 15.0
_KEPT_RUNS = 10
_RUN_PREFIX = "run-"


class LocalCloud:
    """A local cloud that this process starts, and that ends with it.

    Use as a context manager.

    Parameters
    ----------
    parameters
        Values of the template's parameters, over its defaults.
    concurrency
        Sandboxes a function, at most; by default, the number of cores. It is also what the
        template's MaxConcurrency is set to, where it has one.
    buckets
        Buckets to create besides the template's.
    name
        Name of the state folder, by default one of its own for each start.
    root
        Where state folders lie.
    environment
        More variables for every sandbox.
    """

    def __init__(
        self,
        *,
        template: Path = TEMPLATE,
        stack: str = "cosmicai",
        parameters: Mapping[str, str] | None = None,
        concurrency: int | None = None,
        buckets: Sequence[str] = (),
        name: str | None = None,
        root: Path = STATE_ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.concurrency = concurrency or os.cpu_count() or 1
        self.folder = root.resolve() / (name or _unique_name())
        self._named = name is not None
        self._settings = Settings(
            template=str(template.resolve()),
            stack=stack,
            parameters=dict(parameters or {}),
            buckets=list(buckets),
            concurrency=self.concurrency,
            environment=dict(environment or {}),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._status: Status | None = None

    @property
    def status(self) -> Status:
        """Where the cloud is.

        Raises
        ------
        LocalCloudError
            If it is not up.
        """
        if self._status is None:
            raise LocalCloudError(f"the local cloud of {self.folder} is not up")
        return self._status

    @property
    def logs(self) -> Path:
        """Folder of the log streams."""
        return logs_folder(self.folder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, *, detached: bool = False) -> Status:
        """Bring the cloud up and wait until it serves.

        Parameters
        ----------
        detached
            Leave it running when this process ends; end it by :func:`stop`.

        Raises
        ------
        LocalCloudError
            If one is up in the folder already, it does not come up, or the system has no
            emulator.
        InvalidInput
            If the template or a parameter is at fault.
        """
        if (running := Status.read(self.folder)) is not None:
            raise LocalCloudError(
                f"a local cloud is up already in {self.folder}, at {running.endpoint}"
            )
        emulator()  # before anything is made, on a system that has none
        self._prepare()
        with (self.folder / "server.log").open("w") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                [
                    sys.executable,
                    "-m",
                    "cosmicai_workbench.cloud.server",
                    str(self.folder),
                    *([] if detached else ["--tethered"]),
                ],
                stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
                stdout=log,
                stderr=log,
                # The terminal's Ctrl-C goes to the command, which ends the cloud in order.
                start_new_session=True,
            )
        try:
            self._status = self._wait()
        except BaseException:
            self.stop()
            raise
        return self._status

    def stop(self) -> None:
        """End the cloud and all of its sandboxes."""
        process, self._process, self._status = self._process, None, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()  # its sandboxes are tethered to it
            process.wait()
        Status.remove(self.folder)

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._named:
            prune(self.folder.parent, _KEPT_RUNS, _RUN_PREFIX)
        (self.folder / "settings.json").write_text(self._settings.model_dump_json(indent=2))

    def _wait(self) -> Status:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            status = Status.read(self.folder)
            if status is not None:
                return status
            if self._process is None or self._process.poll() is not None:
                break
            time.sleep(0.02)
        log = self.folder / "server.log"
        lines = log.read_text(errors="replace").strip().splitlines() or ["(nothing was written)"]
        fault = f"{InvalidInput.__name__}: "
        if lines[-1].startswith(fault):
            raise InvalidInput(lines[-1].removeprefix(fault))
        raise LocalCloudError(f"the local cloud did not come up; {log} ends: {lines[-1]}")


def stop(folder: Path) -> bool:
    """End the cloud of a state folder; return False if none is up there.

    Raises
    ------
    LocalCloudError
        If it does not end in time.
    """
    status = Status.read(folder)
    if status is None:
        return False
    os.kill(status.process_id, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while status.is_alive(folder):
        if time.monotonic() > deadline:
            raise LocalCloudError(f"process {status.process_id} of {folder} does not end")
        time.sleep(0.05)
    return True


def _unique_name() -> str:
    return f"{_RUN_PREFIX}{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}"
