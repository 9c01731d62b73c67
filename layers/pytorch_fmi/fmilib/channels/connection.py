"""One peer's socket: frames out, in as many pieces as it takes, and frames in."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final, Protocol

from fmilib.errors import FmiError
from fmilib.frame import HEADER, Header, Packet

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

    __slots__ = ("_buffer", "_end", "_filled", "_header", "_packet", "_receiver", "_start",
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
        self._start = self._end = 0
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

    def pump(self, flags: int) -> None:
        """Read once, and deliver the frames that are complete.

        Raises
        ------
        BlockingIOError
            Nothing to read.
        """
        try:
            if self._target is not None:
                self._fill_target(flags)
            else:
                size = self.sock.recv_into(self._view[self._end :], 0, flags)
                if not size:
                    raise ConnectionResetError("connection closed")
                self._end += size
                self._parse()
        except BlockingIOError:
            raise
        except OSError as error:
            if isinstance(error, FmiError):
                raise
            self._receiver.lose(self, str(error))

    def _fill_target(self, flags: int) -> None:
        assert self._target is not None
        size = self.sock.recv_into(self._target[self._filled :], 0, flags)
        if not size:
            raise ConnectionResetError("connection closed within a message")
        self._filled += size
        if self._filled == self._target.nbytes:
            assert self._header is not None
            assert self._packet is not None
            self._target = None
            self._receiver.deliver(self, self._header, self._packet)

    def _parse(self) -> None:
        while self._end - self._start >= HEADER.size:
            header = Header(self._buffer, self._start)
            body = self._start + HEADER.size + header.description_size
            if body > self._end:
                break
            if body + header.nbytes > self._end:
                if HEADER.size + header.description_size + header.nbytes > READ_BYTES:
                    self._begin_large(header, body)
                    return
                break
            description = bytes(self._view[body - header.description_size : body])
            self._start = body + header.nbytes
            data = bytes(self._view[body : self._start])
            packet = Packet(header.code, data, header.count, description)
            self._receiver.deliver(self, header, packet)
        left = self._end - self._start
        if left and self._start:
            self._buffer[:left] = self._buffer[self._start : self._end]
        self._start, self._end = 0, left

    def _begin_large(self, header: Header, body: int) -> None:
        """Receive the rest of a large payload where it is wanted, without a copy."""
        target = self._receiver.memory_for(self, header)
        here = self._end - body
        target[:here] = self._view[body : self._end]
        description = bytes(self._view[body - header.description_size : body])
        self._header = header
        self._packet = Packet(header.code, target, header.count, description)
        self._target, self._filled = target, here
        self._start = self._end = 0
