"""The frame around every message, so that no message is taken for another.

A frame is a fixed header (56 bytes, little endian), a short description of the payload (its
NumPy dtype and shape, a codec's name; often empty) and the payload. The header carries session,
epoch, communicator, operation counter, kind of operation, root and function, step, sender, type
and size; the receiver compares all of them with what it expects.
"""

from __future__ import annotations

import functools
import struct
import sys
from typing import TYPE_CHECKING, Final

from fmilib.datatypes import op as operations
from fmilib.errors import FmiMismatch

if TYPE_CHECKING:
    from fmilib.call import Call

MAGIC: Final = 0xF317
HEADER: Final = struct.Struct("<HBBHHIIIIQQQQ")
# magic, kind, code, description bytes, step, sender, communicator, epoch, terms (and whether the
# payload is stored apart), session, operation, count, payload bytes

Buffer = bytes | bytearray | memoryview


class Kind:
    """Operations and control frames, as numbers on the wire."""

    MESSAGE = 1
    BARRIER = 2
    BCAST = 3
    GATHER = 4
    SCATTER = 5
    ALLGATHER = 6
    REDUCE = 7
    ALLREDUCE = 8
    SCAN = 9
    CLOSE = 10
    ABORT = 20
    BYE = 21
    ASK = 22
    TOLD = 23


KIND_NAMES: Final = {
    Kind.MESSAGE: "send",
    Kind.BARRIER: "barrier",
    Kind.BCAST: "bcast",
    Kind.GATHER: "gather",
    Kind.SCATTER: "scatter",
    Kind.ALLGATHER: "allgather",
    Kind.REDUCE: "reduce",
    Kind.ALLREDUCE: "allreduce",
    Kind.SCAN: "scan",
    Kind.CLOSE: "close",
    Kind.ABORT: "abort",
    Kind.BYE: "bye",
    Kind.ASK: "ask",
    Kind.TOLD: "told",
}


# Terms: the root plus one in the low bits, then the function, then whether the value is large.
_ROOT_BITS: Final = 24
_OPERATIONS: Final = {member.value: member.name for member in operations}
_LARGE: Final = 1 << 28
_DETACHED: Final = 1 << 31


@functools.lru_cache(4096)
def pack_terms(root: int | None = None, operation: int = 0, large: bool = False) -> int:
    """Return what ranks must agree on besides the kind of operation, as a number in each frame.

    Parameters
    ----------
    root : int, optional
    operation : int
        Value of the reduction's `fmilib.op`; 0 for none.
    large : bool
        Whether the value takes the algorithms for large values.
    """
    number = 0 if root is None else (root + 1) & ((1 << _ROOT_BITS) - 1)
    return number | operation << _ROOT_BITS | (_LARGE if large else 0)


def describe_terms(terms: int) -> str:
    """Say in words what :func:`pack_terms` packed."""
    root, operation = (terms & ((1 << _ROOT_BITS) - 1)) - 1, terms >> _ROOT_BITS & 0xF
    parts = [f"root {root}"] if root >= 0 else []
    parts += [_OPERATIONS.get(operation, "an unknown function")] if operation else []
    parts += ["a large value"] if terms & _LARGE else ["a small value"]
    return ", ".join(parts)


def check_header(header: Header, call: Call, step: int, sender: int) -> None:
    """Raise `FmiMismatch` unless a frame belongs to this step of this operation.

    Parameters
    ----------
    header : Header
    call : Call
    step : int
    sender : int
        World rank that the frame is expected from.
    """
    if header.kind != call.kind or header.op != call.op or header.sender != sender:
        raise FmiMismatch(
            f"{call}: expected a frame of rank {sender}, found one of rank {header.sender} in "
            f"{header.describe()}; all ranks must call the same operations in the same order",
            [sender],
        )
    if header.terms != call.terms:
        raise disagreement(header, call, sender)
    if header.step != step or header.comm != call.comm:
        raise FmiMismatch(
            f"{call}: rank {sender} is at step {header.step} of communicator {header.comm:#x}, "
            f"this rank at step {step}; do both give values of the same type and size?",
            [sender],
        )


def disagreement(header: Header, call: Call, sender: int) -> FmiMismatch:
    """Return the error for a frame whose root, function or size class is another."""
    return FmiMismatch(
        f"{call}: rank {sender} called it with {describe_terms(header.terms)}, "
        f"this rank with {describe_terms(call.terms)}",
        [sender],
    )


