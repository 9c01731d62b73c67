"""What a communicator shares with its sub-communicators: channels, deadlines, the first failure."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from fmilib.datatypes import hints
from fmilib.errors import FmiAborted, FmiClosed, FmiError, FmiOverflow, FmiReductionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fmilib.channels.base import Channel
    from fmilib.costs import CostModel, Estimate

# Kept of Lambda's remaining time for reporting an error.
RESERVE_SECONDS = 1.0


class World:
    """The opened channels of a session and its state.

    Parameters
    ----------
    rank : int
    model : CostModel
    timeout : float
        Seconds that an operation may take.
    remaining : callable or None
        Returns the seconds that this process still has.
    """

    __slots__ = ("channels", "closed", "failure", "hint", "model", "rank", "remaining", "timeout")

    def __init__(
        self,
        rank: int,
        model: CostModel,
        timeout: float,
        remaining: Callable[[], float] | None,
    ) -> None:
        self.channels: dict[str, Channel] = {}
        self.rank = rank
        self.model = model
        self.timeout = timeout
        self.remaining = remaining
        self.hint = hints.fast
        self.failure: FmiError | None = None
        self.closed = False

    def time_left(self) -> float:
        """Return the seconds that an operation may take."""
        if self.remaining is None:
            return self.timeout
        return max(0.01, min(self.timeout, self.remaining() - RESERVE_SECONDS))

    def estimates(self, operation: str, nbytes: int, ranks: int) -> list[Estimate]:
        """Return what an operation is expected to take on each channel, the choice first."""
        return self.model.rank(list(self.channels), operation, nbytes, ranks, self.hint)

    def choose(self, operation: str, nbytes: int, ranks: int) -> Channel:
        """Return the channel for an operation."""
        if len(self.channels) == 1:
            (channel,) = self.channels.values()
            return channel
        return self.channels[self.estimates(operation, nbytes, ranks)[0].channel]

    def check(self, name: str) -> None:
        """Raise unless operations may begin."""
        if self.failure is not None:
            raise self.failure
        if self.closed:
            raise FmiClosed(f"the communicator {name!r} is closed")

    def note(self, channel: Channel, error: FmiError) -> None:
        """Break the communicator, unless all ranks see the error and stay in step."""
        if not isinstance(error, FmiOverflow | FmiReductionError) and self.failure is None:
            self.failure = error
            channel.abort(error)

    def opened(self) -> None:
        """Note that the channels are open: the end of the process closes them."""
        _open.add(self)

    def abort(self, error: FmiError) -> None:
        """Break the communicator on all ranks, unless it is broken or closed."""
        if self.failure is None and not self.closed:
            self.failure = error
            for channel in self.channels.values():
                channel.abort(error)

    def close(self) -> None:
        """Close the channels, each whatever the others say; the first error is raised."""
        if self.closed:
            return
        self.closed = True
        _open.discard(self)
        with contextlib.ExitStack() as stack:
            for channel in self.channels.values():
                stack.callback(channel.close, clean=self.failure is None)


_open: set[World] = set()  # the worlds of this process that are not closed


def _close_all() -> None:
    """Close what a program that ends has left open, so that it can run again at once.

    If it ends with an exception, the other ranks are notified.
    """
    failed = getattr(sys, "last_value", None) if not hasattr(sys, "ps1") else None
    # Over S3, a rank waits for those above it when it closes: here these are threads.
    for world in sorted(_open, key=lambda world: -world.rank):
        if failed is not None:
            world.abort(
                FmiAborted(
                    f"rank {world.rank} ended with {type(failed).__name__}: {failed}", [world.rank]
                )
            )
        with contextlib.suppress(FmiError):  # nobody is left to notify
            world.close()


def _forget_all() -> None:
    """Make the copies that a forked process has unusable: the connections are its parent's."""
    for world in _open:
        world.failure = FmiClosed(
            "the communicator belongs to the process that this one was forked from; join again here"
        )
    _open.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
