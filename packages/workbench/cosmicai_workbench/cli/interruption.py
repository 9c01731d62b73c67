"""Ctrl-C: the command line answers at once, and says what goes on; only then it cleans up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_notes: list[str | Callable[[], str]] = []


@contextmanager
def if_interrupted(note: str | Callable[[], str]) -> Iterator[None]:
    """Say ``note`` if Ctrl-C ends the block: what goes on without the command, or how to go on.

    A function is asked at the interruption: what is true may change within the block.
    """
    _notes.append(note)
    try:
        yield
    finally:
        _notes.pop()


@contextmanager
def answering() -> Iterator[None]:
    """Answer Ctrl-C in the block. Where the shell had it ignored, it stays ignored."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, _answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _answer(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - the signature is Python's
    note = _notes[-1] if _notes else ""
    told = note if isinstance(note, str) else note()
    # Not by the stream's buffer, which the signal may have interrupted.
    os.write(
        sys.__stderr__.fileno() if sys.__stderr__ else 2,
        f"\ncosmicai: interrupted{told and f'; {told}'}\n".encode(),
    )
    raise KeyboardInterrupt
