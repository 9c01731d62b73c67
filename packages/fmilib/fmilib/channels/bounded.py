"""Blocking calls that end by a deadline, although what they call cannot be interrupted."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class BoundedCaller:
    """Runs calls in a thread of its own, and gives up on those that are late.

    A call that was given up continues in its thread, and its result is dropped; the next one gets
    another thread. The threads are daemons: none holds up the end of the process.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] | None = None

    def call(self, timeout: float, function: Callable[[], Any]) -> Any:
        """Return what ``function`` returns, or raise what it raises.

        Raises
        ------
        TimeoutError
            It has not ended after ``timeout`` seconds.
        """
        answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answer.put((function(), None))
            except BaseException as error:  # noqa: BLE001 - raised where the caller waits
                answer.put((None, error))

        if self._tasks is None:
            self._tasks = queue.SimpleQueue()
            threading.Thread(target=_work, args=(self._tasks,), daemon=True).start()
        self._tasks.put(run)
        try:
            result, error = answer.get(timeout=max(0.001, timeout))
        except queue.Empty:
            self.close()
            raise TimeoutError(f"no answer within {timeout:.3g} s") from None
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """End the thread, after the call that it is in."""
        if self._tasks is not None:
            self._tasks.put(None)
            self._tasks = None


def _work(tasks: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (task := tasks.get()) is not None:
        task()
