"""How long work reports its progress, however that is shown."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Advance = Callable[[int], None]
    Bar = Callable[[str, int, str], AbstractContextManager[Advance]]
    """Called with what is done, of how many, in which unit; yields what advances it."""


_NOTEBOOK_SECONDS = 0.1
"""Between two drawings of a notebook's bar."""


@dataclass(frozen=True)
class Progress:
    """How far a step of some work is, e.g. ``Progress("inference", 3, 11, "ranks")``."""

    step: str
    done: int
    total: int
    unit: str


def no_bar(what: str, total: int, unit: str) -> AbstractContextManager[Advance]:  # noqa: ARG001
    """Show nothing."""
    return nullcontext(_ignore)


def chosen_bar(callback: Callable[[Progress], None] | None) -> Bar:
    """Return a bar that calls a callback; without one, a bar that a notebook shows."""
    if callback is not None:
        return telling(callback)
    kernel = sys.modules.get("ipykernel.zmqshell")  # nobody else has imported it
    return no_bar if kernel is None else notebook_bar


@contextmanager
def notebook_bar(what: str, total: int, unit: str) -> Iterator[Advance]:
    """Show a bar in the output of a notebook's cell."""
    from IPython.display import display
    from rich.progress import Progress as Bars

    bars = Bars(*bar_columns(what, unit), auto_refresh=False)
    task = bars.add_task(what, total=total)
    shown = display(bars.make_tasks_table(bars.tasks), display_id=True)  # type: ignore[no-untyped-call,unused-ignore]
    due = time.monotonic()

    def advance(count: int) -> None:
        nonlocal due
        bars.advance(task, count)
        if bars.finished or time.monotonic() >= due:
            shown.update(bars.make_tasks_table(bars.tasks))
            due = time.monotonic() + _NOTEBOOK_SECONDS

    yield advance


def bar_columns(what: str, unit: str) -> tuple[Any, ...]:
    """Return the columns of a bar of rich's."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return (
        TextColumn(what),
        BarColumn(),
        *((DownloadColumn(),) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def telling(callback: Callable[[Progress], None]) -> Bar:
    """Return a bar that calls a callback: once as the step starts, and at every advance."""

    @contextmanager
    def bar(what: str, total: int, unit: str) -> Iterator[Advance]:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            callback(Progress(what, done, total, unit))

        advance(0)
        yield advance

    return bar


def _ignore(count: int) -> None:
    pass
