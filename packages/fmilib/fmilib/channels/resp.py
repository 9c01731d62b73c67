"""A minimal client of Redis's protocol (RESP2): one connection, pipelining, deadlines.

Commands whose replies nobody waits for are sent with ``unread``; the client itself reads those
replies before it reads any later one, so that a reply never goes to another command.

Not redis-py, as measured (``benchmarks/redis_client.py``): importing it takes fourteen times
as long, it sends 1 MB three times as slowly, because it copies, and small commands at a fifth of
the speed; only reading 1 MB is as fast, with hiredis. This speaks plain TCP and TLS, ``AUTH`` and
``SELECT``, which Redis, Valkey and ElastiCache need.
"""

from __future__ import annotations

import socket
import time
from typing import Any
from urllib.parse import unquote, urlsplit

from fmilib.errors import FmiChannelError, FmiConfigError
from fmilib.frame import allocate

READ_BYTES = 64 * 1024
# Redis's own limits: what announces more is not Redis, and gets no memory.
LARGEST_STRING = 512 * 1024 * 1024
MOST_ELEMENTS = 1024 * 1024
MOST_UNREAD = 256  # replies, few enough that the server is never held up by them
Argument = bytes | bytearray | memoryview | str | int


class ReplyError(Exception):
    """The server answered a command with an error."""


class Resp:
    """One connection to a Redis server.

    Parameters
    ----------
    url : str
        ``redis://[user:password@]host[:port][/db]``, or ``rediss://`` for TLS.
    timeout : float
        Seconds for connecting and for commands that do not block.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise FmiConfigError("a Redis URL is redis://host[:port][/db] or rediss://…")
        self.where = f"{parts.hostname}:{parts.port or 6379}"
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._unread = 0
        self._deadline = time.monotonic() + timeout
        self._sock = self._connect(parts.scheme, parts.hostname, parts.port or 6379, timeout)
        try:
            if parts.password is not None:
                user = [unquote(parts.username)] if parts.username else []
                self.call(timeout, "AUTH", *user, unquote(parts.password))
            database = parts.path.strip("/")
            if database and database != "0":
                self.call(timeout, "SELECT", database)
        except ReplyError as error:
            self.close()
            raise FmiChannelError(f"Redis {self.where} refused the connection: {error}") from error

    def _connect(self, scheme: str, host: str, port: int, timeout: float) -> socket.socket:
        try:
            sock = socket.create_connection((host, port), timeout=timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if scheme == "rediss":
                import ssl

                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except OSError as error:
            raise FmiChannelError(f"cannot connect to Redis {host}:{port}: {error}") from error
        return sock

    def send(
        self, commands: list[tuple[Argument, ...]], timeout: float, *, unread: int = 0
    ) -> None:
        """Send commands; large arguments are not copied.

        Parameters
        ----------
        commands : list of tuple
        timeout : float
            Seconds that sending may take.
        unread : int
            Of how many commands, the first ones, the reply is not asked for. An error among
            these replies is raised by a later call.
        """
        if self._unread > MOST_UNREAD:
            self.settle(timeout)
        pieces: list[bytes | bytearray | memoryview] = []
        small = bytearray()
        for command in commands:
            small += b"*%d\r\n" % len(command)
            for argument in command:
                if isinstance(argument, str):
                    data: bytes | bytearray | memoryview = argument.encode()
                elif isinstance(argument, int):
                    data = b"%d" % argument
                else:
                    data = argument
                small += b"$%d\r\n" % len(data)
                if len(data) > READ_BYTES:
                    pieces += [small, data]
                    small = bytearray()
                else:
                    small += data
                small += b"\r\n"
        pieces.append(small)
        deadline = time.monotonic() + timeout
        try:
            for piece in pieces:
                self._sock.settimeout(max(0.001, deadline - time.monotonic()))
                self._sock.sendall(piece)
        except OSError as error:
            raise self._lost(error) from error
        self._unread += unread

    def read(self, timeout: float, into: memoryview | None = None) -> Any:
        """Return the next reply that is asked for: bytes-like, int, list or None.

        A string of the size of ``into`` is received there, and ``into`` returned.

        Raises
        ------
        ReplyError
            The server's error, also in answer to an earlier command whose reply is not asked for.
        FmiChannelError
            The connection broke, or the server fell silent for ``timeout`` seconds.
        """
        self.settle(timeout)
        return self._reply(into)

    def settle(self, timeout: float) -> None:
        """Read the replies that are not asked for; raises as :meth:`read` does."""
        self._deadline = time.monotonic() + timeout
        while self._unread:
            self._unread -= 1
            self._reply()

    def call(self, timeout: float, *command: Argument) -> Any:
        """Send one command and return its reply."""
        deadline = time.monotonic() + timeout
        self.send([command], timeout)
        return self.read(max(0.001, deadline - time.monotonic()))

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _lost(self, error: OSError) -> FmiChannelError:
        self._sock.close()
        return FmiChannelError(f"the connection to Redis {self.where} broke: {error}")

    def _fill(self) -> None:
        """Read more into the buffer."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == READ_BYTES:
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        self._end += self._receive(self._view[self._end :])

    def _receive(self, place: memoryview) -> int:
        """Receive some bytes before the deadline, however slowly they trickle."""
        try:
            self._sock.settimeout(max(0.001, self._deadline - time.monotonic()))
            size = self._sock.recv_into(place)
        except TimeoutError as error:
            raise self._lost(TimeoutError("no reply in time")) from error
        except OSError as error:
            raise self._lost(error) from error
        if not size:
            raise self._lost(ConnectionResetError("closed by the server"))
        return size

    def _line(self) -> bytes:
        while (found := self._buffer.find(b"\r\n", self._start, self._end)) < 0:
            self._fill()
        line = bytes(self._view[self._start : found])
        self._start = found + 2
        return line

    def _bulk(self, size: int, into: memoryview | None) -> memoryview:
        data = into if into is not None and into.nbytes == size else allocate(size)
        here = min(size, self._end - self._start)
        data[:here] = self._view[self._start : self._start + here]
        self._start += here
        while here < size:
            here += self._receive(data[here:])
        while self._end - self._start < 2:
            self._fill()
        self._start += 2
        return data

    def _reply(self, into: memoryview | None = None) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return None if rest == b"-1" else self._bulk(self._size(rest, LARGEST_STRING), into)
        if kind == b":" and rest.removeprefix(b"-").isdigit():
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"*":
            if rest == b"-1":
                return None
            return [self._reply() for _ in range(self._size(rest, MOST_ELEMENTS))]
        if kind == b"-":
            raise ReplyError(rest.decode(errors="replace"))
        raise FmiChannelError(f"{self.where} does not speak Redis's protocol: {line[:40]!r}")

    def _size(self, text: bytes, limit: int) -> int:
        if not text.isdigit() or int(text) > limit:
            raise self._lost(
                ConnectionError(f"a reply of size {text[:20]!r}, at most {limit} expected")
            )
        return int(text)
