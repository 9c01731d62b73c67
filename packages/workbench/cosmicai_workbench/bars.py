"""How long work tells its progress, whoever shows it."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Advance = Callable[[int], None]
    Bar = Callable[[str, int, str], AbstractContextManager[Advance]]
    """Called with what is done, of how many, in which unit; yields what advances it."""


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


def telling(callback: Callable[[Progress], None]) -> Bar:
    """Return a bar that tells a callback: once as the step starts, and at every advance."""

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
