"""What a communicator shares with its sub-communicators: channels, deadlines, the first failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fmilib.datatypes import hints
from fmilib.errors import FmiClosed, FmiError, FmiOverflow, FmiReductionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fmilib.channels.base import Channel
    from fmilib.model import CostModel, Estimate

# Kept of Lambda's remaining time for reporting an error.
RESERVE_SECONDS = 1.0


class World:
    """The opened channels of a session and how it stands.

    Parameters
    ----------
    model : CostModel
    timeout : float
        Seconds that an operation may take.
    remaining : callable or None
        Returns the seconds that this process still has.
    """

    __slots__ = ("channels", "closed", "failure", "hint", "model", "remaining", "timeout")

    def __init__(
        self, model: CostModel, timeout: float, remaining: Callable[[], float] | None
    ) -> None:
        self.channels: dict[str, Channel] = {}
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
