"""Connecting to peers: listening, dialling, punching holes, and showing who one is."""

from __future__ import annotations

import errno
import select
import socket
import time
from typing import TYPE_CHECKING, Final

from fmilib.errors import FmiChannelError
from fmilib.rendezvous import punching
from fmilib.rendezvous.client import Address, bound_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from fmilib.channels.poller import Poller

REDIAL_SECONDS: Final = 0.3
STRANGER_SECONDS: Final = 5.0  # that one may connect and say nothing
MOST_STRANGERS: Final = 128  # more connections, beside one per rank, than may say nothing at once
REST_SECONDS: Final = 0.05  # without accepting, when the process has no file descriptors left
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_REFUSED: Final = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EADDRNOTAVAIL, errno.EADDRINUSE)

Candidate = tuple[Address, bool]  # where to dial, and whether from the own port


class Handshake:
    """A connection that has not shown yet which rank it belongs to."""

    __slots__ = ("candidate", "data", "dialled", "rank", "sock", "started")

    def __init__(self, sock: socket.socket, rank: int | None, candidate: Candidate | None) -> None:
        self.sock = sock
        self.rank = rank  # None until an accepted one says it
        self.candidate = candidate
        self.dialled = candidate is not None
        self.data = b""
        self.started = time.monotonic()


