"""A pool of sandboxes for each function: warm ones first, new ones up to the concurrency."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cosmicai.facts import threads
from cosmicai.machine import available_cores

from cosmicai_workbench.cloud.records import LogStream
from cosmicai_workbench.cloud.sandbox import Outcome, Sandbox, SandboxNotStarted
from cosmicai_workbench.cloud.sources import SourceWatch, source_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cosmicai_workbench.cloud.template import Function

_WATCH_SECONDS = 0.02
_STARTS = 3
"""Tries to start a sandbox: a free port may be taken by another process before it is bound."""


def sandbox_threads(memory_size: int, concurrency: int, cores: int) -> int:
    """Return how many threads a sandbox should use: its memory size's, or its share of the cores.

    Unlike on Lambda, sandboxes share the machine's cores.
    """
    return max(1, min(threads(memory_size), cores // concurrency))


class Throttled(Exception):
    """A call above the account's concurrency: it was not made."""


class Pools:
    """The sandboxes of all functions of a stack.

    Parameters
    ----------
    functions
        The functions to serve.
    environment
        Returns the variables for the sandboxes of a function (region, endpoint, credentials).
    concurrency
        At most this many sandboxes a function; a call beyond that waits for one to be free.
    logs
        Folder of the log streams.
    reload
        Replace a sandbox whose source has changed since it started, at its next call.
    account_concurrency
        Calls at once, of all functions; more are refused. None refuses none: they wait.
    """

    def __init__(
        self,
        functions: tuple[Function, ...],
        environment: Callable[[Function], Mapping[str, str]],
        concurrency: int,
        logs: Path,
        *,
        reload: bool = False,
        account_concurrency: int | None = None,
    ) -> None:
        self._calls = (
            None if account_concurrency is None else threading.BoundedSemaphore(account_concurrency)
        )
        # One thread that outlives every sandbox starts them all; see Sandbox's ``launch``.
        self._launcher = ThreadPoolExecutor(1, thread_name_prefix="launcher")
        self._pools = {
            function.name: _Pool(
                function,
                sandbox_environment(function, environment(function), concurrency),
                concurrency,
                streams_folder(logs, function.code.name),
                self._launcher,
                SourceWatch(source_folders(function)) if reload else None,
            )
            for function in functions
        }
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="memory watch")
        self._watcher.start()

    def __contains__(self, name: str) -> bool:
        return name in self._pools

    def invoke(self, name: str, payload: bytes) -> Outcome:
        """Call a function by its name.

        Raises
        ------
        Throttled
            If as many calls as the account allows are under way.
        """
        if self._calls is None:
            return self._pools[name].invoke(payload)
        if not self._calls.acquire(blocking=False):
            raise Throttled("Rate Exceeded.")
        try:
            return self._pools[name].invoke(payload)
        finally:
            self._calls.release()

    def close(self) -> None:
        """End every sandbox; calls under way fail."""
        self._closed.set()
        for pool in self._pools.values():
            pool.close()
        self._launcher.shutdown(wait=False)

    def _watch(self) -> None:
        """Hold the sandboxes that are at work to their memory size."""
        while not self._closed.wait(_WATCH_SECONDS):
            for pool in self._pools.values():
                pool.watch_memory()


class _Pool:
    """The sandboxes of one function."""

    def __init__(
        self,
        function: Function,
        environment: dict[str, str],
        limit: int,
        logs: Path,
        launcher: ThreadPoolExecutor,
        sources: SourceWatch | None,
    ) -> None:
        self._sources = sources
        self._versions: dict[Sandbox, int] = {}
        self._function = function
        self._environment = environment
        self._logs = logs
        self._launcher = launcher
        self._places = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._idle: list[Sandbox] = []
        self._busy: set[Sandbox] = set()
        self._numbers = itertools.count()
        self._closed = False

    def invoke(self, payload: bytes) -> Outcome:
        with self._places:
            for _ in range(_STARTS - 1):
                try:
                    return self._call(payload)
                except SandboxNotStarted:
                    continue
            return self._call(payload)

    def _call(self, payload: bytes) -> Outcome:
        sandbox = self._take()
        try:
            outcome = sandbox.invoke(payload)
        except BaseException:
            self._discard(sandbox)
            raise
        if outcome.usable:
            with self._lock:
                self._busy.discard(sandbox)
                self._idle.append(sandbox)
        else:
            self._discard(sandbox)
        return outcome

    def _take(self) -> Sandbox:
        """Return the sandbox that was used last, as it is the warmest, or a new one.

        One that died while it was idle is replaced, as Lambda does: it costs no call its retry. So
        is one that runs old code, where sources are watched.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the local cloud is shutting down")
            version = self._sources.version() if self._sources else 0
            while self._idle:
                sandbox = self._idle.pop()
                if sandbox.alive and self._versions[sandbox] == version:
                    break
                self._close(sandbox)
            else:
                sandbox = self._start()
                self._versions[sandbox] = version
            self._busy.add(sandbox)
            return sandbox

    def _start(self) -> Sandbox:
        log = LogStream(self._logs / f"{next(self._numbers)}.log")

        def launch(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
            def start() -> subprocess.Popen[bytes]:
                return subprocess.Popen(*args, **options)  # noqa: S603 - Sandbox's own command

            return self._launcher.submit(start).result()

        return Sandbox(self._function, self._environment, log, launch)

    def _discard(self, sandbox: Sandbox) -> None:
        with self._lock:
            self._busy.discard(sandbox)
            self._close(sandbox)

    def _close(self, sandbox: Sandbox) -> None:
        self._versions.pop(sandbox, None)
        sandbox.close()

    def watch_memory(self) -> None:
        with self._lock:
            busy = list(self._busy)
        for sandbox in busy:
            sandbox.watch_memory()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            sandboxes = [*self._idle, *self._busy]
            self._idle.clear()
        for sandbox in sandboxes:
            sandbox.close()


def streams_folder(logs: Path, step: str) -> Path:
    """Return the folder of a function's log streams, by the name of the function's own folder."""
    return logs / step


def sandbox_environment(
    function: Function, shared: Mapping[str, str], concurrency: int
) -> dict[str, str]:
    """Return the variables of a function's sandboxes: Lambda's, the cloud's, the function's."""
    from cosmicai.engines.registry import engines

    count = str(sandbox_threads(function.memory_size, concurrency, available_cores()))
    layers = [
        str(folder)
        for layer in function.layers
        for folder in (layer, layer / "python")
        if folder.is_dir()
    ]
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "TZ": ":UTC",
        "LAMBDA_TASK_ROOT": str(function.code),
        "PYTHONPATH": os.pathsep.join([str(function.code), *layers]),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(function.timeout),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
        "AWS_LAMBDA_LOG_GROUP_NAME": function.log_group,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        # As `sam local` sets it: Powertools then leaves tracing out.
        "AWS_SAM_LOCAL": "true",
        "INFERENCE_THREADS": count,
        "OMP_NUM_THREADS": count,
        **shared,
        **function.environment,
        # Here every engine is installed, whichever layer a function names.
        "AVAILABLE_ENGINES": ",".join(engines()),
    }
