"""The direct channel: one TCP connection for each pair of ranks.

One thread, no locks: an operation that waits for one rank blocks in a single ``recv`` on that
rank's socket, which is the fastest wait there is. Only when nothing came for `TICK` seconds, or a
socket's buffer is full, it polls all sockets at once: then messages of other ranks are put
aside, aborts and deaths are noticed, and new connections are made.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from fmilib.backend import Backend
from fmilib.channels.base import Channel
from fmilib.channels.connection import SEND_FLAGS, Connection
from fmilib.channels.connector import Connector
from fmilib.channels.inbox import Inbox, Queue, stream_of
from fmilib.channels.poller import Poller
from fmilib.codec import NOTHING
from fmilib.collectives.chain import GROUP_RANKS
from fmilib.collectives.peer_to_peer import PeerToPeer, traffic
from fmilib.errors import (
    FmiConfigError,
    FmiError,
    FmiMismatch,
    FmiPeerLost,
    FmiTimeout,
    from_wire,
    ranks_text,
)
from fmilib.frame import Header, Kind, Packet, check_header, pack_header
from fmilib.rendezvous import protocol
from fmilib.rendezvous.client import Address, Rendezvous

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fmilib.call import Call
    from fmilib.member import Member

MOST_SPINS: Final = 32  # looks at a socket before sleeping on it, some 1.5 µs each
MESH_RANKS: Final = 64  # up to here every pair is connected at the start
ABORT_SECONDS: Final = 5.0  # to notify the rendezvous server


class DirectChannel(PeerToPeer, Channel):
    """TCP between ranks.

    Parameters
    ----------
    settings : mapping
        ``host`` and ``port`` of the rendezvous server; ``mesh_ranks``, up to which size all pairs
        connect at the start, in parallel (above, pairs connect when they first exchange a
        message); ``group_ranks``, see `fmilib.collectives.chain`.
    member : Member
    """

    name = "Direct"
    has_exchange = True

    def __init__(self, settings: Mapping[str, Any], member: Member) -> None:
        self.rank = member.rank
        self.size = member.size
        self.mesh_ranks = settings.get("mesh_ranks", MESH_RANKS)
        self.group_ranks = settings.get("group_ranks", GROUP_RANKS)
        self.session = 0
        self.epoch = member.epoch
        self.connections: dict[int, Connection] = {}
        self.lost: dict[int, str] = {}
        self.failure: FmiError | None = None
        self._met: set[int] = set()  # ranks that have been connected
        self._behind: set[int] = set()  # ranks whose sockets have not taken all yet
        self._spins = 0
        self._call: Call | None = None  # what takes frames, while ranks are awaited
        self._told: dict[str, Any] | None = None
        self._timeout = member.timeout
        server = (settings["host"], settings["port"])
        self._rendezvous: Rendezvous | None = Rendezvous(server, member)
        self._poller = Poller()
        self._connector = Connector(
            self.rank, self._poller, self.connections, self.lost, self._adopt
        )
        self._inbox = Inbox()

    @property
    def port(self) -> int:
        """The local port on which this rank listens, and from which it dials."""
        return self._connector.port

    # Joining and leaving ------------------------------------------------------------------

    def open(self, timeout: float) -> None:
        """Join through the rendezvous server, then connect to all, or when needed."""
        deadline = time.monotonic() + timeout
        rendezvous = self._rendezvous
        assert rendezvous is not None
        try:
            if self.size == 1:
                return
            self._connector.listen(rendezvous.listening_host())
            addresses = rendezvous.join(self._connector.port, timeout)
            self.session = protocol.session_id(rendezvous.member.session, rendezvous.number)
            self._spins = MOST_SPINS if _has_a_core(self.rank, addresses) else 0
            self._connector.start(rendezvous.key, self.session, self.epoch, addresses)
            if rendezvous.sock is not None:
                self._poller.add(rendezvous.sock, self._on_control)
            if self.size <= self.mesh_ranks:
                self._connect_all(deadline, timeout)
        except BaseException:
            self.close(clean=False)
            raise

    def _connect_all(self, deadline: float, timeout: float) -> None:
        peers = [rank for rank in range(self.size) if rank != self.rank]
        for peer in peers:
            self._connector.dial(peer)
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
        """Say goodbye if clean, and close every socket.

        Raises
        ------
        FmiMismatch
            Another rank has taken part in a collective operation that this one never called, or
            called otherwise.
        """
        unread: FmiMismatch | None = None
        if clean:
            for connection in list(self.connections.values()):
                self._send_control(connection, Kind.BYE, b"")
                # Unread input would turn the close into a reset, which drops what we sent last.
                with contextlib.suppress(BlockingIOError, FmiError):
                    while connection.rank in self.connections:
                        connection.pump(socket.MSG_DONTWAIT)
            unread = self._inbox.unread()
        for connection in self.connections.values():
            connection.sock.close()
        self._connector.close()
        if self._rendezvous is not None:
            self._rendezvous.close(polite=clean)
        self.connections.clear()
        self._poller.clear()
        self._inbox.clear()
        self._rendezvous = None
        if unread is not None and self.failure is None:
            raise unread

    def abort(self, error: FmiError) -> None:
        """Tell the connected ranks, and through the server all others."""
        payload = json.dumps(error.to_wire()).encode()
        for connection in self.connections.values():
            self._send_control(connection, Kind.ABORT, payload)
        if self._rendezvous is not None and self.size > 1:
            # Best effort: to connected ranks the frames above went out already.
            with contextlib.suppress(OSError, EOFError, FmiError):
                self._rendezvous.send_abort(error, min(ABORT_SECONDS, self._timeout))

    def _send_control(self, connection: Connection, kind: int, payload: bytes) -> None:
        packet = Packet(NOTHING, payload, 0)
        frame = pack_header(packet, kind, self.rank, 0, self.epoch, self.session, 0, 0) + payload
        # If it is gone or does not read, there is no better way to reach it.
        if connection.rank not in self._behind:
            with contextlib.suppress(OSError):
                connection.sock.send(frame, SEND_FLAGS)

    # Messages -----------------------------------------------------------------------------

    def post(self, call: Call, dst: int, step: int, packet: Packet) -> None:
        """Send a frame; what the socket has no room for while receiving from all."""
        peer = call.ranks[dst]
        if self._begin_send(call, peer, step, packet):
            return
        late = FmiTimeout(f"{call}: rank {peer} did not read within {call.timeout:g} s", [peer])
        while peer in self._behind:
            self._check()
            self._check_awaited([peer], call)
            self._progress(call.deadline, late)
        self._check_awaited([peer], call)

    def _begin_send(self, call: Call, peer: int, step: int, packet: Packet) -> bool:
        """Send what the socket takes at once; return whether that was all."""
        connection = self.connections.get(peer)
        if connection is None:
            connection = self._connect(peer, call)
        header = pack_header(
            packet, call.kind, self.rank, call.comm, self.epoch, self.session, call.op, step,
            call.terms,
        )  # fmt: skip
        try:
            if connection.send(header, packet.data, packet.nbytes):
                return True
        except OSError as error:
            self._peer_broke(connection, error, call)
            return True  # it said all that we need before it went
        self._behind.add(peer)
        self._poller.watch(connection.sock, select.POLLIN | select.POLLOUT)
        return False

    def exchange(
        self,
        call: Call,
        packets: Sequence[Packet],
        step: int = 0,
        sinks: Sequence[memoryview] | None = None,
    ) -> list[Packet]:
        """Send and receive all at once: no rank's full buffer holds up the others."""
        size, rank = call.size, call.rank
        sources = [(rank - distance) % size for distance in range(1, size)]
        streams = {src: stream_of(call, call.ranks[src]) for src in sources}
        if sinks is not None:
            self._inbox.sinks.update({streams[src]: sinks[src] for src in sources})
        try:
            for dst in reversed(sources):  # each rank starts with another receiver
                self._begin_send(call, call.ranks[dst], step, packets[dst])
            while self._behind:
                # What does not come is missed below, by name.
                behind = sorted(self._behind)
                self._check()
                self._check_awaited(behind, call)
                self.awaiting = behind
                self._progress(call.deadline, FmiTimeout(
                    f"{call}: {ranks_text(behind)} did not read within {call.timeout:g} s", behind
                ))  # fmt: skip
            taken = dict(zip(sources, self.take_all(call, sources, step, sinks), strict=True))
        finally:
            self.awaiting = ()
            for stream in streams.values():
                self._inbox.sinks.pop(stream, None)
        return [packets[src] if src == rank else taken[src] for src in range(size)]

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
        stream = stream_of(call, peer)
        queue = self._inbox.queue(stream)
        if queue:
            # It came elsewhere before its place was known; what follows it does not belong there.
            self._inbox.sinks.pop(stream, None)
        else:
            if sink is not None:
                self._inbox.sinks[stream] = sink
            alone = not self.awaiting
            if alone:
                self.awaiting = (peer,)
            self._call = call
            try:
                self._await(queue, peer, call, sink)
            except FmiError as error:
                if sink is not None and (connection := self.connections.get(peer)) is not None:
                    connection.release(sink)
                if alone and isinstance(error, FmiTimeout):
                    raise self._ask_why(error, peer, call) from None
                raise
            finally:
                self._inbox.sinks.pop(stream, None)
                if alone:
                    self.awaiting = ()
        header, packet = self._inbox.pop(queue)
        check_header(header, call, step, peer)
        if sink is not None and packet.data is not sink and packet.nbytes == sink.nbytes:
            sink[:] = packet.data
            packet.data = sink
        return packet

    def _await(self, queue: Queue, peer: int, call: Call, sink: memoryview | None) -> None:
        """Receive until the stream has a message: first from that rank alone, then from all."""
        connection = self.connections.get(peer)
        if connection is not None and self._spins:
            self._spin(queue, connection, sink)
        try:
            while connection is not None and not queue:
                connection.pump(socket.MSG_WAITALL, sink)
                if peer not in self.connections or self.failure is not None:
                    break
                if time.monotonic() > call.deadline:  # bytes still trickle in
                    break
        except BlockingIOError:  # nothing within a tick
            pass
        late: FmiTimeout | None = None
        while not queue:
            self._check()
            self._check_awaited(self.awaiting or [peer], call, arrived=queue)
            if self.connections.get(peer) is None and self._connector.started:
                self._connect(peer, call)
            if late is None:
                late = FmiTimeout(
                    f"{call}: after {call.timeout:g} s still waiting for rank {peer}", [peer]
                )
            if not queue:
                self._progress(call.deadline, late)

    def _spin(self, queue: Queue, connection: Connection, sink: memoryview | None) -> None:
        """Look a few times before sleeping: being woken takes longer than a near message does.

        As many times as it has been worth it lately.
        """
        spins = self._spins
        for number in range(spins):
            try:
                connection.pump(socket.MSG_DONTWAIT, sink)
            except BlockingIOError:
                continue
            if queue or connection.rank not in self.connections:
                if number:
                    self._spins = min(MOST_SPINS, 2 * spins)
                return
        self._spins = max(1, spins // 2)

    def _absent(self, call: Call, sources: Sequence[int], step: int) -> FmiError:
        """Name those that have nothing for us; a single one is asked why."""
        late = super()._absent(call, sources, step)
        if not isinstance(late, FmiTimeout) or len(late.ranks) != 1:
            return late
        self.awaiting = late.ranks
        return self._ask_why(late, late.ranks[0], call)

    def _ask_why(self, late: FmiTimeout, peer: int, call: Call) -> FmiError:
        """Ask the rank that kept us waiting whom it waits for itself, and that one in turn.

        The last is to blame: one that waits for nobody, or does not answer.
        """
        deadline = time.monotonic() + min(0.2, 0.05 * call.timeout)
        path, culprits = [peer], [peer]
        while (told := self._ask(path[-1], deadline, late)) and self.failure is None:
            state = told.get("operation")
            if state and (mismatch := call.disagreement(path[-1], state)) is not None:
                return mismatch
            waiting: list[int] = told["waiting"]
            if not waiting:
                break
            culprits = waiting
            following = [rank for rank in waiting if rank not in path and rank != self.rank]
            if len(waiting) > 1 or not following:
                break
            path.append(following[0])
        if self.failure is not None:
            return self.failure
        if culprits == [peer]:
            return late
        return FmiTimeout(
            f"{call}: after {call.timeout:g} s still waiting for rank {peer}, which waits for "
            f"{ranks_text(culprits)}",
            culprits,
        )

    def _ask(self, peer: int, deadline: float, late: FmiTimeout) -> dict[str, Any] | None:
        """Return whom a rank waits for and in what, as it says itself; None without an answer."""
        connection = self.connections.get(peer)
        if connection is None:
            return None
        self._told = None
        self._send_control(connection, Kind.ASK, b"")
        with contextlib.suppress(FmiTimeout):
            while self._told is None and self.failure is None and peer in self.connections:
                self._progress(deadline, late)
        return self._told

    def _answer(self, connection: Connection) -> None:
        """Tell a rank that asks whom this one waits for, and in which operation."""
        body: dict[str, Any] = {"waiting": []}
        if self.awaiting and (call := self._call) is not None:
            body["operation"] = call.state
            body["waiting"] = [
                rank
                for rank in self.awaiting
                if rank != connection.rank and not self._inbox.queue(stream_of(call, rank))
            ]
        self._send_control(connection, Kind.TOLD, json.dumps(body).encode())

    def _check_awaited(
        self, ranks: Sequence[int], call: Call, arrived: Queue | None = None
    ) -> None:
        """Raise for a rank that this operation needs, that is gone and has sent nothing."""
        if not self.lost or arrived:
            return
        gone = [
            rank
            for rank in ranks
            if rank in self.lost and not self._inbox.queue(stream_of(call, rank))
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
        elif header.kind >= Kind.ABORT:
            self._on_control_frame(connection, header, packet)
        elif (error := self._inbox.put(header, packet, connection.rank)) is not None:
            self.failure = error

    def _on_control_frame(self, connection: Connection, header: Header, packet: Packet) -> None:
        if header.kind == Kind.BYE:
            connection.said_bye = True
        elif header.kind == Kind.ABORT:
            self._fail_by_peer(json.loads(bytes(packet.data)))
        elif header.kind == Kind.ASK:
            self._answer(connection)
        elif header.kind == Kind.TOLD:
            self._told = json.loads(bytes(packet.data))

    def _fail_by_peer(self, message: dict[str, Any]) -> None:
        if self.failure is None:
            culprits, late = message.get("ranks", []), message.get("error") == FmiTimeout.__name__
            if late and culprits == [self.rank] and self.awaiting:
                # It waited for us while we waited for others: they are the reason.
                message = {
                    **message,
                    "ranks": list(self.awaiting),
                    "message": f"{message.get('message')}; rank {self.rank} in turn was waiting "
                    f"for {ranks_text(self.awaiting)}",
                }
            self.failure = from_wire(message)

    def memory_for(self, connection: Connection, header: Header) -> memoryview:
        """Return the memory that a large payload is received into."""
        return self._inbox.memory_for(header, connection.rank)

    def lose(self, connection: Connection, reason: str) -> None:
        """Note that a peer's connection ended."""
        rank = connection.rank
        if self.connections.get(rank) is connection:
            del self.connections[rank]
        self._behind.discard(rank)
        self._poller.close(connection.sock)
        self.lost.setdefault(
            rank, "it had closed its communicator" if connection.said_bye else reason
        )

    # Progress on all sockets ------------------------------------------------------------------

    def _progress(self, deadline: float, late: FmiTimeout) -> None:
        """Wait for any socket and handle what it has; raise ``late`` at the deadline."""
        now = time.monotonic()
        if now >= deadline:
            raise late
        self._poller.wait(min(deadline - now, self._connector.patience(now)))
        self._connector.keep_dialling()

    def _on_ready(self, connection: Connection, events: int) -> None:
        if events & select.POLLOUT:
            self._send_more(connection)
        if events & ~select.POLLOUT and connection.rank in self.connections:
            with contextlib.suppress(BlockingIOError):
                connection.pump(socket.MSG_DONTWAIT)

    def _send_more(self, connection: Connection) -> None:
        try:
            if not connection.send_more():
                return
        except OSError as error:
            self.lose(connection, str(error))
            return
        self._behind.discard(connection.rank)
        self._poller.watch(connection.sock, select.POLLIN)

    def _on_control(self, _: int) -> None:
        rendezvous = self._rendezvous
        if rendezvous is None or rendezvous.sock is None:
            return
        try:
            messages = rendezvous.receive(0.0)
        except (OSError, EOFError):
            # The server has gone. The ranks are connected and do not need it.
            self._poller.close(rendezvous.sock)
            rendezvous.sock = None
            return
        for message in messages:
            if message["type"] == "abort":
                self._fail_by_peer(message)
            elif message["type"] == "lost" and message["rank"] not in self.connections:
                self.lost.setdefault(message["rank"], "the rendezvous server lost it")
            elif message["type"] == "punch" and message["rank"] not in self.connections:
                self._connector.dial(message["rank"])

    # Connecting -------------------------------------------------------------------------------

    def _connect(self, peer: int, call: Call) -> Connection:
        """Connect to one rank now."""
        if peer not in self.connections and peer not in self.lost:
            if not self._connector.dials(peer):
                self._connector.dial(peer)
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

    def _adopt(self, peer: int, sock: socket.socket) -> None:
        connection = Connection(self, sock, peer)
        self.connections[peer] = connection
        self._met.add(peer)
        self.lost.pop(peer, None)
        self._poller.add(sock, lambda ready: self._on_ready(connection, ready))


def _has_a_core(rank: int, addresses: Sequence[tuple[Address, Address]]) -> bool:
    """Whether the ranks of this machine have a core each, so that one may wait awake."""
    hosts = [(public[0], local[0]) for public, local in addresses]
    return hosts.count(hosts[rank]) <= len(os.sched_getaffinity(0))


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any] | None:
    rendezvous = environment.get("FMI_RENDEZVOUS")
    if not rendezvous:
        return None
    host, separator, port = rendezvous.rpartition(":")
    if not separator or not port.isdigit():
        raise FmiConfigError(f"FMI_RENDEZVOUS is host:port, not {rendezvous!r}")
    return {"host": host, "port": int(port)}


BACKEND: Final = Backend(
    name="Direct",
    open=DirectChannel,
    settings={
        "host": str,
        "port": int,
        "mesh_ranks": int,
        "group_ranks": int,
        "resolve_host_dns": object,  # the C++ library's; names are always resolved here
    },
    required=(("host", "port"),),
    # Measured between Lambda functions by Copik et al., "FMI: Fast and Cheap Message Passing for
    # Serverless Functions" (ICS 2023); prices of us-east-1, the C++ library's defaults.
    costs={
        "bandwidth": 250.0,
        "overhead": 0.34,
        "transfer_price": 0.0,
        "vm_price": 0.0134,
        "requests_per_hour": 1000.0,
        "include_infrastructure_costs": True,
    },
    traffic=traffic,
    from_environment=_from_environment,
)
