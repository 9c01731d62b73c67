"""How reduce, allreduce and scan run over a channel.

Three ways, the same for all three operations; each evaluates from left to right in rank order:

* by slices, for large values: every rank folds one slice, group after group (`Chain`);
* everywhere: every rank that wants a result gets all values and folds them itself;
* at rank 0: it gets all values, folds them, and sends out the result.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from fmilib import codec as codec_module
from fmilib import operations
from fmilib.codec import ERROR, NOTHING
from fmilib.collectives.chain import Chain
from fmilib.collectives.peer_to_peer import ALL_TO_ALL_RANKS, LARGE_BYTES
from fmilib.errors import FmiError, FmiMismatch
from fmilib.frame import Buffer, Packet, allocate
from fmilib.remote import error_packet, raise_error, try_fold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fmilib.call import Call
    from fmilib.channels.base import Channel
    from fmilib.codec import Codec
    from fmilib.datatypes import func, types


_NOTHING: Final = Packet(NOTHING, b"", 0)


class Reduction:
    """One reduction of one group.

    Parameters
    ----------
    call, channel
        The operation and what it runs over.
    function : func
    expected : types or None
        What every rank's value must be.
    codec : Codec or None
    """

    __slots__ = ("_call", "_channel", "_codec", "_expected", "_function")

    def __init__(
        self,
        call: Call,
        channel: Channel,
        function: func,
        expected: types | None,
        codec: Codec | None,
    ) -> None:
        self._call = call
        self._channel = channel
        self._function = function
        self._expected = expected
        self._codec = codec

    def reduce(self, packet: Packet, root: int) -> Packet | None:
        """Return the fold of all values on the root, None elsewhere."""
        call, channel = self._call, self._channel
        if not self._goes_by_slices(packet):
            packets = channel.gather(call, packet, root)
            return None if packets is None else self._fold(packets)
        chain = Chain(call, channel.group_ranks)
        mine = self._fold_slice(packet, chain)
        if channel.group_ranks is None:
            parts = channel.gather(call, mine, root, 1)
            return (
                None if parts is None else self._join(packet, parts, *self._target(packet, chain))
            )
        if call.rank != root:
            if call.rank in chain.last_owners:
                channel.post(call, root, 1, mine)
            return None
        whole, places = self._target(packet, chain)
        del places[chain.owners :]  # the root's group may have a rank more than the last
        parts = [
            mine if owner == root else channel.take(call, owner, 1, place)
            for owner, place in zip(chain.last_owners, places, strict=True)
        ]
        return self._join(packet, parts, whole, places)

    def allreduce(self, packet: Packet) -> Packet:
        """Return the fold of all values on every rank."""
        call, channel = self._call, self._channel
        if self._goes_by_slices(packet):
            chain = Chain(call, channel.group_ranks)
            mine = self._fold_slice(packet, chain)
            whole, places = self._target(packet, chain)
            column = chain.column
            if column is not None and column.size > 1:
                last = column.size - 1
                result = mine if column.rank == last else None
                mine = channel.bcast(column, result, last, None, places[chain.group.rank])
            return self._join(packet, channel.share(chain.group, mine, 1, places), whole, places)
        if self._everywhere():
            return self._fold(channel.allgather(call, packet))
        packets = channel.gather(call, packet, 0)
        folded = None if packets is None else try_fold(lambda: self._fold(packets))
        whole_packet = channel.bcast(call, folded, 0, None)
        raise_error(whole_packet)
        return whole_packet

    def scan(self, packet: Packet) -> Packet:
        """Return on each rank the fold of the values up to its own."""
        call, channel = self._call, self._channel
        if self._goes_by_slices(packet):
            chain = Chain(call, channel.group_ranks)
            prefixes = self._scan_slice(packet, chain)
            whole, places = self._target(packet, chain)
            parts = channel.exchange(chain.group, prefixes, 1, places)
            return self._join(packet, parts, whole, places)
        if self._everywhere():
            packets = channel.allgather(call, packet)
            operations.check_alike(packets, call.ranks)
            return self._fold(packets[: call.rank + 1])
        gathered = channel.gather(call, packet, 0)
        shares = None if gathered is None else self._prefixes(gathered)
        result = channel.scatter(call, shares, 0)
        raise_error(result)
        codec_module.check(result, self._expected, self._codec, call.ranks[0], str(call))
        return result

    # Choices ----------------------------------------------------------------------------------

    def _goes_by_slices(self, packet: Packet) -> bool:
        """Whether each rank reduces one slice of a large value.

        Two ranks swap whole values instead: as many bytes, one round less.
        """
        return (
            self._channel.has_exchange
            and self._call.size > 2
            and packet.nbytes > LARGE_BYTES
            and operations.is_elementwise(packet, self._function)
        )

    def _everywhere(self) -> bool:
        return self._channel.allgather_is_one_round or self._call.size <= ALL_TO_ALL_RANKS

    # Slices -----------------------------------------------------------------------------------

    def _slices(self, packet: Packet, chain: Chain) -> list[Packet]:
        """Return what each rank of the group gets of this one's value."""
        width = packet.nbytes // packet.count
        # The description stays the whole's, so that ranks with other shapes are found out.
        slices = [
            Packet(packet.code, place, place.nbytes // width, packet.description)
            for place in _cut(packet, packet.data, chain.owners)
        ]
        return slices + [_NOTHING] * (chain.group.size - chain.owners)

    def _gather_slice(self, packet: Packet, chain: Chain) -> tuple[list[Packet], list[int]]:
        """Return what is to be folded for this rank's slice, and the ranks that it is of.

        What the chain has folded so far comes before the group's own.
        """
        channel, group, column = self._channel, chain.group, chain.column
        slices = self._slices(packet, chain)
        size = slices[group.rank].nbytes
        memory = allocate(size * group.size)
        sinks = [memory[i * size : (i + 1) * size] for i in range(group.size)]
        received = channel.exchange(group, slices, 0, sinks)
        if column is None:
            return [], []
        ranks = list(group.ranks)
        if column.rank > 0:
            received.insert(0, channel.take(column, column.rank - 1, 0, allocate(size)))
            ranks.insert(0, column.ranks[column.rank - 1])
        return received, ranks

    def _fold_slice(self, packet: Packet, chain: Chain) -> Packet:
        """Exchange slices; return this rank's slice folded up to its group, or an error packet."""
        packets, ranks = self._gather_slice(packet, chain)
        if chain.column is None:
            return _NOTHING
        mine = packets[0]
        if mine.code != ERROR:
            mine = try_fold(lambda: operations.reduce(packets, self._function, self._codec, ranks))
        self._pass_on(mine, chain.column)
        return mine

    def _scan_slice(self, packet: Packet, chain: Chain) -> list[Packet]:
        """Exchange slices; return the prefixes of this rank's slice, one per rank of the group."""
        packets, ranks = self._gather_slice(packet, chain)
        if chain.column is None:
            return [_NOTHING] * chain.group.size
        prefixes = self._prefixes(packets, ranks)
        self._pass_on(prefixes[-1], chain.column)
        return prefixes[-chain.group.size :]

    def _pass_on(self, partial: Packet, column: Call) -> None:
        if column.rank + 1 < column.size:
            self._channel.post(column, column.rank + 1, 0, partial)

    def _target(self, packet: Packet, chain: Chain) -> tuple[memoryview, list[memoryview]]:
        """Return memory for the result, and the place of each slice in it."""
        whole = allocate(packet.nbytes)
        places = _cut(packet, whole, chain.owners)
        return whole, places + [whole[:0]] * (chain.group.size - chain.owners)

    def _join(
        self,
        packet: Packet,
        parts: Sequence[Packet],
        whole: memoryview,
        places: Sequence[memoryview],
    ) -> Packet:
        """Return the reduced value; parts that were not received in their place are copied."""
        for part, place in zip(parts, places, strict=True):
            raise_error(part)
            if part.data is not place:
                if part.nbytes != place.nbytes:
                    raise FmiMismatch("a reduced slice has another size than its place")
                place[:] = part.data
        return Packet(packet.code, whole, packet.count, packet.description)

    # Folds ------------------------------------------------------------------------------------

    def _fold(self, packets: Sequence[Packet]) -> Packet:
        for rank, packet in enumerate(packets):
            codec_module.check(
                packet, self._expected, self._codec, self._call.ranks[rank], str(self._call)
            )
        return operations.reduce(packets, self._function, self._codec, self._call.ranks)

    def _prefixes(
        self, packets: Sequence[Packet], ranks: Sequence[int] | None = None
    ) -> list[Packet]:
        """Return each rank's prefix; from the first that fails on, the error."""
        prefixes: list[Packet] = []
        try:
            if packets[0].code == ERROR:
                raise_error(packets[0])
            prefixes.extend(operations.scan(packets, self._function, self._codec, ranks))
        except FmiError as error:
            prefixes += [error_packet(error)] * (len(packets) - len(prefixes))
        return prefixes


def _cut(packet: Packet, data: Buffer, count: int) -> list[memoryview]:
    """Cut ``data``, which is laid out as ``packet``, into ``count`` slices of whole elements."""
    width = packet.nbytes // packet.count
    view = memoryview(data)
    bounds = [packet.count * i // count * width for i in range(count + 1)]
    return [view[a:b] for a, b in itertools.pairwise(bounds)]
