"""The direct channel: one TCP connection for each pair of ranks.

One thread, no locks: an operation that waits for one rank blocks in a single ``recv`` on that
rank's socket, which is the fastest wait there is. Only when nothing came for `TICK` seconds, or a
socket's buffer is full, it polls all sockets at once: then messages of other ranks are put
aside, aborts and deaths are noticed, and new connections are made.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from fmilib.codec import NOTHING, allocate
from fmilib.collectives.peer_to_peer import PeerToPeer
from fmilib.errors import (
    FmiChannelError,
    FmiError,
    FmiMismatch,
    FmiPeerLost,
    FmiTimeout,
    ranks_text,
)
from fmilib.frame import HEADER, KIND_NAMES, Header, Kind, Packet, pack_header
from fmilib.rendezvous import protocol, punching
from fmilib.rendezvous.client import Address, Rendezvous, bound_socket, error_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fmilib.channels.base import Call

TICK: Final = 0.02  # seconds that a wait sees one rank only
_TICK_OPTION: Final = struct.pack("ll", 0, int(TICK * 1e6))
READ_BYTES: Final = 16 * 1024  # one read of small frames; larger payloads go where they belong
JOINED_BYTES: Final = 8 * 1024  # up to here header and payload are copied into one send
INBOX_BYTES: Final = 1 << 30  # of messages that arrived before they were asked for
MESH_RANKS: Final = 64  # up to here every pair is connected at the start
REDIAL_SECONDS: Final = 0.3
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_REFUSED: Final = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EADDRNOTAVAIL, errno.EADDRINUSE)

Stream = tuple[int, int, bool]  # sender, communicator, whether point-to-point


class Connection:
    """A peer's socket and the frames that arrive on it."""

    __slots__ = ("_buffer", "_channel", "_end", "_filled", "_header", "_packet", "_start",
                 "_target", "_view", "rank", "said_bye", "sock")  # fmt: skip

    def __init__(self, channel: DirectChannel, sock: socket.socket, rank: int) -> None:
        self._channel = channel
        self.sock = sock
        self.rank = rank
        self.said_bye = False
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._header: Header | None = None
        self._packet: Packet | None = None
        self._target: memoryview | None = None
        self._filled = 0

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
            self._channel.lose(self, str(error))

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
            self._channel.deliver(self, self._header, self._packet)

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
            self._channel.deliver(
                self, header, Packet(header.code, data, header.count, description)
            )
        left = self._end - self._start
        if left and self._start:
            self._buffer[:left] = self._buffer[self._start : self._end]
        self._start, self._end = 0, left

    def _begin_large(self, header: Header, body: int) -> None:
        """Receive the rest of a large payload where it is wanted, without a copy."""
        target = self._channel.target_of(self, header)
        here = self._end - body
        target[:here] = self._view[body : self._end]
        description = bytes(self._view[body - header.description_size : body])
        self._header = header
        self._packet = Packet(header.code, target, header.count, description)
        self._target, self._filled = target, here
        self._start = self._end = 0


class Handshake:
    """A connection that has not shown yet which rank it belongs to."""

    __slots__ = ("candidate", "data", "dialled", "rank", "sock", "started")

    def __init__(
        self, sock: socket.socket, rank: int | None, candidate: tuple[Address, bool] | None
    ) -> None:
        self.sock = sock
        self.rank = rank  # None until an accepted one says it
        self.candidate = candidate
        self.dialled = candidate is not None
        self.data = b""
        self.started = time.monotonic()


