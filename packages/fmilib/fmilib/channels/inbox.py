"""Frames that have arrived, by the stream that their operation will look into."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from fmilib.errors import FmiError, FmiMismatch
from fmilib.frame import KIND_NAMES, Header, Kind, Packet, allocate

if TYPE_CHECKING:
    from fmilib.call import Call

LIMIT_BYTES: Final = 1 << 30  # of messages that arrived before they were asked for

Stream = tuple[int, int, bool]  # sender, communicator, whether point-to-point
Queue = deque[tuple[Header, Packet]]


def stream_of(call: Call, sender: int) -> Stream:
    """Return the stream of an operation's frames from one world rank."""
    return (sender, call.comm, call.kind == Kind.MESSAGE)


class Inbox:
    """Queues of frames, and the memory that large payloads are wanted in."""

    __slots__ = ("_bytes", "_queues", "sinks")

    def __init__(self) -> None:
        self._queues: dict[Stream, Queue] = {}
        self._bytes = 0
        self.sinks: dict[Stream, memoryview] = {}

    def queue(self, stream: Stream) -> Queue:
        """Return a stream's frames, the oldest first."""
        queue = self._queues.get(stream)
        if queue is None:
            queue = self._queues[stream] = deque()
        return queue

    def put(self, header: Header, packet: Packet, sender: int) -> FmiError | None:
        """Add a frame; return the error if that is too much."""
        self.queue((sender, header.comm, header.kind == Kind.MESSAGE)).append((header, packet))
        self._bytes += header.nbytes
        if self._bytes <= LIMIT_BYTES:
            return None
        return FmiError(
            f"more than {LIMIT_BYTES >> 20} MiB arrived that no operation has asked for, "
            f"last {KIND_NAMES.get(header.kind)} of rank {sender}",
            [sender],
        )

    def pop(self, queue: Queue) -> tuple[Header, Packet]:
        """Take the oldest frame."""
        header, packet = queue.popleft()
        self._bytes -= header.nbytes
        return header, packet

    def memory_for(self, header: Header, sender: int) -> memoryview:
        """Return the memory that a large payload is received into."""
        if self.sinks:
            stream = (sender, header.comm, header.kind == Kind.MESSAGE)
            sink = self.sinks.get(stream)
            if sink is not None and sink.nbytes == header.nbytes and not self._queues.get(stream):
                return self.sinks.pop(stream)
        if self._bytes + header.nbytes > LIMIT_BYTES:
            raise FmiMismatch(
                f"rank {sender} announces a message of {header.nbytes} bytes; "
                f"the limit is {LIMIT_BYTES}",
                [sender],
            )
        return allocate(header.nbytes)

    def unread(self) -> FmiMismatch | None:
        """Return an error if there are frames of a collective that no operation asked for."""
        for (sender, _, is_message), queue in self._queues.items():
            if queue and not is_message:
                return FmiMismatch(
                    f"rank {sender} has taken part in {queue[0][0].describe()}, this rank has "
                    "not, or has with another root; all ranks must call the same operations",
                    [sender],
                )
        return None

    def clear(self) -> None:
        """Drop everything."""
        self._queues.clear()
