"""How long work tells its progress, whoever shows it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    Advance = Callable[[int], None]
    Bar = Callable[[str, int, str], AbstractContextManager[Advance]]
    """Called with what is done, of how many, in which unit; yields what advances it."""


def no_bar(what: str, total: int, unit: str) -> AbstractContextManager[Advance]:  # noqa: ARG001
    """Show nothing."""
    return nullcontext(_ignore)


def _ignore(count: int) -> None:
    pass
