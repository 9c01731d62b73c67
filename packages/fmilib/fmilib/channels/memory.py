"""The memory channel: ranks that are threads of one process.

For tests, and for programs that run on one machine. It runs the algorithms of the direct channel
and behaves as that one does: messages are copies, deaths are seen at once, deadlines are kept.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from fmilib.backend import Backend
from fmilib.channels.base import Channel
from fmilib.channels.inbox import stream_of
from fmilib.collectives.chain import GROUP_RANKS
from fmilib.collectives.peer_to_peer import PeerToPeer, traffic
from fmilib.errors import (
    FmiChannelError,
    FmiDuplicateRank,
    FmiError,
    FmiMismatch,
    FmiPeerLost,
    FmiTimeout,
    from_wire,
    ranks_text,
)
from fmilib.frame import Header, check_header, pack_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fmilib.call import Call
    from fmilib.channels.inbox import Stream
    from fmilib.frame import Packet
    from fmilib.member import Member

    Post = Callable[["MemoryChannel", int], None]


class Network:
    """Where the ranks of one process meet; a configuration's ``network`` names one.

    Parameters
    ----------
    on_post : callable, optional
        Called with the sender's channel and the receiver's world rank before each message. It
        may sleep, close the channel as a killed process would (``clean=False``), or raise.
    sees_deaths : bool
        Whether ranks learn at once of one that is gone, as over TCP; otherwise they wait until
        their deadline, as over a server or a store.
    """

    def __init__(self, on_post: Post | None = None, *, sees_deaths: bool = True) -> None:
        self.on_post = on_post
        self.sees_deaths = sees_deaths
        self.lock = threading.Lock()
        self._sessions: dict[tuple[str, int], _Session] = {}

    def join(self, channel: MemoryChannel) -> _Session:
        """Take a rank into its session; the caller holds the lock.

        Raises
        ------
        FmiError
            The session's refusal.
        """
        member = channel.member
        key = (member.session, member.epoch)
        session = self._sessions.get(key)
        if session is None or (session.complete and not member.strict):
            session = self._sessions[key] = _Session(key, member.size)
        if session.aborted is not None:
            raise from_wire(session.aborted)
        if session.size != member.size:
            raise FmiMismatch(
                f"the session has {session.size} ranks; rank {member.rank} says {member.size}"
            )
        if session.complete:
            raise _duplicate(member)
        earlier = session.members.get(member.rank)
        session.members[member.rank] = channel
        if earlier is not None:
            earlier.changed.notify_all()  # it finds itself displaced
        session.came.add(member.rank)
        session.complete = len(session.members) == session.size
        session.wake()
        return session

    def abort(self, member: Member, error: FmiError) -> None:
        """Fail all ranks of a session, present and yet to come; the caller holds the lock."""
        key = (member.session, member.epoch)
        session = self._sessions.setdefault(key, _Session(key, member.size))
        if session.aborted is None:
            session.aborted = error.to_wire()
        session.wake()

    def leave(self, session: _Session, channel: MemoryChannel, how: str) -> None:
        """Take a rank out; the caller holds the lock."""
        rank = channel.member.rank
        if session.members.get(rank) is not channel:
            return
        if session.complete:
            session.gone[rank] = how
        else:
            del session.members[rank]
        if len(session.gone) == session.size and self._sessions.get(session.key) is session:
            del self._sessions[session.key]
        session.wake()


class _Session:
    """The ranks of one session and epoch."""

    def __init__(self, key: tuple[str, int], size: int) -> None:
        self.key = key
        self.size = size
        self.members: dict[int, MemoryChannel] = {}
        self.came: set[int] = set()
        self.gone: dict[int, str] = {}
        self.complete = False
        self.aborted: dict[str, Any] | None = None

    def wake(self) -> None:
        for channel in self.members.values():
            channel.changed.notify_all()


class MemoryChannel(PeerToPeer, Channel):
    """Messages between threads.

    Parameters
    ----------
    settings : mapping
        ``network``, the `Network` in which the ranks meet, default one that all share;
        ``group_ranks``, see `fmilib.collectives.chain`.
    member : Member
    """

    name = "Memory"
    has_exchange = True

    def __init__(self, settings: Mapping[str, Any], member: Member) -> None:
        self.member = member
        self.network: Network = settings.get("network") or PROCESS
        self.group_ranks = settings.get("group_ranks", GROUP_RANKS)
        self.changed = threading.Condition(self.network.lock)
        self.call: Call | None = None  # what takes messages, while ranks are awaited
        self._arrived: dict[Stream, deque[tuple[Header, Packet]]] = {}
        self._session: _Session | None = None

    def open(self, timeout: float) -> None:
        """Join the session and wait for all ranks."""
        deadline = time.monotonic() + timeout
        rank = self.member.rank
        with self.network.lock:
            session = self._session = self.network.join(self)
            while not session.complete:
                left = deadline - time.monotonic()
                if left <= 0:
                    absent = set(range(session.size)) - session.came
                    self.network.leave(session, self, "it gave up joining")
                    raise FmiTimeout(
                        f"{ranks_text(absent)} of {session.size} did not join the session in time",
                        absent,
                    )
                self.changed.wait(left)
                if session.aborted is not None:
                    raise from_wire(session.aborted)
                if session.members.get(rank) is not self:
                    raise _duplicate(self.member)

    def close(self, *, clean: bool) -> None:
        """Leave.

        Raises
        ------
        FmiMismatch
            Another rank has taken part in a collective operation that this one never called, or
            called otherwise.
        """
        session, self._session = self._session, None
        if session is None:
            return
        with self.network.lock:
            self.network.leave(
                session, self, "it had closed its communicator" if clean else "it died"
            )
            if clean and session.aborted is None:
                for (sender, _, is_message), queue in self._arrived.items():
                    if queue and not is_message:
                        raise FmiMismatch(
                            f"rank {sender} has taken part in {queue[0][0].describe()}, this rank "
                            "has not, or has with another root; all ranks must call the same "
                            "operations",
                            [sender],
                        )

    def abort(self, error: FmiError) -> None:
        """Fail all ranks of the session."""
        with self.network.lock:
            self.network.abort(self.member, error)

    def post(self, call: Call, dst: int, step: int, packet: Packet) -> None:
        """Put a copy into the receiver's memory."""
        receiver = call.ranks[dst]
        if self.network.on_post is not None:
            self.network.on_post(self, receiver)
        header = Header(
            pack_header(
                packet, call.kind, self.member.rank, call.comm, self.member.epoch,
                self.member.number, call.op, step, call.terms,
            )
        )  # fmt: skip
        stream, copied = stream_of(call, self.member.rank), packet.copy()
        with self.network.lock:
            session = self._opened(call)
            self._check(session)
            if receiver in session.gone and self.network.sees_deaths:
                raise self._lost(session, call, receiver)
            channel = session.members[receiver]
            channel._arrived.setdefault(stream, deque()).append((header, copied))
            channel.changed.notify_all()

    def take(self, call: Call, src: int, step: int, sink: memoryview | None = None) -> Packet:
        """Return the next message of a rank, which must be the one that the call is about."""
        sender = call.ranks[src]
        alone = not self.awaiting
        with self.network.lock:
            session = self._opened(call)
            queue = self._arrived.setdefault(stream_of(call, sender), deque())
            self.call = call
            if alone:
                self.awaiting = (sender,)
            try:
                while not queue:
                    self._check(session)
                    if sender in session.gone and self.network.sees_deaths:
                        raise self._lost(session, call, sender)
                    left = call.deadline - time.monotonic()
                    if left <= 0:
                        raise self._late(session, call, sender)
                    self.changed.wait(left)
            finally:
                if alone:
                    self.awaiting = ()
            header, packet = queue.popleft()
        check_header(header, call, step, sender)
        if sink is not None and sink.nbytes == packet.nbytes:
            sink[:] = packet.data
            packet.data = sink
        return packet

    def _opened(self, call: Call) -> _Session:
        if self._session is None:
            raise FmiChannelError(f"{call}: the channel is not open")
        return self._session

    def _check(self, session: _Session) -> None:
        if session.aborted is not None:
            raise from_wire(session.aborted)

    def _lost(self, session: _Session, call: Call, rank: int) -> FmiPeerLost:
        return FmiPeerLost(f"{call}: lost rank {rank}: {session.gone[rank]}", [rank])

    def _late(self, session: _Session, call: Call, sender: int) -> FmiError:
        """Name the ranks that keep this one waiting: those at the end of the chains of waits."""
        seen, culprits = {self.member.rank}, []
        looking: Sequence[int] = [sender]
        while looking:
            following: list[int] = []
            for rank in looking:
                if rank in seen:
                    continue
                seen.add(rank)
                channel = session.members[rank]
                if channel.awaiting and channel.call is not None and rank not in session.gone:
                    if (mismatch := call.disagreement(rank, channel.call.state)) is not None:
                        return mismatch
                    following += channel.awaiting
                else:
                    culprits.append(rank)
            looking = following
        ranks = culprits or [sender]
        return FmiTimeout(
            f"{call}: after {call.timeout:g} s still waiting for {ranks_text(ranks)}", ranks
        )


def _duplicate(member: Member) -> FmiDuplicateRank:
    return FmiDuplicateRank(
        f"another process takes part as rank {member.rank} in this session, epoch "
        f"{member.epoch}; ranks that start again need a new epoch, all of them",
        [member.rank],
    )


PROCESS: Final = Network()
"""Where ranks meet whose configuration names no network."""

BACKEND: Final = Backend(
    name="Memory",
    open=MemoryChannel,
    settings={"network": object, "group_ranks": int},
    # Measured between two threads: 0.026 ms a message, 10.9 GB/s.
    costs={"bandwidth": 10_900.0, "overhead": 0.026, "transfer_price": 0.0},
    traffic=traffic,
)