class Connector:
    """Makes one connection to each peer that it is asked for, and takes those of others.

    Parameters
    ----------
    rank : int
    poller : Poller
    connected, lost : container of int
        Peers that have a connection, and that are gone: the channel's own, looked at.
    adopt : callable
        Takes a rank and the socket that leads to it.
    """

    def __init__(
        self,
        rank: int,
        poller: Poller,
        connected: Container[int],
        lost: Container[int],
        adopt: Callable[[int, socket.socket], None],
    ) -> None:
        self._rank = rank
        self._poller = poller
        self._connected = connected
        self._lost = lost
        self._adopt_socket = adopt
        self._key = b""
        self._session = self._epoch = 0
        self._addresses: list[tuple[Address, Address]] = []
        self._listener: socket.socket | None = None
        self._handshakes: dict[int, Handshake] = {}
        self._redial: list[tuple[float, int, Candidate]] = []
        self._resting_until = 0.0  # the listener is not watched until then; 0 if it is
        self.port = 0

    def listen(self, host: str = "") -> None:
        """Listen on a port of its own, which is also the one to dial from.

        Parameters
        ----------
        host : str
            Address to listen on; all of the machine's by default.
        """
        listener = bound_socket(0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, 0))
        listener.listen(1024)
        listener.setblocking(False)
        self._listener = listener
        self.port = listener.getsockname()[1]
        self._poller.add(listener, self._on_accept)

    def start(
        self, key: bytes, session: int, epoch: int, addresses: list[tuple[Address, Address]]
    ) -> None:
        """Take the rendezvous server's answer: where the peers are, and how to know them."""
        self._key, self._session, self._epoch = key, session, epoch
        self._addresses = addresses

    @property
    def started(self) -> bool:
        """Whether the peers' addresses are known."""
        return bool(self._addresses)

    def dials(self, peer: int) -> bool:
        """Whether a connection to a peer is being made."""
        return any(handshake.rank == peer for handshake in self._handshakes.values())

    def dial(self, peer: int) -> None:
        """Begin to connect to a peer, unless it is the peer that dials."""
        for candidate in punching.candidates(self._rank, peer, self._addresses):
            self._dial_one(peer, candidate)

    def patience(self, now: float) -> float:
        """Return the seconds until :meth:`keep_dialling` has something to do."""
        wait = REDIAL_SECONDS if self._handshakes else 1.0
        if self._resting_until:
            wait = min(wait, self._resting_until - now)
        return max(0.0, min([wait, *(due - now for due, _, _ in self._redial)]))

    def keep_dialling(self) -> None:
        """Dial again what was refused or lost, and end handshakes that are of no use."""
        if not self._handshakes and not self._redial and not self._resting_until:
            return
        now = time.monotonic()
        if self._resting_until and now >= self._resting_until and self._listener is not None:
            self._resting_until = 0.0
            self._poller.watch(self._listener, select.POLLIN)
        for handshake in list(self._handshakes.values()):
            if now - handshake.started < REDIAL_SECONDS:
                continue
            if handshake.candidate is None:
                if now - handshake.started > STRANGER_SECONDS:
                    self._end(handshake)
            elif handshake.rank is None or handshake.rank in self._connected:
                self._end(handshake)
            elif handshake.candidate[1] and handshake.data == b"" and handshake.dialled:
                # A SYN that met a closed NAT is lost; a fresh one is faster than its repetition.
                self._end(handshake)
                self._redial.append((now, handshake.rank, handshake.candidate))
        due = [entry for entry in self._redial if entry[0] <= now]
        if due:
            self._redial = [entry for entry in self._redial if entry[0] > now]
            for _, peer, candidate in due:
                if peer not in self._connected and peer not in self._lost:
                    self._dial_one(peer, candidate)

    def close(self) -> None:
        """Close the listener and all that is not connected yet."""
        for handshake in list(self._handshakes.values()):
            self._end(handshake)
        if self._listener is not None:
            self._poller.close(self._listener)
            self._listener = None
        self._redial.clear()

    def _dial_one(self, peer: int, candidate: Candidate) -> None:
        address, own_port = candidate
        try:
            sock = bound_socket(self.port if own_port else 0)
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._end_oldest_stranger()
                self._redial.append((time.monotonic() + REST_SECONDS, peer, candidate))
                return
            raise FmiChannelError(f"cannot open a socket towards rank {peer}: {error}") from error
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            if code not in _REFUSED:
                raise FmiChannelError(
                    f"cannot reach rank {peer} at {address}: {errno.errorcode[code]}"
                )
            self._redial.append((time.monotonic() + 0.05, peer, candidate))
            return
        self._begin(Handshake(sock, peer, candidate), select.POLLOUT)

    def _begin(self, handshake: Handshake, events: int) -> None:
        self._handshakes[handshake.sock.fileno()] = handshake
        self._poller.add(handshake.sock, lambda ready: self._on_ready(handshake, ready), events)

    def _end(self, handshake: Handshake) -> None:
        self._handshakes.pop(handshake.sock.fileno(), None)
        self._poller.close(handshake.sock)

    def _on_accept(self, _: int) -> None:
        assert self._listener is not None
        while True:
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise FmiChannelError(f"cannot accept a connection: {error}") from error
                if not self._end_oldest_stranger():
                    # Nothing to give up: the connection has to wait in the kernel's queue.
                    self._resting_until = time.monotonic() + REST_SECONDS
                    self._poller.watch(self._listener, 0)
                    return
                continue
            if len(self._strangers()) >= MOST_STRANGERS + len(self._addresses):
                self._end_oldest_stranger()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._begin(Handshake(sock, None, None), select.POLLIN)

    def _strangers(self) -> list[Handshake]:
        """Return the accepted connections that have not said who they are, the oldest first."""
        return [
            handshake
            for handshake in self._handshakes.values()
            if handshake.candidate is None and handshake.rank is None
        ]

    def _end_oldest_stranger(self) -> bool:
        """Hang up on the slowest to say who it is; a rank among them dials again."""
        for handshake in self._strangers():
            self._end(handshake)
            return True
        return False

    def _on_ready(self, handshake: Handshake, events: int) -> None:
        sock = handshake.sock
        try:
            if events & select.POLLOUT and handshake.dialled:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, "connect")
                assert handshake.rank is not None
                self._greet(sock, handshake.rank, chosen=False)
                handshake.dialled = False  # connected
                self._poller.watch(sock, select.POLLIN)
                return
            data = sock.recv(punching.HELLO.size - len(handshake.data), socket.MSG_DONTWAIT)
            if not data:
                raise ConnectionResetError("closed in the handshake")
        except BlockingIOError:
            return
        except OSError:
            self._end(handshake)
            if handshake.candidate is not None and handshake.rank is not None:
                entry = (time.monotonic() + 0.05, handshake.rank, handshake.candidate)
                self._redial.append(entry)
            return
        handshake.data += data
        if len(handshake.data) == punching.HELLO.size:
            self._on_hello(handshake)

    def _on_hello(self, handshake: Handshake) -> None:
        greeting = punching.read_hello(
            self._key, self._session, self._epoch, self._rank, handshake.data
        )
        if greeting is None or greeting[0] in self._connected:
            self._end(handshake)
            return
        peer, chosen = greeting
        handshake.data = b""
        accepted = handshake.candidate is None and handshake.rank is None
        handshake.rank = peer
        try:
            if self._rank < peer:  # the lower rank chooses: the first good one
                self._greet(handshake.sock, peer, chosen=True)
                self._adopt(handshake, peer)
            elif chosen:
                self._adopt(handshake, peer)
            elif accepted:
                self._greet(handshake.sock, peer, chosen=False)
        except OSError:
            self._end(handshake)

    def _greet(self, sock: socket.socket, peer: int, *, chosen: bool) -> None:
        greeting = punching.hello(
            self._key, self._session, self._epoch, self._rank, peer, chosen=chosen
        )
        sock.send(greeting, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _adopt(self, handshake: Handshake, peer: int) -> None:
        self._handshakes.pop(handshake.sock.fileno(), None)
        self._adopt_socket(peer, handshake.sock)
        for other in list(self._handshakes.values()):
            if other.rank == peer:
                self._end(other)
