"""What a channel is: group operations on packets, each with a deadline.

Typed values and the order of evaluation belong to the communicator. A channel moves packets,
checks that each belongs to the operation at hand, and names the ranks that are absent.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fmilib.call import Call
    from fmilib.errors import FmiError
    from fmilib.frame import Packet


class Channel(abc.ABC):
    """Group operations on packets. Ranks are places in ``call.ranks``.

    Attributes
    ----------
    name : str
    allgather_is_one_round : bool
        Whether allgather takes one round trip: a small allreduce is then an allgather and a
        local fold, rather than a gather, a fold at the root and a bcast.
    has_exchange : bool
        Whether `exchange` moves only what each rank needs: large reductions then go by slices.
    group_ranks : int or None
        Ranks of a group, where large reductions go from group to group by `post` and `take`;
        None if the channel serves all ranks at once.
    """

    name: str
    allgather_is_one_round = False
    has_exchange = False
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
        """Return when every rank of the group has called it."""

    @abc.abstractmethod
    def bcast(
        self,
        call: Call,
        packet: Packet | None,
        root: int,
        nbytes: int | None,
        sink: memoryview | None = None,
    ) -> Packet:
        """Return the root's packet on every rank; ``nbytes`` if all ranks know it in advance.

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
