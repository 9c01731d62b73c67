"""One peer's socket: frames out, in as many pieces as it takes, and frames in."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final, Protocol

from fmilib.errors import FmiError
from fmilib.frame import HEADER, Header, Packet, allocate

if TYPE_CHECKING:
    from fmilib.frame import Buffer

TICK: Final = 0.02  # seconds that a blocking read waits for one rank only
_TICK_OPTION: Final = struct.pack("ll", 0, int(TICK * 1e6))
READ_BYTES: Final = 16 * 1024  # one read of small frames; larger payloads go where they belong
JOINED_BYTES: Final = 8 * 1024  # up to here header and payload are copied into one send
SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Receiver(Protocol):
    """Who gets what arrives on a connection."""

    def deliver(self, connection: Connection, header: Header, packet: Packet) -> None:
        """Take a complete frame."""

    def memory_for(self, connection: Connection, header: Header) -> memoryview:
        """Return the memory that a large payload is received into."""

    def lose(self, connection: Connection, reason: str) -> None:
        """Note that the connection ended."""


class Connection:
    """A peer's socket and the frames on it.

    The socket is blocking, with the kernel's own time limit of a tick: a wait for a peer is
    then one system call.
    """

    __slots__ = ("_buffer", "_end", "_filled", "_header", "_packet", "_prefix", "_receiver",
                 "_target", "_unsent", "_view", "rank", "said_bye", "sock")  # fmt: skip

    def __init__(self, receiver: Receiver, sock: socket.socket, rank: int) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TICK_OPTION)
        self._receiver = receiver
        self.sock = sock
        self.rank = rank
        self.said_bye = False
        self._unsent: list[memoryview] = []
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._prefix = HEADER.size  # of the next large frame, as far as is known
        self._header: Header | None = None
        self._packet: Packet | None = None
        self._target: memoryview | None = None
        self._filled = 0

    # Out --------------------------------------------------------------------------------------

    def send(self, header: bytes, payload: Buffer, nbytes: int) -> bool:
        """Send what the socket takes of a frame; return whether that was all."""
        sent = 0
        try:
            if nbytes <= JOINED_BYTES:
                frame = b"".join((header, payload))
                sent = self.sock.send(frame, SEND_FLAGS)
            else:
                frame = header
                sent = self.sock.sendmsg((header, payload), (), SEND_FLAGS)
        except BlockingIOError:
            pass
        if sent == len(header) + nbytes:
            return True
        pieces = [memoryview(frame)]
        if frame is header:
            pieces.append(memoryview(payload))
        while pieces[0].nbytes <= sent:
            sent -= pieces.pop(0).nbytes
        pieces[0] = pieces[0][sent:]
        self._unsent = pieces
        return False

    def send_more(self) -> bool:
        """Send what the socket takes of the rest; return whether that was all."""
        pieces = self._unsent
        try:
            while pieces:
                size = self.sock.send(pieces[0], SEND_FLAGS)
                pieces[0] = pieces[0][size:]
                if not pieces[0].nbytes:
                    pieces.pop(0)
        except BlockingIOError:
            return False
        return True

    # In ---------------------------------------------------------------------------------------

    def pump(self, flags: int, sink: memoryview | None = None) -> None:
        """Read once, and deliver the frames that are complete.

        Parameters
        ----------
        flags : int
            ``MSG_DONTWAIT``, or ``MSG_WAITALL`` to be woken once for a whole payload.
        sink : memoryview, optional
            Where the payload of the next frame belongs, if it is the awaited one: it is then
            received in one call, without a copy.

        Raises
        ------
        BlockingIOError
            Nothing to read.
        """
        try:
            if self._target is not None:
                self._fill_target(flags)
            elif sink is not None and sink.nbytes > READ_BYTES and not self._end:
                self._receive_into(sink, flags)
            else:
                size = self.sock.recv_into(self._view[self._end :], 0, flags & ~socket.MSG_WAITALL)
                if not size:
                    raise ConnectionResetError("connection closed")
                self._parse(self._view, self._end + size)
        except BlockingIOError:
            raise
        except OSError as error:
            if isinstance(error, FmiError):
                raise
            self._receiver.lose(self, str(error))

    def release(self, sink: memoryview) -> None:
        """Let go of memory that a payload was wanted in: what has arrived moves elsewhere."""
        if self._target is not sink:
            return
        assert self._packet is not None
        self._target = allocate(sink.nbytes)
        self._target[: self._filled] = sink[: self._filled]
        self._packet.data = self._target

    def _fill_target(self, flags: int) -> None:
        assert self._target is not None
        size = self.sock.recv_into(self._target[self._filled :], 0, flags)
        if not size:
            raise ConnectionResetError("connection closed within a message")
        self._advance(size)

    def _receive_into(self, sink: memoryview, flags: int) -> None:
        """Read header and payload at once, guessing the header's length by the last one."""
        prefix = self._prefix
        size = self.sock.recvmsg_into((self._view[:prefix], sink), 0, flags)[0]
        if not size:
            raise ConnectionResetError("connection closed")
        here = size - prefix
        if here >= 0:
            header = Header(self._buffer)
            if (
                HEADER.size + header.description_size == prefix
                and header.nbytes > READ_BYTES
                and header.nbytes >= here
            ):
                self._begin_large(header, self._view[HEADER.size : prefix], sink[:here], sink)
                return
            # Something else came first.
            data = memoryview(b"".join((self._view[:prefix], sink[:here])))
            self._parse(data, size)
        else:
            self._parse(self._view, size)

    def _parse(self, view: memoryview, end: int) -> None:
        """Deliver the frames in ``view``; what is left of it stays in the buffer."""
        start = 0
        while end - start >= HEADER.size:
            header = Header(view, start)
            body = start + HEADER.size + header.description_size
            if body > end:
                break
            description = view[body - header.description_size : body]
            if body + header.nbytes > end:
                if HEADER.size + header.description_size + header.nbytes > READ_BYTES:
                    self._end = 0
                    self._begin_large(header, description, view[body:end])
                    return
                break
            start = body + header.nbytes
            data = bytes(view[body:start])
            packet = Packet(header.code, data, header.count, bytes(description))
            self._receiver.deliver(self, header, packet)
        self._end = end - start
        if self._end and (start or view is not self._view):
            self._buffer[: self._end] = bytes(view[start:end])

    def _begin_large(
        self,
        header: Header,
        description: memoryview,
        here: memoryview,
        sink: memoryview | None = None,
    ) -> None:
        """Receive a large payload where it is wanted; ``here`` has arrived of it, in ``sink``."""
        target = self._receiver.memory_for(self, header)
        size = here.nbytes
        if target is not sink:
            target[:size] = here
        self._prefix = HEADER.size + header.description_size
        self._header = header
        self._packet = Packet(header.code, target, header.count, bytes(description))
        self._target, self._filled = target, 0
        self._advance(size)

    def _advance(self, size: int) -> None:
        assert self._target is not None
        self._filled += size
        if self._filled == self._target.nbytes:
            assert self._header is not None
            assert self._packet is not None
            self._target = None
            self._receiver.deliver(self, self._header, self._packet)
