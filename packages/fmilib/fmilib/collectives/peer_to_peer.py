"""Group operations over point-to-point messages.

Messages of N ranks, none of them repeated by the channels:

=========  =====================================================  ===========================
operation  messages                                               rounds
=========  =====================================================  ===========================
barrier    2(N-1)                                                 2·ceil(log_32 N)
bcast      N-1 (large: and N-1 for each segment of 256 KiB)       log_32 N; large: log_2 N
gather     N-1                                                    log_32 N
scatter    N-1                                                    1
allgather  2(N-1)                                                 2·log_32 N (N = 2: 1)
exchange   N(N-1)                                                 1
=========  =====================================================  ===========================

Large reductions: `fmilib.collectives.chain`.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Final

from fmilib.backend import Traffic
from fmilib.codec import BUNDLE, NOTHING
from fmilib.collectives.chain import GROUP_RANKS, bounds
from fmilib.collectives.trees import LARGE_DEGREE, SMALL_DEGREE, children, levels, parent
from fmilib.errors import FmiError, FmiMismatch, FmiTimeout, ranks_text
from fmilib.frame import Packet, allocate, pack_bundle, unpack_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fmilib.call import Call

# From here on bandwidth counts more than the number of rounds.
LARGE_BYTES: Final = 32 * 1024
# Pieces of a large broadcast: an inner rank forwards one while it receives the next.
SEGMENT_BYTES: Final = 256 * 1024
# Up to here every rank sends to every other: one round instead of two, as many messages.
ALL_TO_ALL_RANKS: Final = 2

_EMPTY: Final = Packet(NOTHING, b"", 0)


class PeerToPeer(abc.ABC):
    """Collectives for whatever can post a packet to a rank and take one from it.

    Attributes
    ----------
    group_ranks : int
        See `fmilib.channels.base.Channel`.
    degree : int
        Degree of the tree that `gather` goes up.
    awaiting : sequence of int
        World ranks that the operation at hand still needs.
    """

    group_ranks: int | None = GROUP_RANKS
    degree = SMALL_DEGREE
    awaiting: Sequence[int] = ()

    @abc.abstractmethod
    def post(self, call: Call, dst: int, step: int, packet: Packet) -> None:
        """Send one packet of the operation's step ``step``."""

    @abc.abstractmethod
    def take(self, call: Call, src: int, step: int, sink: memoryview | None = None) -> Packet:
        """Receive the packet of the operation's step ``step``."""

    def send(self, call: Call, dst: int, packet: Packet) -> None:
        """Send to one rank; returns when the packet is on its way."""
        self.post(call, dst, 0, packet)

    def recv(self, call: Call, src: int, sink: memoryview | None = None) -> Packet:
        """Receive from one rank, into ``sink`` if the sizes agree."""
        return self.take(call, src, 0, sink)

    def take_all(
        self,
        call: Call,
        sources: Sequence[int],
        step: int,
        sinks: Sequence[memoryview] | None = None,
    ) -> list[Packet]:
        """Take one packet from each source; a time-out names every absent one."""
        taken = []
        worlds = [call.ranks[src] for src in sources]
        try:
            for position, src in enumerate(sources):
                self.awaiting = worlds[position:]
                try:
                    sink = None if sinks is None else sinks[src]
                    taken.append(self.take(call, src, step, sink))
                except FmiTimeout:
                    raise self._absent(call, sources[position:], step) from None
        finally:
            self.awaiting = ()
        return taken

    def _absent(self, call: Call, sources: Sequence[int], step: int) -> FmiError:
        """Look once more at each source, and name those that have nothing for us."""
        absent = [sources[0]]
        for src in sources[1:]:
            try:
                self.take(call, src, step)
            except FmiTimeout:
                absent.append(src)
        ranks = [call.ranks[src] for src in absent]
        return FmiTimeout(
            f"{call}: after {call.timeout:g} s still waiting for {ranks_text(ranks)}", ranks
        )

    def barrier(self, call: Call) -> None:
        """Gather nothing to rank 0 along the tree, and release along it."""
        up = parent(call.rank, 0, call.size, SMALL_DEGREE)
        down = children(call.rank, 0, call.size, SMALL_DEGREE)
        self.take_all(call, down, 0)
        if up is not None:
            self.post(call, up, 0, _EMPTY)
            self.take(call, up, 1)
        for child in down:
            self.post(call, child, 1, _EMPTY)

    def bcast(
        self,
        call: Call,
        packet: Packet | None,
        root: int,
        nbytes: int | None,
        sink: memoryview | None = None,
    ) -> Packet:
        """Send down the tree."""
        if nbytes is not None and nbytes > LARGE_BYTES:
            return self._bcast_segments(call, packet, root, sink)
        up = parent(call.rank, root, call.size, SMALL_DEGREE)
        if up is not None:
            packet = self.take(call, up, 0, sink)
        assert packet is not None
        for child in children(call.rank, root, call.size, SMALL_DEGREE):
            self.post(call, child, 0, packet)
        return packet

    def _bcast_segments(
        self, call: Call, packet: Packet | None, root: int, sink: memoryview | None
    ) -> Packet:
        """Send a large packet down a binary tree in segments, each forwarded on arrival.

        The first frame holds the packet's layout, so a root whose packet has another size than
        the ranks expect is recognised by them as a mismatch, not as a lost byte.
        """
        up = parent(call.rank, root, call.size, LARGE_DEGREE)
        down = children(call.rank, root, call.size, LARGE_DEGREE)
        if up is not None:
            layout = self.take(call, up, 0)
            total = int.from_bytes(layout.data, "little")
            buffer = sink if sink is not None and sink.nbytes == total else allocate(total)
            packet = Packet(layout.code, buffer, layout.count, layout.description)
        assert packet is not None
        data = memoryview(packet.data)
        for child in down:
            size = data.nbytes.to_bytes(8, "little")
            self.post(call, child, 0, Packet(packet.code, size, packet.count, packet.description))
        for step, start in enumerate(range(0, data.nbytes, SEGMENT_BYTES), start=1):
            segment = data[start : start + SEGMENT_BYTES]
            if up is not None and self.take(call, up, step, segment).data is not segment:
                raise FmiMismatch(f"{call}: segment {step} has another size than announced")
            for child in down:
                self.post(call, child, step, Packet(packet.code, segment, segment.nbytes))
        return packet

    def gather(self, call: Call, packet: Packet, root: int, step: int = 0) -> list[Packet] | None:
        """Collect up the tree; inner ranks join what they have."""
        up = parent(call.rank, root, call.size, self.degree)
        down = children(call.rank, root, call.size, self.degree)
        arrived = self.take_all(call, down, step)
        if up is not None and not down:
            self.post(call, up, step, packet)
            return None
        entries = {call.rank: packet}
        for child, received in zip(down, arrived, strict=True):
            if received.code == BUNDLE:
                entries.update(unpack_bundle(received.data))
            else:
                entries[child] = received
        if up is not None:
            data = pack_bundle(entries)
            self.post(call, up, step, Packet(BUNDLE, data, len(entries)))
            return None
        return [entries[rank] for rank in range(call.size)]

    def allgather(self, call: Call, packet: Packet) -> list[Packet]:
        """Gather to rank 0, then send the whole down the tree."""
        if call.size <= ALL_TO_ALL_RANKS:
            return self.exchange(call, [packet] * call.size)
        packets = self.gather(call, packet, 0)
        bundle = None
        if packets is not None:
            data = pack_bundle(dict(enumerate(packets)))
            bundle = Packet(BUNDLE, data, call.size)
        received = self._bcast_step(call, bundle, step=1)
        if packets is not None:
            return packets
        entries = unpack_bundle(received.data)
        return [entries[rank] for rank in range(call.size)]

    def _bcast_step(self, call: Call, packet: Packet | None, step: int) -> Packet:
        up = parent(call.rank, 0, call.size, SMALL_DEGREE)
        if up is not None:
            packet = self.take(call, up, step)
        assert packet is not None
        for child in children(call.rank, 0, call.size, SMALL_DEGREE):
            self.post(call, child, step, packet)
        return packet

    def scatter(self, call: Call, packets: Sequence[Packet] | None, root: int) -> Packet:
        """Send each rank its packet."""
        if packets is None:
            return self.take(call, root, 0)
        for dst, packet in enumerate(packets):
            if dst != call.rank:
                self.post(call, dst, 0, packet)
        return packets[call.rank]

    def exchange(
        self,
        call: Call,
        packets: Sequence[Packet],
        step: int = 0,
        sinks: Sequence[memoryview] | None = None,
    ) -> list[Packet]:
        """Send to all, then receive from all."""
        size, rank = call.size, call.rank
        for distance in range(1, size):  # each rank starts with another receiver
            dst = (rank + distance) % size
            self.post(call, dst, step, packets[dst])
        others = [src for src in range(size) if src != rank]
        received = self.take_all(call, others, step, sinks)
        received.insert(rank, packets[rank])
        return received