def allocate(nbytes: int) -> memoryview:
    """Return writable memory; not zeroed where NumPy is loaded."""
    # Another thread may be in the middle of importing NumPy.
    empty = getattr(sys.modules.get("numpy"), "empty", None)
    if empty is not None:
        return memoryview(empty(nbytes, "u1").data)
    return memoryview(bytearray(nbytes))


class Packet:
    """One encoded value: a type code, its description, a count of elements, and the bytes."""

    __slots__ = ("code", "count", "data", "description")

    def __init__(self, code: int, data: Buffer, count: int, description: bytes = b"") -> None:
        self.code = code
        self.data = data
        self.count = count
        self.description = description

    @property
    def nbytes(self) -> int:
        """Payload bytes."""
        return self.data.nbytes if isinstance(self.data, memoryview) else len(self.data)

    def copy(self) -> Packet:
        """Return a packet with memory of its own, which may be written to."""
        data = allocate(self.nbytes)
        data[:] = self.data
        return Packet(self.code, data, self.count, self.description)

    def same_type(self, other: Packet) -> bool:
        """Whether both hold the same type and number of elements."""
        return (
            self.code == other.code
            and self.count == other.count
            and self.description == other.description
        )


class Header:
    """A decoded frame header."""

    __slots__ = (
        "code",
        "comm",
        "count",
        "description_size",
        "epoch",
        "kind",
        "nbytes",
        "op",
        "sender",
        "session",
        "step",
        "terms",
    )

    def __init__(self, buffer: Buffer, offset: int = 0) -> None:
        (
            magic,
            self.kind,
            self.code,
            self.description_size,
            self.step,
            self.sender,
            self.comm,
            self.epoch,
            self.terms,
            self.session,
            self.op,
            self.count,
            self.nbytes,
        ) = HEADER.unpack_from(buffer, offset)
        if magic != MAGIC:
            raise FmiMismatch(f"not an fmilib frame (magic {magic:#06x})")

    def take_detached(self) -> bool:
        """Return whether the payload is stored apart, and leave the terms alone in ``terms``."""
        detached = bool(self.terms & _DETACHED)
        self.terms &= ~_DETACHED
        return detached

    def describe(self) -> str:
        """Name the operation for messages."""
        return f"{KIND_NAMES.get(self.kind, self.kind)} (operation {self.op})"


def pack_header(
    packet: Packet,
    kind: int,
    sender: int,
    comm: int,
    epoch: int,
    session: int,
    op: int,
    step: int,
    terms: int = 0,
    *,
    detached: bool = False,
) -> bytes:
    """Return the header and description that go before ``packet.data``."""
    return (
        HEADER.pack(
            MAGIC,
            kind,
            packet.code,
            len(packet.description),
            step,
            sender,
            comm,
            epoch,
            terms | _DETACHED if detached else terms,
            session,
            op,
            packet.count,
            packet.nbytes,
        )
        + packet.description
    )


_ENTRY: Final = struct.Struct("<IBHQQ")  # rank, code, description bytes, count, payload bytes


def pack_bundle(entries: dict[int, Packet]) -> bytes:
    """Join packets of several ranks into one payload."""
    parts: list[Buffer] = []
    for rank, packet in entries.items():
        parts.append(
            _ENTRY.pack(rank, packet.code, len(packet.description), packet.count, packet.nbytes)
        )
        parts.append(packet.description)
        parts.append(packet.data)
    return b"".join(parts)


def unpack_bundle(payload: Buffer) -> dict[int, Packet]:
    """Inverse of :func:`pack_bundle`; the packets are views into ``payload``.

    Raises
    ------
    FmiMismatch
        The payload ends within an entry.
    """
    view = memoryview(payload)
    entries: dict[int, Packet] = {}
    position, end = 0, view.nbytes
    while position < end:
        if position + _ENTRY.size > end:
            raise FmiMismatch(f"a bundle of {end} bytes ends within an entry's header")
        rank, code, description_size, count, nbytes = _ENTRY.unpack_from(view, position)
        position += _ENTRY.size
        if position + description_size + nbytes > end:
            raise FmiMismatch(f"a bundle of {end} bytes ends within the value of rank {rank}")
        description = bytes(view[position : position + description_size])
        position += description_size
        entries[rank] = Packet(code, view[position : position + nbytes], count, description)
        position += nbytes
    return entries
