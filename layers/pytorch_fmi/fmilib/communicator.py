"""The typed communicator: values in, values out, over whichever channel suits.

Everything that ranks must agree on is decided here from what they all know: the operation, the
types, the group's size, the configuration and the hint.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from fmilib import codec as codec_module
from fmilib import operations
from fmilib.channels import open_channel
from fmilib.channels.base import Call, Channel
from fmilib.codec import ARRAY, BYTES, ERROR, OBJECT, Codec, decode, encode
from fmilib.collectives.peer_to_peer import ALL_TO_ALL_RANKS, LARGE_BYTES
from fmilib.config import Configuration
from fmilib.datatypes import datatypes, func, hints, types
from fmilib.errors import (
    BY_NAME,
    FmiAborted,
    FmiClosed,
    FmiError,
    FmiMismatch,
    FmiOverflow,
    FmiReductionError,
    FmiTimeout,
)
from fmilib.frame import KIND_NAMES, Kind, Packet
from fmilib.model import CostModel, Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

# Kept of Lambda's remaining time for reporting an error.
RESERVE_SECONDS = 1.0


class _World:
    """What a communicator shares with its sub-communicators."""

    __slots__ = ("channels", "closed", "failure", "hint", "model", "remaining", "timeout")

    def __init__(
        self,
        channels: dict[str, Channel],
        model: CostModel,
        timeout: float,
        remaining: Callable[[], float] | None,
    ) -> None:
        self.channels = channels
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


class Communicator:
    """A group of ranks that exchange messages.

    Creating it joins the session on every enabled channel and waits until all ranks have.
    A communicator belongs to one thread. After `FmiTimeout` (of a collective), `FmiPeerLost`,
    `FmiMismatch`, `FmiAborted` or `FmiChannelError` it is broken, on every rank: all later calls
    raise the same error, and ranks that go on do so in a new session or ``epoch``.

    Parameters
    ----------
    peer_id, num_peers : int
        This rank, from 0, and how many there are.
    config_path : path or mapping
        The JSON configuration of the C++ library, see `fmilib.config`.
    comm_name : str
        Name of the communicator; ranks of one name talk to each other.
    faas_memory : int
        The function's memory in MiB, for the price.
    session : str, optional
        Name of this run, unique to it (an execution's id). Default ``FMI_SESSION``. With it a
        second process of a rank is refused; without, it is taken for the next run.
    epoch : int
        Number of the attempt within a session, when all ranks start over.
    timeout : float, optional
        Seconds that an operation may take; default ``FMI_TIMEOUT``, else the configuration's
        largest ``max_timeout``, else 30.
    remaining : callable, optional
        Returns the seconds this process still has (Lambda's remaining time); an operation ends
        a second before that.
    token : str, optional
        The rendezvous server's shared token; default ``FMI_TOKEN``.

    Raises
    ------
    FmiConfigError, FmiTimeout, FmiDuplicateRank, FmiDenied, FmiChannelError, FmiAborted
    """

    def __init__(
        self,
        peer_id: int,
        num_peers: int,
        config_path: str | os.PathLike[str] | Mapping[str, Any] | Configuration,
        comm_name: str,
        faas_memory: int = 128,
        *,
        session: str | None = None,
        epoch: int = 0,
        timeout: float | None = None,
        remaining: Callable[[], float] | None = None,
        token: str | None = None,
    ) -> None:
        peer_id, num_peers = int(peer_id), int(num_peers)
        if not 0 <= peer_id < num_peers:
            raise ValueError(f"rank {peer_id} is not one of {num_peers} ranks (0 … size-1)")
        configuration = (
            config_path if isinstance(config_path, Configuration) else Configuration(config_path)
        )
        session = session if session is not None else os.environ.get("FMI_SESSION")
        if timeout is None:
            given = os.environ.get("FMI_TIMEOUT")
            timeout = float(given) if given else configuration.timeout
        self.name = comm_name
        self._rank = peer_id
        self._ranks = tuple(range(num_peers))
        self._comm = _number(comm_name)
        self._operations = 0
        self._splits = 0
        self._sent: dict[int, int] = {}
        self._received: dict[int, int] = {}
        self._to_self: deque[Packet] = deque()
        self._last: tuple[str, int] | None = None
        channels: dict[str, Channel] = {}
        model = CostModel(configuration.model, faas_memory)
        self._world = _World(channels, model, timeout, remaining)
        deadline = time.monotonic() + self._world.time_left()
        try:
            for name, parameters in configuration.backends.items():
                channel = open_channel(
                    name,
                    parameters,
                    session=f"{session or ''}/{comm_name}",
                    strict=session is not None,
                    epoch=epoch,
                    rank=peer_id,
                    size=num_peers,
                    timeout=timeout,
                    token=token if token is not None else os.environ.get("FMI_TOKEN"),
                )
                channel.open(max(0.01, deadline - time.monotonic()))
                channels[name] = channel
        except BaseException:
            for channel in channels.values():
                channel.close(clean=False)
            raise

    # About the group ----------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """Number of this process in the group."""
        return self._rank

    @property
    def size(self) -> int:
        """Ranks in the group."""
        return len(self._ranks)

    def hint(self, hint: hints) -> None:
        """Choose channels by time (``hints.fast``, the default) or price (``hints.cheap``)."""
        if not isinstance(hint, hints):
            raise TypeError(f"hint() takes a member of fmi.hints, not {hint!r}")
        self._world.hint = hint

    def explain(self, operation: str | None = None, nbytes: int = 8) -> list[Estimate]:
        """Return the estimates of time and price for an operation, the chosen channel first.

        Parameters
        ----------
        operation : str, optional
            ``"send"``, ``"barrier"``, ``"bcast"``, …; default the last one, with its size.
        nbytes : int
            Bytes of one rank's value.
        """
        if operation is None:
            operation, nbytes = self._last or ("barrier", 0)
        if operation == "recv":
            operation = "send"
        if operation not in KIND_NAMES.values():
            raise ValueError(f"unknown operation {operation!r}")
        world = self._world
        return world.model.rank(list(world.channels), operation, nbytes, self.size, world.hint)

    # Point to point -----------------------------------------------------------------------

    def send(
        self, obj: Any, dst: int, types: types | None = None, *, codec: Codec | None = None
    ) -> None:
        """Send a value to rank ``dst``. Returns when it is on its way, not when it is received."""
        self._check_rank(dst, "dst")
        packet = encode(obj, types, codec)
        size = types.nbytes if types is not None else None
        call, channel = self._begin(Kind.MESSAGE, size, self._sent.get(dst, 0))
        try:
            if dst == self._rank:
                self._to_self.append(packet.copy())
            else:
                channel.send(call, dst, packet)
        except FmiError as error:
            raise self._failed(channel, error) from error.__cause__
        self._sent[dst] = call.op + 1

    def recv(
        self,
        src: int,
        types: types | None = None,
        *,
        codec: Codec | None = None,
        out: Any | None = None,
    ) -> Any:
        """Return the next value that rank ``src`` sent to this one.

        After `FmiTimeout` the call may be repeated: nothing is lost or mixed up. ``out`` is a
        contiguous array that the value is received into.
        """
        self._check_rank(src, "src")
        size = types.nbytes if types is not None else None
        call, channel = self._begin(Kind.MESSAGE, size, self._received.get(src, 0))
        sink = None if out is None else _bytes_of(out)
        try:
            packet = self._own(sink) if src == self._rank else channel.recv(call, src, sink)
        except FmiTimeout:
            raise
        except FmiError as error:
            raise self._failed(channel, error) from error.__cause__
        # The message is consumed even if it is not what was expected: the next one is next.
        self._received[src] = call.op + 1
        codec_module.check(packet, types, codec, src, str(call))
        if out is None:
            return decode(packet, codec)
        assert sink is not None
        _check_received_into(out, sink, packet, src, call)
        return out

    # Collectives --------------------------------------------------------------------------

    def barrier(self) -> None:
        """Return when every rank has called it."""
        call, channel = self._begin(Kind.BARRIER, 0)
        if len(self._ranks) > 1:
            try:
                channel.barrier(call)
            except FmiError as error:
                raise self._failed(channel, error) from error.__cause__

    def bcast(
        self,
        obj: Any,
        root: int,
        types: types | None = None,
        *,
        codec: Codec | None = None,
        out: Any | None = None,
    ) -> Any:
        """Return the root's value on every rank; ``obj`` of other ranks is ignored.

        With ``types(…, n)``, or with ``out``, a contiguous array on every rank that the value is
        received into, all know the size, and large values take the faster way.
        """
        self._check_rank(root, "root")
        size = types.nbytes if types is not None else None if out is None else out.nbytes
        call, channel = self._begin(Kind.BCAST, size)
        packet, problem, sink = None, None, None
        if self._rank == root:
            packet, problem = self._try_encode(lambda: encode(obj, types, codec))
        elif out is not None:
            sink = _bytes_of(out)
        try:
            if self.size == 1:
                assert packet is not None
                received = packet
            else:
                received = channel.bcast(call, packet, root, size, sink)
            self._raise_remote(received, problem)
            source = self._ranks[root]
            codec_module.check(received, types, codec, source, str(call))
            if sink is not None:
                _check_received_into(out, sink, received, source, call)
        except FmiError as error:
            raise self._failed(channel, error) from error.__cause__
        if sink is not None:
            return out
        if self._rank == root and received.code in (ARRAY, OBJECT):
            return obj
        return decode(received, codec)

    def gather(
        self, obj: Any, root: int, types: types | None = None, *, codec: Codec | None = None
    ) -> list[Any]:
        """Return all ranks' values in rank order on the root; an empty list elsewhere.

        As in the C++ binding, lists are joined into one list.
        """
        self._check_rank(root, "root")
        packet = encode(obj, types, codec)
        call, channel = self._begin(Kind.GATHER, types.nbytes if types is not None else None)
        try:
            if self.size == 1:
                packets: list[Packet] | None = [packet]
            else:
                packets = channel.gather(call, packet, root)
            return [] if packets is None else self._decode_all(packets, types, codec, call)
        except FmiError as error:
            raise self._failed(channel, error) from error.__cause__

    def allgather(
        self, obj: Any, types: types | None = None, *, codec: Codec | None = None
    ) -> list[Any]:
        """Return all ranks' values in rank order on every rank; lists are joined."""
        packet = encode(obj, types, codec)
        call, channel = self._begin(Kind.ALLGATHER, types.nbytes if types is not None else None)
        try:
            packets = [packet] if self.size == 1 else channel.allgather(call, packet)
            return self._decode_all(packets, types, codec, call)
        except FmiError as error:
            raise self._failed(channel, error) from error.__cause__

    def scatter(
        self, objs: Any, root: int, types: types | None = None, *, codec: Codec | None = None
    ) -> Any:
        """Return to each rank its share of the root's ``objs``.

        Lists (``types(…_list, n)``, n the whole length, as in the C++ binding) and arrays are
        cut into equal parts, along the first axis; any other sequence holds one value a rank.
        """
        self._check_rank(root, "root")
        total = types.num_objects if types is not None and types.is_list else None
        if total is not None and total % self.size:
            raise ValueError(f"scatter: {total} elements do not divide among {self.size} ranks")
        size = None if total is None else 8 * total // self.size
        call, channel = self._begin(Kind.SCATTER, size)
        packets, problem = None, None
        if self._rank == root:
            packets, problem = self._encode_shares(objs, types, codec)
        try:
            if self.size == 1:
                assert packets is not None
                received = packets[0]
            else:
                received = channel.scatter(call, packets, root)
            self._raise_remote(received, problem)
            share = self._share_types(types)
            codec_module.check(received, share, codec, self._ranks[root], str(call))
        except FmiError as error:
            raise self._failed(channel, error) from error.__cause__
        return decode(received, codec)

    def reduce(
        self,
        obj: Any,
        root: int,
        func: func,
        types: types | None = None,
        *,
        codec: Codec | None = None,
    ) -> Any:
        """Return the reduction of all ranks' values on the root; None elsewhere.

        Evaluated from left to right in rank order; see `fmilib.func`.
        """
        self._check_rank(root, "root")
        packet = encode(obj, types, codec)
        call, channel = self._begin_reduction(Kind.REDUCE, packet)
        try:
            if self.size == 1:
                result: Packet | None = packet
            elif self._goes_by_slices(channel, packet, func):
                result = self._reduce_slices(call, channel, packet, root, func, codec)
            else:
                packets = channel.gather(call, packet, root)
                result = None if packets is None else self._fold(packets, func, codec, types, call)
        except FmiError as error:
            raise self._failed(channel, error) from error.__cause__
        return None if result is None else decode(result, codec)

    def allreduce(
        self, obj: Any, func: func, types: types | None = None, *, codec: Codec | None = None
    ) -> Any:
        """Return the reduction of all ranks' values on every rank, bit for bit the same."""
        packet = encode(obj, types, codec)
        call, channel = self._begin_reduction(Kind.ALLREDUCE, packet)
        try:
            if self.size == 1:
                result = packet
            elif self._goes_by_slices(channel, packet, func):
                result = self._allreduce_slices(call, channel, packet, func, codec)
            elif channel.allgather_is_one_round or self.size <= ALL_TO_ALL_RANKS:
                packets = channel.allgather(call, packet)
                result = self._fold(packets, func, codec, types, call)
            else:
                result = self._reduce_and_bcast(call, channel, packet, func, codec, types)
        except FmiError as error:
            raise self._failed(channel, error) from error.__cause__
        return decode(result, codec)

    def scan(
        self, obj: Any, func: func, types: types | None = None, *, codec: Codec | None = None
    ) -> Any:
        """Return the inclusive prefix reduction: rank i gets ``f(… f(x0, x1) …, xi)``."""
        packet = encode(obj, types, codec)
        call, channel = self._begin_reduction(Kind.SCAN, packet)
        try:
            if self.size == 1:
                result = packet
            elif self._goes_by_slices(channel, packet, func):
                result = self._scan_slices(call, channel, packet, func, codec)
            elif channel.allgather_is_one_round or self.size <= ALL_TO_ALL_RANKS:
                packets = channel.allgather(call, packet)[: self._rank + 1]
                result = self._fold(packets, func, codec, types, call)
            else:
                result = self._scan_at_root(call, channel, packet, func, codec, types)
        except FmiError as error:
            raise self._failed(channel, error) from error.__cause__
        return decode(result, codec)

    # Groups and the end -------------------------------------------------------------------

    def split(self, color: int | None, key: int | None = None) -> Communicator | None:
        """Return a communicator of the ranks that gave the same ``color``, ordered by ``key``.

        Every rank must call it; one that gives None gets None. The new communicator shares the
        channels: closing the first one closes all.
        """
        mine = [self._rank, -1 if color is None else int(color), key if key is not None else 0]
        if color is not None and color < 0:
            raise ValueError(f"split: a color is ≥ 0, not {color}")
        flat = self.allgather(mine, types(datatypes.int_list, 3))
        rows = sorted((flat[i + 2], flat[i], flat[i + 1]) for i in range(0, len(flat), 3))
        self._splits += 1
        if color is None:
            return None
        members = [rank for _, rank, its_color in rows if its_color == color]
        new = object.__new__(Communicator)
        new.__dict__.update(
            name=f"{self.name}/{self._splits}.{color}",
            _rank=members.index(self._rank),
            _ranks=tuple(self._ranks[member] for member in members),
            _comm=_number(f"{self._comm}/{self._splits}.{color}"),
            _world=self._world,
            _operations=0,
            _splits=0,
            _sent={},
            _received={},
            _to_self=deque(),
            _last=None,
        )
        return new

    def abort(self, reason: str) -> None:
        """Tell all ranks that this one fails for good; their operations fail at once, naming it."""
        rank = self._ranks[self._rank]
        error = FmiAborted(f"rank {rank} aborted: {reason}", [rank])
        if self._world.failure is None and not self._world.closed:
            self._world.failure = error
            for channel in self._world.channels.values():
                channel.abort(error)

    def close(self) -> None:
        """Leave, and remove what this rank left in Redis or S3. May be called twice."""
        world = self._world
        if world.closed:
            return
        world.closed = True
        for channel in world.channels.values():
            channel.close(clean=world.failure is None)

    def __enter__(self) -> Communicator:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self.abort(f"{type(exc).__name__}: {exc}")
        self.close()

    # How reductions run -------------------------------------------------------------------

    def _goes_by_slices(self, channel: Channel, packet: Packet, function: func) -> bool:
        """Whether each rank reduces one slice of a large value (reduce-scatter).

        Two ranks swap whole values instead: as many bytes, one round less.
        """
        return (
            channel.has_exchange
            and self.size > 2
            and packet.nbytes > LARGE_BYTES
            and operations.is_elementwise(packet, function)
        )

    def _slice(self, packet: Packet, data: memoryview) -> list[Packet]:
        """Cut ``data``, which is laid out as ``packet``, into one slice a rank."""
        width = packet.nbytes // packet.count
        bounds = [packet.count * i // self.size for i in range(self.size + 1)]
        # The description stays the whole's, so that ranks with other shapes are found out.
        return [
            Packet(packet.code, data[a * width : b * width], b - a, packet.description)
            for a, b in itertools.pairwise(bounds)
        ]

    def _fold_slice(
        self, call: Call, channel: Channel, packet: Packet, function: func, codec: Codec | None
    ) -> Packet:
        """Exchange slices; return this rank's slice reduced, or an error packet."""
        received = channel.exchange(call, self._slice(packet, memoryview(packet.data)))
        return _try_fold(lambda: operations.reduce(received, function, codec))

    def _collect(self, parts: Sequence[Packet], slices: list[Packet]) -> None:
        """Check that each part has arrived in its slice; copy the rest."""
        for part, target in zip(parts, slices, strict=True):
            self._raise_remote(part, None)
            assert isinstance(target.data, memoryview)
            if part.data is not target.data:
                if part.nbytes != target.nbytes:
                    raise FmiMismatch("a reduced slice has another size than its place")
                target.data[:] = part.data

    def _allreduce_slices(
        self, call: Call, channel: Channel, packet: Packet, function: func, codec: Codec | None
    ) -> Packet:
        mine = self._fold_slice(call, channel, packet, function, codec)
        whole = codec_module.allocate(packet.nbytes)
        slices = self._slice(packet, whole)
        sinks = [memoryview(part.data) for part in slices]
        for part, sink in zip(slices, sinks, strict=True):
            part.data = sink
        parts = channel.share(call, mine, 1, sinks)
        self._collect(parts, slices)
        return Packet(packet.code, whole, packet.count, packet.description)

    def _reduce_slices(
        self,
        call: Call,
        channel: Channel,
        packet: Packet,
        root: int,
        function: func,
        codec: Codec | None,
    ) -> Packet | None:
        mine = self._fold_slice(call, channel, packet, function, codec)
        parts = channel.gather(call, mine, root, 1)
        if parts is None:
            return None
        whole = codec_module.allocate(packet.nbytes)
        self._collect(parts, self._slice(packet, whole))
        return Packet(packet.code, whole, packet.count, packet.description)

    def _scan_slices(
        self, call: Call, channel: Channel, packet: Packet, function: func, codec: Codec | None
    ) -> Packet:
        received = channel.exchange(call, self._slice(packet, memoryview(packet.data)))
        prefixes = _try_scan(received, function, codec)
        parts = channel.exchange(call, prefixes, 1)
        whole = codec_module.allocate(packet.nbytes)
        self._collect(parts, self._slice(packet, whole))
        return Packet(packet.code, whole, packet.count, packet.description)

    def _reduce_and_bcast(
        self,
        call: Call,
        channel: Channel,
        packet: Packet,
        function: func,
        codec: Codec | None,
        types: types | None,
    ) -> Packet:
        packets = channel.gather(call, packet, 0)
        result = None
        if packets is not None:
            result = _try_fold(lambda: self._fold(packets, function, codec, types, call))
        result = channel.bcast(call, result, 0, None)
        self._raise_remote(result, None)
        return result

    def _scan_at_root(
        self,
        call: Call,
        channel: Channel,
        packet: Packet,
        function: func,
        codec: Codec | None,
        types: types | None,
    ) -> Packet:
        packets = channel.gather(call, packet, 0)
        prefixes = None
        if packets is not None:
            prefixes = _try_scan(packets, function, codec)
        result = channel.scatter(call, prefixes, 0)
        self._raise_remote(result, None)
        codec_module.check(result, types, codec, self._ranks[0], str(call))
        return result

    def _fold(
        self,
        packets: Sequence[Packet],
        function: func,
        codec: Codec | None,
        types: types | None,
        call: Call,
    ) -> Packet:
        for rank, packet in enumerate(packets):
            codec_module.check(packet, types, codec, self._ranks[rank], str(call))
        return operations.reduce(packets, function, codec)

    def _own(self, sink: memoryview | None) -> Packet:
        """Return the next message that this rank sent to itself."""
        if not self._to_self:
            raise FmiTimeout(f"rank {self._rank} receives from itself, but sent nothing")
        packet = self._to_self.popleft()
        if sink is not None and sink.nbytes == packet.nbytes:
            sink[:] = packet.data
            packet.data = sink
        return packet

    # Helpers ------------------------------------------------------------------------------

    def _begin(self, kind: int, nbytes: int | None, op: int | None = None) -> tuple[Call, Channel]:
        """Start an operation: choose its channel, number it, set its deadline."""
        world = self._world
        if world.failure is not None:
            raise world.failure
        if world.closed:
            raise FmiClosed(f"the communicator {self.name!r} is closed")
        channels = world.channels
        name = KIND_NAMES[kind]
        self._last = (name, nbytes or 0)
        if len(channels) == 1:
            (channel,) = channels.values()
        else:
            best = world.model.rank(list(channels), name, nbytes or 0, self.size, world.hint)[0]
            channel = channels[best.channel]
        if op is None:
            op = self._operations
            self._operations = op + 1
        return Call(kind, op, self._comm, self._ranks, self._rank, world.time_left()), channel

    def _begin_reduction(self, kind: int, packet: Packet) -> tuple[Call, Channel]:
        # Ranks of a reduction hold values of one size, except objects.
        return self._begin(kind, None if packet.code in (OBJECT, BYTES) else packet.nbytes)

    def _failed(self, channel: Channel, error: FmiError) -> FmiError:
        """Break the communicator, unless all ranks see the error and stay in step."""
        if isinstance(error, FmiOverflow | FmiReductionError):
            return error
        if self._world.failure is None:
            self._world.failure = error
            channel.abort(error)
        return error

    def _check_rank(self, rank: int, name: str) -> None:
        if not 0 <= rank < self.size:
            raise ValueError(f"{name}={rank} is not one of {self.size} ranks (0 … size-1)")

    def _try_encode(self, encode_it: Callable[[], Packet]) -> tuple[Packet, Exception | None]:
        """Encode a root's value; a failure becomes a packet, so that nobody waits in vain."""
        try:
            return encode_it(), None
        except Exception as error:  # noqa: BLE001 - a codec may raise anything; the root re-raises
            rank = self._ranks[self._rank]
            remote = FmiReductionError(f"rank {rank} could not encode its value: {error}", [rank])
            return _error_packet(remote), error

    def _encode_shares(
        self, objs: Any, types: types | None, codec: Codec | None
    ) -> tuple[list[Packet], Exception | None]:
        shares: list[Packet] = []

        def encode_all() -> Packet:
            share = self._share_types(types)
            shares.extend(encode(part, share, codec) for part in self._cut(objs, types))
            return shares[0]

        packet, problem = self._try_encode(encode_all)
        return (shares, None) if problem is None else ([packet] * self.size, problem)

    def _cut(self, objs: Any, types: types | None) -> list[Any]:
        is_list = types is not None and types.is_list
        if is_list or codec_module.is_array(objs):
            length = len(objs)
            if length % self.size or (types and types.num_objects not in (None, length)):
                raise ValueError(
                    f"scatter: {length} elements for {self.size} ranks and types {types!r}"
                )
            part = length // self.size
            return [objs[i * part : (i + 1) * part] for i in range(self.size)]
        if len(objs) != self.size:
            raise ValueError(f"scatter: {len(objs)} values for {self.size} ranks")
        return list(objs)

    def _share_types(self, whole: types | None) -> types | None:
        if whole is None or not whole.is_list or whole.num_objects is None:
            return whole
        return types(whole.datatype, whole.num_objects // self.size)

    def _decode_all(
        self, packets: Sequence[Packet], types: types | None, codec: Codec | None, call: Call
    ) -> list[Any]:
        for rank, packet in enumerate(packets):
            codec_module.check(packet, types, codec, self._ranks[rank], str(call))
        values = [decode(packet, codec) for packet in packets]
        if types is not None and types.is_list:
            return [element for value in values for element in value]
        return values

    def _raise_remote(self, packet: Packet, local: Exception | None) -> None:
        """Raise the error that a packet stands for; on the rank that caused it, the original."""
        if packet.code != ERROR:
            return
        if local is not None:
            raise local
        body = json.loads(bytes(packet.data))
        raise BY_NAME[body["error"]](body["message"], body["ranks"])


def _bytes_of(out: Any) -> memoryview:
    """Return the memory of an array that a value is received into."""
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out= must be a contiguous, writable array")
    return memoryview(out.reshape(-1).view("u1"))


def _check_received_into(out: Any, sink: memoryview, packet: Packet, src: int, call: Call) -> None:
    if packet.data is not sink or packet.description != codec_module.layout(out):
        raise FmiMismatch(
            f"{call}: rank {src} sent {codec_module.describe(packet)}, "
            f"out= holds {out.dtype} of shape {out.shape}",
            [src],
        )


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def _error_packet(error: FmiError) -> Packet:
    body = {"error": type(error).__name__, "message": str(error), "ranks": list(error.ranks)}
    data = json.dumps(body).encode()
    return Packet(ERROR, data, len(data))


def _try_fold(fold: Callable[[], Packet]) -> Packet:
    """Return the result, or the error as a packet for those who wait for the result."""
    try:
        return fold()
    except FmiError as error:
        return _error_packet(error)


def _try_scan(packets: Sequence[Packet], function: func, codec: Codec | None) -> list[Packet]:
    """Return each rank's prefix; from the first that fails on, the error."""
    prefixes: list[Packet] = []
    try:
        prefixes.extend(operations.scan(packets, function, codec))
    except FmiError as error:
        prefixes += [_error_packet(error)] * (len(packets) - len(prefixes))
    return prefixes
