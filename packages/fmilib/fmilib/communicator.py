"""Groups of ranks: values in, values out, over whichever channel suits.

Everything that ranks must agree on is decided here from what they all know: the operation, its
root and function, the types, the group's size, the configuration and the hint.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from fmilib import backend as registry
from fmilib import codec as codec_module
from fmilib import operations
from fmilib.call import Call
from fmilib.codec import ARRAY, BYTES, OBJECT, Codec, check_array_class, decode, encode
from fmilib.collectives.peer_to_peer import LARGE_BYTES
from fmilib.config import Configuration
from fmilib.costs import CostModel, Estimate
from fmilib.datatypes import datatypes, func, hints, types
from fmilib.errors import FmiAborted, FmiError, FmiMismatch, FmiTimeout
from fmilib.frame import KIND_NAMES, Kind, Packet, pack_terms
from fmilib.member import Member, session_name
from fmilib.reduction import Reduction
from fmilib.remote import raise_error, try_encode, try_encode_all
from fmilib.shares import encode_shares, share_types
from fmilib.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from fmilib.channels.base import Channel


class _Operation:
    """An operation that has begun: its call and channel; an error of it breaks the communicator."""

    __slots__ = ("call", "channel", "world")

    def __init__(self, world: World, call: Call, channel: Channel) -> None:
        self.world = world
        self.call = call
        self.channel = channel

    def __enter__(self) -> tuple[Call, Channel]:
        return self.call, self.channel

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc, FmiError):
            self.world.note(self.channel, exc)


class Group:
    """Ranks that exchange messages: all of a session, or those of a `split`.

    A group belongs to one thread. After `FmiTimeout` (of a collective), `FmiPeerLost`,
    `FmiMismatch`, `FmiAborted` or `FmiChannelError` it is broken, on every rank: all later calls
    raise the same error, and ranks that go on do so in a new session or ``epoch``.

    Values that operations return share no memory with those that they were given. An argument
    that fmilib refuses (`TypeError`, `ValueError`, `FmiOverflow`, `FmiReductionError`) is refused
    before anything is sent: the rank has then not taken part, and may call again.

    Attributes
    ----------
    name : str
    """

    def __init__(
        self, world: World, name: str, number: int, ranks: tuple[int, ...], rank: int
    ) -> None:
        self.name = name
        self._world = world
        self._comm = number
        self._ranks = ranks
        self._rank = rank
        self._operations = 0
        self._splits = 0
        self._sent: dict[int, int] = {}
        self._received: dict[int, int] = {}
        self._to_self: deque[Packet] = deque()
        self._last: tuple[str, int] | None = None

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
        return self._world.estimates(operation, nbytes, self.size)

    # Point to point -----------------------------------------------------------------------

    def send(
        self, obj: Any, dst: int, types: types | None = None, *, codec: Codec | None = None
    ) -> None:
        """Send a value to rank ``dst``. Returns when it is on its way, not when it is received."""
        self._check_rank(dst, "dst")
        packet = encode(obj, types, codec)
        size = types.nbytes if types is not None else None
        with self._begin(Kind.MESSAGE, size, self._sent.get(dst, 0)) as (call, channel):
            if dst == self._rank:
                self._to_self.append(packet.copy())
            else:
                channel.send(call, dst, packet)
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
        operation = self._begin(Kind.MESSAGE, size, self._received.get(src, 0))
        call, channel = operation.call, operation.channel
        sink = None if out is None else _bytes_of(out)
        try:
            packet = self._own(sink) if src == self._rank else channel.recv(call, src, sink)
        except FmiTimeout:
            raise
        except FmiError as error:
            self._world.note(channel, error)
            raise
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
        with self._begin(Kind.BARRIER, 0) as (call, channel):
            if call.size > 1:
                channel.barrier(call)

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
        place = None if out is None else _bytes_of(out)
        sink = None if self._rank == root else place
        large = size is not None and size > LARGE_BYTES
        operation = self._begin(Kind.BCAST, size, terms=pack_terms(root, 0, large))
        packet, problem = None, None
        if self._rank == root:
            packet, problem = try_encode(self._world_rank, lambda: encode(obj, types, codec))
        with operation as (call, channel):
            if self.size == 1:
                assert packet is not None
                received = packet
            else:
                received = channel.bcast(call, packet, root, size, sink)
            raise_error(received, problem)
            source = self._ranks[root]
            codec_module.check(received, types, codec, source, str(call))
            if place is None:
                return decode(_apart(received, packet), codec)
            if self._rank == root and out is not obj and received.nbytes == place.nbytes:
                place[:] = received.data
                received = Packet(received.code, place, received.count, received.description)
            if out is not obj:
                _check_received_into(out, place, received, source, call)
        return out

    def gather(
        self, obj: Any, root: int, types: types | None = None, *, codec: Codec | None = None
    ) -> list[Any]:
        """Return all ranks' values in rank order on the root; an empty list elsewhere.

        As in the C++ binding, lists are joined into one list.
        """
        self._check_rank(root, "root")
        packet = encode(obj, types, codec)
        size = types.nbytes if types is not None else None
        with self._begin(Kind.GATHER, size, terms=pack_terms(root)) as (call, channel):
            packets = [packet] if self.size == 1 else channel.gather(call, packet, root)
            if packets is None:
                return []
            return self._decode_all(packets, packet, types, codec, call)

    def allgather(
        self, obj: Any, types: types | None = None, *, codec: Codec | None = None
    ) -> list[Any]:
        """Return all ranks' values in rank order on every rank; lists are joined."""
        packet = encode(obj, types, codec)
        with self._begin(Kind.ALLGATHER, types.nbytes if types is not None else None) as (
            call,
            channel,
        ):
            packets = [packet] if self.size == 1 else channel.allgather(call, packet)
            return self._decode_all(packets, packet, types, codec, call)

    def scatter(
        self, objs: Any, root: int, types: types | None = None, *, codec: Codec | None = None
    ) -> Any:
        """Return to each rank its share of the root's ``objs``.

        Lists (``types(…_list, n)``, n the whole length, as in the C++ binding) and arrays are
        cut into equal parts, along the first axis; any other sequence holds one value per rank.
        """
        self._check_rank(root, "root")
        share = share_types(types, self.size)
        is_list = share is not None and share.is_list
        size = share.nbytes if share and is_list else None
        operation = self._begin(Kind.SCATTER, size, terms=pack_terms(root))
        packets, problem = None, None
        if self._rank == root:
            packets, problem = try_encode_all(
                self._world_rank, self.size, lambda: encode_shares(objs, types, codec, self.size)
            )
        with operation as (call, channel):
            if self.size == 1:
                assert packets is not None
                received = packets[0]
            else:
                received = channel.scatter(call, packets, root)
            raise_error(received, problem)
            codec_module.check(received, share, codec, self._ranks[root], str(call))
        own = packets[self._rank] if packets is not None else None
        return decode(_apart(received, own), codec)

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
        return self._reduction(
            Kind.REDUCE, obj, func, types, codec, lambda run, packet: run.reduce(packet, root), root
        )

    def allreduce(
        self, obj: Any, func: func, types: types | None = None, *, codec: Codec | None = None
    ) -> Any:
        """Return the reduction of all ranks' values on every rank, bit for bit the same."""
        return self._reduction(Kind.ALLREDUCE, obj, func, types, codec, Reduction.allreduce)

    def scan(
        self, obj: Any, func: func, types: types | None = None, *, codec: Codec | None = None
    ) -> Any:
        """Return the inclusive prefix reduction: rank i gets ``f(… f(x0, x1) …, xi)``."""
        return self._reduction(Kind.SCAN, obj, func, types, codec, Reduction.scan)

    def _reduction(
        self,
        kind: int,
        obj: Any,
        function: func,
        types: types | None,
        codec: Codec | None,
        run: Callable[[Reduction, Packet], Packet | None],
        root: int | None = None,
    ) -> Any:
        packet = encode(obj, types, codec)
        if packet.code == ARRAY:
            operations.check_meaning(packet, function)
        # Ranks of a reduction hold values of one size, except objects.
        size = None if packet.code in (OBJECT, BYTES) else packet.nbytes
        large = size is not None and size > LARGE_BYTES
        terms = pack_terms(root, function.number, large)
        with self._begin(kind, size, terms=terms) as (call, channel):
            if self.size == 1:
                result: Packet | None = packet
            else:
                result = run(Reduction(call, channel, function, types, codec), packet)
        return None if result is None else decode(_apart(result, packet), codec)

    # Groups and the end -------------------------------------------------------------------

    def split(self, color: int | None, key: int | None = None) -> Group | None:
        """Return the group of the ranks that gave the same ``color``, ordered by ``key``.

        Every rank must call it; one that gives None gets None. Groups share the channels of
        their communicator: closing any of them closes all.
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
        return Group(
            self._world,
            f"{self.name}/{self._splits}.{color}",
            communicator_number(f"{self._comm}/{self._splits}.{color}"),
            tuple(self._ranks[member] for member in members),
            members.index(self._rank),
        )

    def abort(self, reason: str) -> None:
        """Tell all ranks that this one fails for good; their operations fail at once, naming it."""
        rank = self._world_rank
        self._world.abort(FmiAborted(f"rank {rank} aborted: {reason}", [rank]))

    def close(self) -> None:
        """Leave, and remove what this rank left in Redis or S3. May be called twice.

        A program that ends without it is closed at its end.

        Raises
        ------
        FmiMismatch
            Another rank has taken part in a collective operation that this one never called.
        """
        self._world.close()

    def __enter__(self) -> Self:
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

    # Helpers ------------------------------------------------------------------------------

    @property
    def _world_rank(self) -> int:
        return self._ranks[self._rank]

    def _begin(
        self, kind: int, nbytes: int | None, op: int | None = None, terms: int = 0
    ) -> _Operation:
        """Start an operation: choose its channel, number it, set its deadline."""
        world = self._world
        world.check(self.name)
        name = KIND_NAMES[kind]
        self._last = (name, nbytes or 0)
        channel = world.choose(name, nbytes or 0, self.size)
        if op is None:
            op = self._operations
            self._operations = op + 1
        call = Call(kind, op, self._comm, self._ranks, self._rank, world.time_left(), terms)
        return _Operation(world, call, channel)

    def _own(self, sink: memoryview | None) -> Packet:
        """Return the next message that this rank sent to itself."""
        if not self._to_self:
            raise FmiTimeout(f"rank {self._rank} receives from itself, but sent nothing")
        packet = self._to_self.popleft()
        if sink is not None and sink.nbytes == packet.nbytes:
            sink[:] = packet.data
            packet.data = sink
        return packet

    def _check_rank(self, rank: int, name: str) -> None:
        if not 0 <= rank < self.size:
            raise ValueError(f"{name}={rank} is not one of {self.size} ranks (0 … size-1)")

    def _decode_all(
        self,
        packets: Sequence[Packet],
        own: Packet,
        types: types | None,
        codec: Codec | None,
        call: Call,
    ) -> list[Any]:
        for rank, packet in enumerate(packets):
            codec_module.check(packet, types, codec, self._ranks[rank], str(call))
        values = [decode(_apart(packet, own), codec) for packet in packets]
        if types is not None and types.is_list:
            return [element for value in values for element in value]
        return values


class Communicator(Group):
    """All ranks of a session.

    Creating it joins the session on every enabled channel and waits until all ranks have joined.
    S3 waits for nobody: there, the first operation misses a rank that never came.

    Parameters
    ----------
    peer_id, num_peers : int
        This rank, from 0, and the number of ranks.
    config_path : path or mapping
        The JSON configuration of the C++ library, see `fmilib.config`.
    comm_name : str
        Name of the communicator; ranks of one name talk to each other.
    faas_memory : int
        The function's memory in MiB, for the price.
    session : str, optional
        Name of this run, unique to it (an execution's id). Default ``FMI_SESSION``. With it, a
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
        configuration = (
            config_path if isinstance(config_path, Configuration) else Configuration(config_path)
        )
        member = member_of(
            configuration, peer_id, num_peers, comm_name, session, epoch, timeout, token
        )
        model = CostModel(configuration.model, faas_memory)
        world = World(member.rank, model, member.timeout, remaining)
        ranks = tuple(range(member.size))
        super().__init__(world, comm_name, communicator_number(comm_name), ranks, member.rank)
        deadline = time.monotonic() + world.time_left()
        try:
            for name, settings in configuration.backends.items():
                channel = registry.find(name).open(settings, member)
                channel.open(max(0.01, deadline - time.monotonic()))
                world.channels[name] = channel
        except BaseException:
            for channel in world.channels.values():
                channel.close(clean=False)
            raise
        world.opened()


def member_of(
    configuration: Configuration,
    rank: int | str,
    size: int | str,
    communicator: str,
    session: str | None,
    epoch: int,
    timeout: float | None,
    token: str | None,
) -> Member:
    """Return what channels need to know to join; the environment fills in what is None.

    Raises
    ------
    ValueError
        ``rank`` is not one of ``size`` ranks.
    """
    rank, size = int(rank), int(size)
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} is not one of {size} ranks (0 … size-1)")
    session = session if session is not None else os.environ.get("FMI_SESSION")
    if timeout is None:
        given = os.environ.get("FMI_TIMEOUT")
        timeout = float(given) if given else configuration.timeout
    return Member(
        session=session_name(session, communicator),
        epoch=epoch,
        rank=rank,
        size=size,
        timeout=timeout,
        token=token if token is not None else os.environ.get("FMI_TOKEN"),
        strict=session is not None,
    )


def _apart(packet: Packet, own: Packet | None) -> Packet:
    """Return a packet whose value shares no memory with this rank's own argument."""
    return packet.copy() if packet is own and packet.code == ARRAY else packet


def _bytes_of(out: Any) -> memoryview:
    """Return the memory of an array that a value is received into."""
    check_array_class(out)
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


def communicator_number(name: str) -> int:
    """Return the number that a communicator's frames carry."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