class DirectChannel(PeerToPeer):
    """TCP between ranks.

    Parameters
    ----------
    rendezvous : Rendezvous
    rank, size : int
    mesh_ranks : int
        Up to this size all pairs connect at the start, in parallel; above, pairs connect when
        they first exchange a message.
    """

    name = "Direct"
    has_exchange = True

    def __init__(
        self, rendezvous: Rendezvous, rank: int, size: int, mesh_ranks: int = MESH_RANKS
    ) -> None:
        self.rank = rank
        self.size = size
        self.mesh_ranks = mesh_ranks
        self.session = 0
        self.epoch = rendezvous.epoch
        self.connections: dict[int, Connection] = {}
        self.lost: dict[int, str] = {}
        self._met: set[int] = set()  # ranks that have been connected
        self.failure: FmiError | None = None
        self._told: list[int] | None = None
        self._rendezvous: Rendezvous | None = rendezvous
        self._key = b""
        self._addresses: list[tuple[Address, Address]] = []
        self._listener: socket.socket | None = None
        self._port = 0
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._handshakes: dict[int, Handshake] = {}
        self._redial: list[tuple[float, int, tuple[Address, bool]]] = []
        self._inbox: dict[Stream, deque[tuple[Header, Packet]]] = {}
        self._inbox_bytes = 0
        self._sinks: dict[Stream, memoryview] = {}
        self._outgoing: dict[int, list[memoryview]] = {}

    # Joining and leaving ------------------------------------------------------------------

    def open(self, timeout: float) -> None:
        """Join through the rendezvous server, then connect to all, or when needed."""
        deadline = time.monotonic() + timeout
        rendezvous = self._rendezvous
        assert rendezvous is not None
        try:
            if self.size == 1:
                return
            self._listen()
            self._addresses = rendezvous.join(self._port, timeout)
            self.session = protocol.session_id(rendezvous.session, rendezvous.number)
            self._key = rendezvous.key
            if rendezvous.sock is not None:
                self._register(rendezvous.sock, self._on_control)
            if self.size <= self.mesh_ranks:
                self._connect_all(deadline, timeout)
        except BaseException:
            self.close(clean=False)
            raise

    def _listen(self) -> None:
        listener = bound_socket(0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("", 0))
        listener.listen(1024)
        listener.setblocking(False)
        self._listener = listener
        self._port = listener.getsockname()[1]
        self._register(listener, self._on_accept)

    def _connect_all(self, deadline: float, timeout: float) -> None:
        peers = [rank for rank in range(self.size) if rank != self.rank]
        for peer in peers:
            self._dial(peer)
        # A rank that has connected may have done its part and left while others still connect.
        while len(self._met) < len(peers):
            self._check()
            missing = [peer for peer in peers if peer not in self._met]
            dead = [peer for peer in missing if peer in self.lost]
            if dead:
                raise FmiPeerLost(f"{ranks_text(dead)} died while the ranks connected", dead)
            self._progress(deadline, FmiTimeout(
                f"no connection to {ranks_text(missing)} within {timeout:g} s", missing
            ))  # fmt: skip

    def close(self, *, clean: bool) -> None:
        """Say goodbye if clean, and close every socket."""
        for connection in self.connections.values():
            if clean:
                self._send_control(connection, Kind.BYE, b"")
                # Unread input would turn the close into a reset, which drops what we sent last.
                with contextlib.suppress(OSError):
                    while connection.sock.recv(READ_BYTES, socket.MSG_DONTWAIT):
                        pass
            connection.sock.close()
        for handshake in self._handshakes.values():
            handshake.sock.close()
        if self._listener is not None:
            self._listener.close()
        if self._rendezvous is not None:
            self._rendezvous.close(polite=clean)
        self.connections.clear()
        self._handshakes.clear()
        self._handlers.clear()
        self._inbox.clear()
        self._redial.clear()
        self._listener = self._rendezvous = None

    def abort(self, error: FmiError) -> None:
        """Tell the connected ranks, and through the server all others."""
        body = {"error": type(error).__name__, "message": str(error), "ranks": list(error.ranks)}
        payload = json.dumps(body).encode()
        for connection in self.connections.values():
            self._send_control(connection, Kind.ABORT, payload)
        if self._rendezvous is not None and self.size > 1:
            # Best effort: to connected ranks the frames above went out already.
            with contextlib.suppress(OSError, EOFError):
                self._rendezvous.send_abort(error)

    def _send_control(self, connection: Connection, kind: int, payload: bytes) -> None:
        packet = Packet(NOTHING, payload, 0)
        frame = pack_header(packet, kind, self.rank, 0, self.epoch, self.session, 0, 0) + payload
        # If it is gone or does not read, there is no better way to tell it.
        if connection.rank not in self._outgoing:
            with contextlib.suppress(OSError):
                connection.sock.send(frame, _SEND_FLAGS)

    # Messages -----------------------------------------------------------------------------

    def post(self, call: Call, dst: int, step: int, packet: Packet) -> None:
        """Send a frame; what the socket has no room for while receiving from all."""
        connection = self._begin_send(call, dst, step, packet)
        if connection is not None:
            peer = connection.rank
            late = FmiTimeout(f"{call}: rank {peer} did not read within {call.timeout:g} s", [peer])
            self._flush([peer], call, late)

    def _begin_send(self, call: Call, dst: int, step: int, packet: Packet) -> Connection | None:
        """Send what the socket takes at once; return the connection if some is left."""
        peer = call.ranks[dst]
        connection = self.connections.get(peer)
        if connection is None:
            connection = self._connect(peer, call)
        nbytes = packet.nbytes
        header = pack_header(
            packet, call.kind, self.rank, call.comm, self.epoch, self.session, call.op, step
        )
        pieces: list[memoryview] = []
        total = len(header) + nbytes
        sent = 0
        try:
            if nbytes <= JOINED_BYTES:
                frame = b"".join((header, packet.data))
                sent = connection.sock.send(frame, _SEND_FLAGS)
            else:
                frame = header
                sent = connection.sock.sendmsg((header, packet.data), (), _SEND_FLAGS)
        except BlockingIOError:
            pass
        except OSError as error:
            self._peer_broke(connection, error, call)
        if sent == total:
            return None
        pieces = [memoryview(frame)]
        if frame is header:
            pieces.append(memoryview(packet.data))
        while pieces[0].nbytes <= sent:
            sent -= pieces.pop(0).nbytes
        pieces[0] = pieces[0][sent:]
        self._outgoing[peer] = pieces
        self._poll.modify(connection.sock, select.POLLIN | select.POLLOUT)
        return connection

    def _send_more(self, connection: Connection) -> None:
        """Send of a connection's rest what its socket takes now."""
        pieces = self._outgoing.get(connection.rank, [])
        try:
            while pieces:
                size = connection.sock.send(pieces[0], _SEND_FLAGS)
                pieces[0] = pieces[0][size:]
                if not pieces[0].nbytes:
                    pieces.pop(0)
        except BlockingIOError:
            return
        except OSError as error:
            self.lose(connection, str(error))
        self._outgoing.pop(connection.rank, None)
        if connection.rank in self.connections:
            self._poll.modify(connection.sock, select.POLLIN)

    def _flush(self, peers: Sequence[int], call: Call, late: FmiTimeout) -> None:
        """Send all that is left for some peers, receiving from all meanwhile."""
        while any(peer in self._outgoing for peer in peers):
            self._check()
            self._check_awaited(peers, call)
            self._progress(call.deadline, late)
        self._check_awaited(peers, call)

    def exchange(
        self,
        call: Call,
        packets: Sequence[Packet],
        step: int = 0,
        sinks: Sequence[memoryview] | None = None,
    ) -> list[Packet]:
        """Send and receive all at once: no rank's full buffer holds up the others."""
        others = [(call.rank + distance) % call.size for distance in range(1, call.size)]
        streams = {src: (call.ranks[src], call.comm, False) for src in others}
        if sinks is not None:
            self._sinks.update({streams[src]: sinks[src] for src in others})
        try:
            for dst in others:
                self._begin_send(call, dst, step, packets[dst])
            peers = [call.ranks[dst] for dst in others]
            while True:
                waiting = [p for s, p in zip(others, peers, strict=True)
                           if not self._inbox.get(streams[s])]  # fmt: skip
                if not waiting and not self._outgoing:
                    break
                self._check()
                self.awaiting = waiting
                behind = waiting or list(self._outgoing)
                self._check_awaited(behind, call)
                self._progress(call.deadline, FmiTimeout(
                    f"{call}: after {call.timeout:g} s still waiting for {ranks_text(behind)}",
                    behind,
                ))  # fmt: skip
        finally:
            self.awaiting = ()
            for stream in streams.values():
                self._sinks.pop(stream, None)
        return [
            packets[src] if src == call.rank
            else self.take(call, src, step, None if sinks is None else sinks[src])
            for src in range(call.size)
        ]  # fmt: skip

    def _peer_broke(self, connection: Connection, error: OSError, call: Call) -> None:
        """Prefer what the peer said before its connection broke to the fact that it did."""
        if isinstance(error, FmiError):
            raise error
        try:
            while connection.rank in self.connections:
                connection.pump(socket.MSG_DONTWAIT)
        except BlockingIOError:
            self.lose(connection, str(error))
        self._check_awaited([connection.rank], call)

    def take(self, call: Call, src: int, step: int, sink: memoryview | None = None) -> Packet:
        """Return the next frame of the stream, which must be the one that the call is about."""
        peer = call.ranks[src]
        stream = (peer, call.comm, call.kind == Kind.MESSAGE)
        queue = self._inbox.get(stream)
        if queue is None:
            queue = self._inbox[stream] = deque()
        if not queue:
            if sink is not None:
                self._sinks[stream] = sink
            try:
                self._await(queue, peer, call)
            except FmiTimeout as late:
                if self.awaiting:
                    raise
                raise self._ask_why(late, peer, call) from None
            finally:
                self._sinks.pop(stream, None)
        header, packet = queue.popleft()
        self._inbox_bytes -= header.nbytes
        if header.kind != call.kind or header.op != call.op or header.step != step:
            raise FmiMismatch(
                f"{call}: rank {peer} sent {header.describe()} step {header.step}, "
                f"this rank expects step {step}",
                [peer],
            )
        if sink is not None and packet.data is not sink and packet.nbytes == sink.nbytes:
            sink[:] = packet.data
            packet.data = sink
        return packet

    def _await(self, queue: deque[tuple[Header, Packet]], peer: int, call: Call) -> None:
        """Receive until the stream has a message: first from that rank alone, then from all."""
        connection = self.connections.get(peer)
        try:
            while connection is not None and not queue:
                connection.pump(0)
                if peer not in self.connections or self.failure is not None:
                    break
        except BlockingIOError:  # nothing within a tick
            pass
        late: FmiTimeout | None = None
        while not queue:
            self._check()
            self._check_awaited(self.awaiting or [peer], call, arrived=queue)
            if self.connections.get(peer) is None and self._addresses:
                self._connect(peer, call)
            if late is None:
                late = FmiTimeout(
                    f"{call}: after {call.timeout:g} s still waiting for rank {peer}", [peer]
                )
            if not queue:
                self._progress(call.deadline, late)

    def _ask_why(self, late: FmiTimeout, peer: int, call: Call) -> FmiError:
        """Ask the rank that kept us waiting whom it waits for itself; that one is to blame."""
        connection = self.connections.get(peer)
        if connection is None:
            return late
        self._told = None
        self._send_control(connection, Kind.ASK, b"")
        deadline = time.monotonic() + min(0.2, 0.05 * call.timeout)
        try:
            while self._told is None and self.failure is None and peer in self.connections:
                self._progress(deadline, late)
        except FmiTimeout:  # it does not answer, so it is in no operation: it is the one
            return late
        if self.failure is not None:
            return self.failure
        if not self._told:
            return late
        return FmiTimeout(
            f"{call}: after {call.timeout:g} s still waiting for rank {peer}, which waits for "
            f"{ranks_text(self._told)}",
            self._told,
        )

    def _check_awaited(
        self, ranks: Sequence[int], call: Call, arrived: deque[Any] | None = None
    ) -> None:
        """Raise for a rank that this operation needs, that is gone and has sent nothing."""
        if not self.lost or arrived:
            return
        gone = [
            rank
            for rank in ranks
            if rank in self.lost and not self._inbox.get((rank, call.comm, call.kind == 1))
        ]
        if gone:
            self._check()
            how = "; ".join(f"rank {rank}: {self.lost[rank]}" for rank in gone[:5])
            raise FmiPeerLost(f"{call}: lost {ranks_text(gone)} ({how})", gone)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    # Called by connections ------------------------------------------------------------------

    def deliver(self, connection: Connection, header: Header, packet: Packet) -> None:
        """Put a frame where its operation will look for it, or act on it."""
        if header.session != self.session or header.epoch != self.epoch:
            self.failure = FmiMismatch(
                f"rank {connection.rank} sent a frame of another session or epoch "
                f"({header.epoch}; here {self.epoch})",
                [connection.rank],
            )
            return
        if header.kind >= Kind.ABORT:
            self._on_control_frame(connection, header, packet)
            return
        stream = (connection.rank, header.comm, header.kind == Kind.MESSAGE)
        queue = self._inbox.get(stream)
        if queue is None:
            queue = self._inbox[stream] = deque()
        self._inbox_bytes += header.nbytes
        if self._inbox_bytes > INBOX_BYTES:
            self.failure = FmiError(
                f"more than {INBOX_BYTES >> 20} MiB arrived that no operation has asked for, "
                f"last {KIND_NAMES.get(header.kind)} of rank {connection.rank}",
                [connection.rank],
            )
        queue.append((header, packet))

    def _on_control_frame(self, connection: Connection, header: Header, packet: Packet) -> None:
        if header.kind == Kind.BYE:
            connection.said_bye = True
        elif header.kind == Kind.ABORT:
            self._fail_by_peer(json.loads(bytes(packet.data)))
        elif header.kind == Kind.ASK:
            waiting = json.dumps([rank for rank in self.awaiting if rank != connection.rank])
            self._send_control(connection, Kind.TOLD, waiting.encode())
        elif header.kind == Kind.TOLD:
            self._told = json.loads(bytes(packet.data))

    def _fail_by_peer(self, message: dict[str, Any]) -> None:
        if self.failure is None:
            culprits = message.get("ranks", [])
            if culprits == [self.rank] and self.awaiting:
                # It waited for us while we waited for others: they are the reason.
                message = {
                    **message,
                    "ranks": list(self.awaiting),
                    "message": f"{message.get('message')}; rank {self.rank} in turn was waiting "
                    f"for {ranks_text(self.awaiting)}",
                }
            self.failure = error_of(message)

    def target_of(self, connection: Connection, header: Header) -> memoryview:
        """Return the memory that a large payload is received into."""
        if self._sinks:
            stream = (connection.rank, header.comm, header.kind == Kind.MESSAGE)
            sink = self._sinks.get(stream)
            if sink is not None and sink.nbytes == header.nbytes and not self._inbox.get(stream):
                return self._sinks.pop(stream)
        if self._inbox_bytes + header.nbytes > INBOX_BYTES:
            raise FmiMismatch(
                f"rank {connection.rank} announces a message of {header.nbytes} bytes; "
                f"the limit is {INBOX_BYTES}",
                [connection.rank],
            )
        return allocate(header.nbytes)

    def lose(self, connection: Connection, reason: str) -> None:
        """Note that a peer's connection ended."""
        rank = connection.rank
        if self.connections.get(rank) is connection:
            del self.connections[rank]
        self._outgoing.pop(rank, None)
        self._unregister(connection.sock)
        self.lost.setdefault(
            rank, "it had closed its communicator" if connection.said_bye else reason
        )

    # Progress on all sockets ------------------------------------------------------------------

    def _register(self, sock: socket.socket, handler: Callable[[int], None]) -> None:
        self._handlers[sock.fileno()] = handler
        self._poll.register(sock, select.POLLIN)

    def _unregister(self, sock: socket.socket) -> None:
        if self._handlers.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock)
        sock.close()

    def _progress(self, deadline: float, late: FmiTimeout) -> None:
        """Wait for any socket and handle what it has; raise ``late`` at the deadline."""
        now = time.monotonic()
        if now >= deadline:
            raise late
        wait = min(deadline - now, 1.0)
        if self._redial:
            wait = min(wait, max(0.0, self._redial[0][0] - now))
        if self._handshakes:
            wait = min(wait, REDIAL_SECONDS)
        for descriptor, events in self._poll.poll(wait * 1000 + 1):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler(events)
        self._keep_dialling()

    def _on_ready(self, connection: Connection, events: int) -> None:
        if events & select.POLLOUT:
            self._send_more(connection)
        if events & ~select.POLLOUT and connection.rank in self.connections:
            with contextlib.suppress(BlockingIOError):
                connection.pump(socket.MSG_DONTWAIT)

    def _on_control(self, _: int) -> None:
        rendezvous = self._rendezvous
        if rendezvous is None or rendezvous.sock is None:
            return
        try:
            messages = rendezvous.receive(0.0)
        except (OSError, EOFError):
            # The server has gone. The ranks are connected and do not need it.
            self._unregister(rendezvous.sock)
            rendezvous.sock = None
            return
        for message in messages:
            if message["type"] == "abort":
                self._fail_by_peer(message)
            elif message["type"] == "lost" and message["rank"] not in self.connections:
                self.lost.setdefault(message["rank"], "the rendezvous server lost it")
            elif message["type"] == "punch" and message["rank"] not in self.connections:
                self._dial(message["rank"])

    # Connecting -------------------------------------------------------------------------------

    def _connect(self, peer: int, call: Call) -> Connection:
        """Connect to one rank now."""
        if peer not in self.connections and peer not in self.lost:
            if not any(h.rank == peer for h in self._handshakes.values()):
                self._dial(peer)
                if self._rendezvous is not None:
                    # Without the server only plain connects work.
                    with contextlib.suppress(OSError):
                        self._rendezvous.ask_punch(peer)
            late = FmiTimeout(
                f"{call}: no connection to rank {peer} within {call.timeout:g} s", [peer]
            )
            while peer not in self.connections:
                self._check()
                if peer in self.lost:
                    break
                self._progress(call.deadline, late)
        self._check_awaited([peer], call)
        if peer not in self.connections:
            raise FmiPeerLost(f"{call}: lost rank {peer}: {self.lost[peer]}", [peer])
        return self.connections[peer]

    def _dial(self, peer: int) -> None:
        for candidate in punching.candidates(self.rank, peer, self._addresses):
            self._dial_one(peer, candidate)

    def _dial_one(self, peer: int, candidate: tuple[Address, bool]) -> None:
        address, own_port = candidate
        try:
            sock = bound_socket(self._port if own_port else 0)
        except OSError as error:
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
        self._begin_handshake(Handshake(sock, peer, candidate), select.POLLOUT)

    def _keep_dialling(self) -> None:
        now = time.monotonic()
        for handshake in list(self._handshakes.values()):
            if now - handshake.started < REDIAL_SECONDS:
                continue
            waits = handshake.rank is not None and handshake.rank not in self.connections
            if handshake.candidate is None:
                if now - handshake.started > 5.0:  # a stranger that says nothing
                    self._end_handshake(handshake)
            elif not waits:
                self._end_handshake(handshake)
            elif handshake.candidate[1] and handshake.data == b"" and handshake.dialled:
                # A SYN that met a closed NAT is lost; a fresh one is faster than its repetition.
                self._end_handshake(handshake)
                self._redial.append((now, handshake.rank or 0, handshake.candidate))
        due = [entry for entry in self._redial if entry[0] <= now]
        if due:
            self._redial = [entry for entry in self._redial if entry[0] > now]
            for _, peer, candidate in due:
                if peer not in self.connections and peer not in self.lost:
                    self._dial_one(peer, candidate)

    def _begin_handshake(self, handshake: Handshake, events: int) -> None:
        descriptor = handshake.sock.fileno()
        self._handshakes[descriptor] = handshake
        self._handlers[descriptor] = lambda ready: self._on_handshake(handshake, ready)
        self._poll.register(handshake.sock, events)

    def _end_handshake(self, handshake: Handshake) -> None:
        self._handshakes.pop(handshake.sock.fileno(), None)
        self._unregister(handshake.sock)

    def _on_accept(self, _: int) -> None:
        assert self._listener is not None
        while True:
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._begin_handshake(Handshake(sock, None, None), select.POLLIN)

    def _on_handshake(self, handshake: Handshake, events: int) -> None:
        sock = handshake.sock
        try:
            if events & select.POLLOUT and handshake.dialled:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, "connect")
                assert handshake.rank is not None
                self._greet(sock, handshake.rank, chosen=False)
                handshake.dialled = False  # connected
                self._poll.modify(sock, select.POLLIN)
                return
            data = sock.recv(punching.HELLO.size - len(handshake.data), socket.MSG_DONTWAIT)
            if not data:
                raise ConnectionResetError("closed in the handshake")
        except BlockingIOError:
            return
        except OSError:
            self._end_handshake(handshake)
            if handshake.candidate is not None and handshake.rank is not None:
                entry = (time.monotonic() + 0.05, handshake.rank, handshake.candidate)
                self._redial.append(entry)
            return
        handshake.data += data
        if len(handshake.data) == punching.HELLO.size:
            self._on_hello(handshake)

    def _on_hello(self, handshake: Handshake) -> None:
        greeting = punching.read_hello(
            self._key, self.session, self.epoch, self.rank, handshake.data
        )
        if greeting is None or greeting[0] in self.connections:
            self._end_handshake(handshake)
            return
        peer, chosen = greeting
        handshake.data = b""
        accepted = handshake.candidate is None and handshake.rank is None
        handshake.rank = peer
        try:
            if self.rank < peer:  # the lower rank chooses: the first good one
                self._greet(handshake.sock, peer, chosen=True)
                self._adopt(handshake, peer)
            elif chosen:
                self._adopt(handshake, peer)
            elif accepted:
                self._greet(handshake.sock, peer, chosen=False)
        except OSError:
            self._end_handshake(handshake)

    def _greet(self, sock: socket.socket, peer: int, *, chosen: bool) -> None:
        sock.send(
            punching.hello(self._key, self.session, self.epoch, self.rank, peer, chosen=chosen),
            socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL,
        )

    def _adopt(self, handshake: Handshake, peer: int) -> None:
        sock = handshake.sock
        self._handshakes.pop(sock.fileno(), None)
        # Blocking, with the kernel's own time limit: a wait is then one system call.
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TICK_OPTION)
        connection = Connection(self, sock, peer)
        self.connections[peer] = connection
        self._met.add(peer)
        self.lost.pop(peer, None)
        self._handlers[sock.fileno()] = lambda ready: self._on_ready(connection, ready)
        self._poll.modify(sock, select.POLLIN)
        for other in list(self._handshakes.values()):
            if other.rank == peer:
                self._end_handshake(other)
