"""What a channel is: the group operations on packets, one deadline each.

Typed values, evaluation order and the choice of the algorithm belong to the communicator; a
channel moves packets, checks that each belongs to the operation at hand, and names who is absent.
"""

from __future__ import annotations

import abc
import time
from typing import TYPE_CHECKING

from fmilib.frame import KIND_NAMES, Packet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fmilib.errors import FmiError


class Call:
    """One operation of one communicator, as the channel needs it.

    Parameters
    ----------
    kind : int
        A member of `fmilib.frame.Kind`.
    op : int
        The communicator's operation counter; messages count for each pair of ranks.
    comm : int
        The communicator's number.
    ranks : tuple of int
        World ranks of the group, in group order.
    rank : int
        This process's place in ``ranks``.
    timeout : float
        Seconds that the operation may take from now.
    """

    __slots__ = ("comm", "deadline", "kind", "op", "rank", "ranks", "timeout")

    def __init__(
        self, kind: int, op: int, comm: int, ranks: tuple[int, ...], rank: int, timeout: float
    ) -> None:
        self.kind = kind
        self.op = op
        self.comm = comm
        self.ranks = ranks
        self.rank = rank
        self.timeout = timeout
        # Part of the time is kept for finding out, and telling, who is absent.
        self.deadline = time.monotonic() + timeout - min(0.25, 0.1 * timeout)

    def among(self, places: Sequence[int]) -> Call:
        """Return the same operation among some of its ranks, this one included."""
        part = object.__new__(Call)
        part.kind, part.op, part.comm = self.kind, self.op, self.comm
        part.timeout, part.deadline = self.timeout, self.deadline
        part.ranks = tuple(self.ranks[place] for place in places)
        part.rank = list(places).index(self.rank)
        return part

    @property
    def size(self) -> int:
        """Ranks in the group."""
        return len(self.ranks)

    def __str__(self) -> str:
        return f"{KIND_NAMES[self.kind]} (operation {self.op} of communicator {self.comm:#x})"


class Channel(abc.ABC):
    """Group operations on packets. Ranks are places in ``call.ranks``."""

    name: str
    # Whether allgather takes one round trip, so that a small allreduce is an allgather and a
    # local fold, rather than a gather, a fold at the root and a bcast.
    allgather_is_one_round = False
    # Whether `exchange` moves only what each rank needs, so that large reductions go by slices.
    has_exchange = False
    # Ranks of a group where these go from group to group by `post` and `take`; None if the channel
    # serves all at once.
    group_ranks: int | None = None

    @abc.abstractmethod
    def open(self, timeout: float) -> None:
        """Join the session; return when every rank has."""

    @abc.abstractmethod
    def close(self, *, clean: bool) -> None:
        """Leave. ``clean`` is false after an error: then nobody is waited for."""

    @abc.abstractmethod
    def abort(self, error: FmiError) -> None:
        """Tell every rank, at best effort, that this one gave up and why."""

    @abc.abstractmethod
    def send(self, call: Call, dst: int, packet: Packet) -> None:
        """Send to one rank; returns when the packet is on its way."""

    @abc.abstractmethod
    def recv(self, call: Call, src: int, sink: memoryview | None = None) -> Packet:
        """Receive from one rank, into ``sink`` if the sizes agree.

        The packet's data is then ``sink`` itself.
        """

    @abc.abstractmethod
    def barrier(self, call: Call) -> None:
        """Return when every rank of the group has called."""

    @abc.abstractmethod
    def bcast(
        self,
        call: Call,
        packet: Packet | None,
        root: int,
        nbytes: int | None,
        sink: memoryview | None = None,
    ) -> Packet:
        """Return the root's packet on every rank; ``nbytes`` if all ranks know it beforehand.

        It is received into ``sink`` if the sizes agree.
        """

    @abc.abstractmethod
    def gather(self, call: Call, packet: Packet, root: int, step: int = 0) -> list[Packet] | None:
        """Return all packets in group order on the root, None elsewhere."""

    @abc.abstractmethod
    def allgather(self, call: Call, packet: Packet) -> list[Packet]:
        """Return all packets in group order on every rank."""

    @abc.abstractmethod
    def scatter(self, call: Call, packets: Sequence[Packet] | None, root: int) -> Packet:
        """Return to each rank its packet of the root's list."""

    def exchange(
        self,
        call: Call,
        packets: Sequence[Packet],
        step: int = 0,
        sinks: Sequence[memoryview] | None = None,
    ) -> list[Packet]:
        """Give packet ``j`` to rank ``j``, return what every rank gave this one.

        With ``sinks``, what rank ``j`` gives is received into ``sinks[j]`` if the sizes agree.
        """
        raise NotImplementedError(f"the {self.name} channel has no exchange")

    def post(self, call: Call, dst: int, step: int, packet: Packet) -> None:
        """Send one packet of the operation's step ``step``."""
        raise NotImplementedError(f"the {self.name} channel has no steps of its own")

    def take(self, call: Call, src: int, step: int, sink: memoryview | None = None) -> Packet:
        """Receive the packet of the operation's step ``step``."""
        raise NotImplementedError(f"the {self.name} channel has no steps of its own")

    def share(
        self, call: Call, packet: Packet, step: int, sinks: Sequence[memoryview]
    ) -> list[Packet]:
        """Give one packet to every rank, each received into its sink: a large allgather."""
        return self.exchange(call, [packet] * call.size, step, sinks)
