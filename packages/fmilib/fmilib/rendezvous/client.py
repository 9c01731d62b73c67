"""A rank's connection to the rendezvous server."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any

from fmilib.errors import FmiChannelError, FmiError, FmiTimeout, from_wire, ranks_text
from fmilib.rendezvous import protocol

if TYPE_CHECKING:
    from fmilib.member import Member

Address = tuple[str, int]
# A slice of a large exchange fits, so that all ranks send before they wait. The kernel caps it.
SOCKET_BYTES = 4 << 20
LOOPBACK = "127.0.0.1"
GRACE = 0.25  # seconds beyond a join's end in which the server is taken for busy
SEND_SECONDS = 1.0  # for a line to the server that nothing depends on


class Rendezvous:
    """Joins a session, then carries control messages.

    Parameters
    ----------
    server : (str, int)
        Host and port of the rendezvous server.
    member : Member
        What to join.
    """

    def __init__(self, server: Address, member: Member) -> None:
        self.server = server
        self.member = member
        self.number = ""
        self.sock: socket.socket | None = None
        self.local: Address = ("", 0)
        self._pending = b""

    @property
    def key(self) -> bytes:
        """The key with which peers authenticate each other."""
        return protocol.peer_key(self.member.token or "", self.member.session, self.number)

    def join(self, port: int, timeout: float) -> list[tuple[Address, Address]]:
        """Register and wait for all ranks.

        Parameters
        ----------
        port : int
            Local port to come from: the one that peers are to reach, so that the address that
            the server sees is theirs to use.
        timeout : float
            Seconds.

        Returns
        -------
        list of (public, local)
            Each rank's address as the server sees it, and as the rank itself does.

        Raises
        ------
        FmiTimeout
            Naming the ranks that did not come.
        FmiChannelError
            The server cannot be reached.
        FmiDuplicateRank, FmiDenied, FmiMismatch, FmiAborted
            The server's refusal.
        """
        deadline = time.monotonic() + timeout
        pause = 0.02
        while True:
            try:
                self._connect(port, deadline)
                # The server ends the wait itself, naming who is absent, and needs time to say so.
                wait = deadline - time.monotonic() - min(0.25, 0.1 * timeout)
                self._send({**self.join_message("join"), "wait": max(0.0, wait)}, deadline)
                return self._await_peers(deadline)
            except (OSError, EOFError) as error:
                # Not up yet, or restarted: those that waited join again.
                self.close()
                if isinstance(error, FmiError):
                    raise
                if time.monotonic() + pause > deadline:
                    raise FmiChannelError(
                        f"the rendezvous server {self.server[0]}:{self.server[1]} did not answer "
                        f"within {timeout:g} s: {error or 'connection closed'}"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 1.0)

    def listening_host(self) -> str:
        """Return the address that a rank should listen on.

        It is the loopback address where the server is on it: the server then sees and reports
        loopback addresses only, so that no peer on another machine could come. Else it is all
        addresses (an empty string).

        Raises
        ------
        FmiChannelError
            The server's host is unknown.
        """
        return LOOPBACK if self._address()[0].startswith("127.") else ""

    def _address(self) -> Address:
        """Look up the server's IPv4 address."""
        try:
            found = socket.getaddrinfo(*self.server, socket.AF_INET, socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise FmiChannelError(f"unknown host {self.server[0]!r}: {error}") from error
        host, port = found[0][4][:2]
        return str(host), int(port)

    def _connect(self, port: int, deadline: float) -> None:
        address = self._address()
        self.sock = bound_socket(port)
        self.sock.settimeout(max(0.001, min(5.0, deadline - time.monotonic())))
        self.sock.connect(address)
        self.local = self.sock.getsockname()[:2]
        self._pending = b""

    def join_message(self, kind: str) -> dict[str, Any]:
        """Return a signed message of type ``join``, or ``abort`` without being a member."""
        member = self.member
        message: dict[str, Any] = {
            "v": protocol.VERSION,
            "type": kind,
            "session": member.session,
            "epoch": member.epoch,
            "rank": member.rank,
            "size": member.size,
            "strict": member.strict,
            "wait": 0.0,
            "local": list(self.local),
            "time": int(time.time()),
            "nonce": os.urandom(12).hex(),
        }
        message["mac"] = protocol.sign(member.token or "", message)
        return message

    def _await_peers(self, deadline: float) -> list[tuple[Address, Address]]:
        while True:
            for message in self.receive(max(0.0, deadline - time.monotonic()) + GRACE):
                kind = message["type"]
                if kind == "peers":
                    self.number = message["number"]
                    return protocol.peers_of(message)
                if kind == "timeout":
                    raise FmiTimeout(
                        f"{ranks_text(message['absent'])} of {self.member.size} did not join "
                        f"session {self.member.session} in time",
                        message["absent"],
                    )
                raise from_wire(message)

    def receive(self, timeout: float) -> list[dict[str, Any]]:
        """Return the messages that arrive within ``timeout``; EOFError when hung up."""
        if self.sock is None:
            return []
        poll = select.poll()  # select() fails on descriptors above 1023
        poll.register(self.sock, select.POLLIN)
        if timeout > 0 and not poll.poll(timeout * 1000):
            raise FmiChannelError("the rendezvous server fell silent")
        try:
            data = self.sock.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError("the rendezvous server closed the connection")
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def send_abort(self, error: FmiError, timeout: float) -> None:
        """Tell all ranks of the session through the server; needs no membership."""
        deadline = time.monotonic() + timeout
        if self.sock is not None:
            self._send({"type": "abort", **error.to_wire()}, deadline)
            return
        self._connect(0, deadline)
        self._send({**self.join_message("abort"), "abort": error.to_wire()}, deadline)
        for message in self.receive(max(0.001, deadline - time.monotonic())):
            if message["type"] != "ok":
                raise from_wire(message)

    def ask_punch(self, rank: int) -> None:
        """Ask another rank to connect towards this one."""
        if self.sock is not None:
            self._send({"type": "punch", "rank": rank}, time.monotonic() + SEND_SECONDS)

    def close(self, *, polite: bool = False) -> None:
        """Hang up, saying so or not."""
        if self.sock is None:
            return
        if polite:
            with contextlib.suppress(OSError):  # the server may be gone
                self._send({"type": "bye"}, time.monotonic() + SEND_SECONDS)
        self.sock.close()
        self.sock = None

    def _send(self, message: dict[str, Any], deadline: float) -> None:
        assert self.sock is not None
        self.sock.settimeout(max(0.001, deadline - time.monotonic()))
        self.sock.sendall(protocol.encode(message))


def bound_socket(port: int) -> socket.socket:
    """Return a TCP socket on a local port that others of this process use as well."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        if port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("", port))
    except OSError:
        sock.close()
        raise
    return sock