def traffic(operation: str, nbytes: int, n: int) -> Traffic:
    """Return what an operation of ``n`` ranks moves by these algorithms."""
    others = n - 1
    height, served = levels(n, SMALL_DEGREE), min(others, SMALL_DEGREE)
    large = nbytes > LARGE_BYTES and n > 1
    if operation == "send":
        return Traffic(1, 1, nbytes, nbytes)
    if operation == "barrier":
        return Traffic(2 * height, 2 * served, 0, 0)
    if operation == "bcast":
        rounds = levels(n, LARGE_DEGREE) if large else height
        factor = min(2, others) if large else served
        return Traffic(rounds, served, factor * nbytes, others * nbytes)
    if operation == "scatter":
        return Traffic(1, others, nbytes, nbytes)
    if operation == "gather":
        return Traffic(height, served, others * nbytes, others * nbytes)
    if operation == "allgather":
        rounds = 1 if n <= ALL_TO_ALL_RANKS else 2 * height
        return Traffic(rounds, 2 * served, n * n * nbytes, 2 * n * n * nbytes)
    if large:  # reduce, allreduce, scan: see `fmilib.collectives.chain`
        groups = len(bounds(n, GROUP_RANKS)) - 1
        members = n // groups
        spread = 1 if operation == "allreduce" and groups > 1 else 0
        return Traffic(
            groups + 1 + spread,
            2 * (members - 1) + groups,
            2 * nbytes * (members - 1 + groups) / members,
            2 * nbytes * others,
        )
    rounds = height if operation == "reduce" else 1 if n <= ALL_TO_ALL_RANKS else 2 * height
    return Traffic(rounds, 2 * served, 2 * others * nbytes, 2 * others * nbytes)
