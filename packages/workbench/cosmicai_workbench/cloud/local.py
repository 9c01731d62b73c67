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
from cosmicai.machine import available_cores

from cosmicai_workbench.application import TEMPLATE
from cosmicai_workbench.cloud.sandbox import emulator
from cosmicai_workbench.cloud.state import (
    Limits,
    LocalCloudError,
    Settings,
    Status,
    clear,
    holder,
    is_free,
    logs_folder,
    prepare,
    prune,
    state_folder,
    tell_process,
)
from cosmicai_workbench.defaults import STACK

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
        Where state folders are.
    environment
        More variables for every sandbox.
    reload
        Replace sandboxes whose source has changed, at their next call.
    limits
        Limits of AWS to keep.
    """

    def __init__(
        self,
        *,
        template: Path = TEMPLATE,
        stack: str = STACK,
        parameters: Mapping[str, str] | None = None,
        concurrency: int | None = None,
        buckets: Sequence[str] = (),
        name: str | None = None,
        root: Path = STATE_ROOT,
        environment: Mapping[str, str] | None = None,
        reload: bool = False,
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
    ) -> None:
        self.concurrency = concurrency or available_cores()
        self.folder = state_folder(root, _unique_name() if name is None else name)
        self._named = name is not None
        self._settings = Settings(
            template=str(template.resolve()),
            stack=stack,
            parameters=dict(parameters or {}),
            buckets=list(buckets),
            concurrency=self.concurrency,
            environment=dict(environment or {}),
            reload=reload,
            limits=limits,
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
        emulator()  # before anything is made, on a system that has none
        if not self._named:
            prune(self.folder.parent, _KEPT_RUNS, _RUN_PREFIX)
        lock = prepare(self.folder, self._settings)
        try:
            self._process = self._launch(lock, detached=detached)
            tell_process(lock, self._process.pid)
        finally:
            os.close(lock)  # the server holds it now
        try:
            self._status = self._wait()
        except BaseException:
            self.stop()
            raise
        return self._status

    def stop(self) -> None:
        """End the cloud and all of its sandboxes."""
        came_up = self._status is not None
        process, self._process, self._status = self._process, None, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        if came_up:
            process.terminate()
        else:
            process.kill()  # it has no sandboxes yet, and would first finish coming up
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()  # its sandboxes are tethered to it
            process.wait()
        clear(self.folder)

    def _launch(self, lock: int, *, detached: bool) -> subprocess.Popen[bytes]:
        with (self.folder / "server.log").open("w") as log:
            return subprocess.Popen(  # noqa: S603 - this program itself
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
                env=server_environment(os.environ),
                pass_fds=(lock,),
                # The terminal's Ctrl-C goes to the command, which ends the cloud in order.
                start_new_session=True,
            )

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
    process = holder(folder)
    if process is None:
        return False
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while not is_free(folder):
        if time.monotonic() > deadline:
            raise LocalCloudError(f"process {process} of {folder} does not end")
        time.sleep(0.05)
    clear(folder)
    return True


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the server: this one, without what is meant for AWS.

    A proxy must not see requests to this machine, and moto's own clients must not look for a
    profile or an endpoint, nor read a file that may be broken.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith("AWS_") and not name.lower().endswith("_proxy")
    }
    nothing = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
    return {**kept, **nothing}


def _unique_name() -> str:
    return f"{_RUN_PREFIX}{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}"
