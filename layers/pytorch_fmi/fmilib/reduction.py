"""How reduce, allreduce and scan run over a channel.

Three ways, the same for all three operations; each evaluates from left to right in rank order:

* by slices, for large values: every rank folds one slice of all ranks' values;
* everywhere: every rank that wants a result gets all values and folds them itself;
* at rank 0: it gets all values, folds them, and sends out the result.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from fmilib import codec as codec_module
from fmilib import operations
from fmilib.collectives.peer_to_peer import ALL_TO_ALL_RANKS, LARGE_BYTES
from fmilib.errors import FmiError, FmiMismatch
from fmilib.frame import Buffer, Packet
from fmilib.remote import error_packet, raise_error, try_fold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fmilib.channels.base import Call, Channel
    from fmilib.codec import Codec
    from fmilib.datatypes import func, types


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
        if self._goes_by_slices(packet):
            parts = self._channel.gather(self._call, self._fold_slice(packet), root, 1)
            return None if parts is None else self._join(packet, parts, *self._target(packet))
        packets = self._channel.gather(self._call, packet, root)
        return None if packets is None else self._fold(packets)

    def allreduce(self, packet: Packet) -> Packet:
        """Return the fold of all values on every rank."""
        call, channel = self._call, self._channel
        if self._goes_by_slices(packet):
            mine = self._fold_slice(packet)
            whole, places = self._target(packet)
            return self._join(packet, channel.share(call, mine, 1, places), whole, places)
        if self._everywhere():
            return self._fold(channel.allgather(call, packet))
        packets = channel.gather(call, packet, 0)
        result = None if packets is None else try_fold(lambda: self._fold(packets))
        result = channel.bcast(call, result, 0, None)
        raise_error(result)
        return result

    def scan(self, packet: Packet) -> Packet:
        """Return on each rank the fold of the values up to its own."""
        call, channel = self._call, self._channel
        if self._goes_by_slices(packet):
            received = channel.exchange(call, self._slices(packet))
            parts = channel.exchange(call, self._prefixes(received), 1)
            return self._join(packet, parts, *self._target(packet))
        if self._everywhere():
            return self._fold(channel.allgather(call, packet)[: call.rank + 1])
        packets = channel.gather(call, packet, 0)
        prefixes = None if packets is None else self._prefixes(packets)
        result = channel.scatter(call, prefixes, 0)
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

    def _places(self, packet: Packet, data: Buffer) -> list[memoryview]:
        """Cut ``data``, which is laid out as ``packet``, into one slice a rank."""
        size = self._call.size
        width = packet.nbytes // packet.count
        view = memoryview(data)
        bounds = [packet.count * i // size * width for i in range(size + 1)]
        return [view[a:b] for a, b in itertools.pairwise(bounds)]

    def _target(self, packet: Packet) -> tuple[memoryview, list[memoryview]]:
        """Return memory for the result, and the place of each slice in it."""
        whole = codec_module.allocate(packet.nbytes)
        return whole, self._places(packet, whole)

    def _slices(self, packet: Packet) -> list[Packet]:
        width = packet.nbytes // packet.count
        # The description stays the whole's, so that ranks with other shapes are found out.
        return [
            Packet(packet.code, place, place.nbytes // width, packet.description)
            for place in self._places(packet, packet.data)
        ]

    def _fold_slice(self, packet: Packet) -> Packet:
        """Exchange slices; return this rank's slice reduced, or an error packet."""
        received = self._channel.exchange(self._call, self._slices(packet))
        return try_fold(lambda: operations.reduce(received, self._function, self._codec))

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
        return operations.reduce(packets, self._function, self._codec)

    def _prefixes(self, packets: Sequence[Packet]) -> list[Packet]:
        """Return each rank's prefix; from the first that fails on, the error."""
        prefixes: list[Packet] = []
        try:
            prefixes.extend(operations.scan(packets, self._function, self._codec))
        except FmiError as error:
            prefixes += [error_packet(error)] * (len(packets) - len(prefixes))
        return prefixes
