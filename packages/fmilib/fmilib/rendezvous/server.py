"""The rendezvous server: one asyncio process, no state on disk.

All is bounded: the number of connections, those of one address that have not joined yet, the
length of a message, the bytes waiting to be sent to one client, and the time that a session may
wait for its ranks. Where a bound is reached, the connection that has taken longest to join makes
room, so that strangers who say nothing, or little by little, keep no rank out. A client that dies
while others wait frees its place; one that dies afterwards is reported to the others.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import socket
import sys
import time
from collections import OrderedDict
from typing import Any, Final

from fmilib.rendezvous import protocol

Address = tuple[str, int]
MAX_NAME: Final = 512
IDLE_SECONDS: Final = 20.0  # for a connection that has not joined yet
# Ranks join at once, so that many ranks behind one NAT stay far below it.
MAX_JOINING: Final = 1024
JOIN_SECONDS: Final = 0.5  # that a connection has, unless its address holds four times as many
WAVE: Final = 256  # clients that are sent their peers before the loop serves others


def log(level: str, event: str, **fields: Any) -> None:
    """Write one JSON line to standard error."""
    record = {"time": round(time.time(), 3), "level": level, "event": event, **fields}
    sys.stderr.write(json.dumps(record, separators=(",", ":")) + "\n")


class Session:
    """The ranks of one session and epoch that have joined, and whether all have."""

    __slots__ = ("aborted", "complete", "created", "gave_up", "key", "members", "number", "size")

    def __init__(self, key: tuple[str, int], size: int, now: float) -> None:
        self.key = key
        self.size = size
        self.number = secrets.token_hex(8)
        self.created = now
        self.members: dict[int, Client] = {}
        self.gave_up: set[int] = set()  # came, waited for the others, and left
        self.complete = False
        self.aborted: dict[str, Any] | None = None

    def absent(self) -> list[int]:
        """Ranks that have never come."""
        here = self.members.keys() | self.gave_up
        return [rank for rank in range(self.size) if rank not in here]


class Server:
    """Sessions, and the rules by which ranks join and leave them.

    Parameters
    ----------
    token : str or None
        Shared secret; None accepts everyone.
    max_clients : int
        Connections at once; when all have joined, more are refused.
    max_joining : int
        Connections of one address that have not joined yet, beyond which the oldest makes room
        once it has had half a second.
    session_seconds : float
        How long a session may wait for its ranks, whatever they ask for.
    """

    def __init__(
        self,
        token: str | None,
        *,
        max_clients: int = 20_000,
        max_joining: int = MAX_JOINING,
        session_seconds: float = 900.0,
    ) -> None:
        self.token = token
        self.max_clients = max_clients
        self.max_joining = max_joining
        self.session_seconds = session_seconds
        self.sessions: dict[tuple[str, int], Session] = {}
        self.clients: set[Client] = set()
        # Clients that have not joined yet, the oldest first: all, and those of each address.
        self._joining: dict[Client, None] = {}
        self._joining_of: dict[str, dict[Client, None]] = {}
        self.nonces: OrderedDict[str, float] = OrderedDict()
        self.started = time.monotonic()
        self.completed = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> Address:
        """Listen; return the address (the port may be 0)."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Client(self), host, port, backlog=4096, reuse_address=True
        )
        address = self._server.sockets[0].getsockname()
        log("INFO", "listening", host=address[0], port=address[1], authenticated=bool(self.token))
        return address[0], address[1]

    async def stop(self) -> None:
        """Stop listening, and hang up on every client."""
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.finish()  # ranks that wait take it for a restart, and join again
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)
        log("INFO", "stopped", sessions=len(self.sessions), completed=self.completed)

    def admit(self, client: Client) -> bool:
        """Take a connection in; the slowest to join makes room. False if all have joined."""
        address = client.public[0]
        neighbours = self._joining_of.get(address, {})
        if len(neighbours) >= self.max_joining:
            oldest = next(iter(neighbours))
            patient = len(neighbours) < 4 * self.max_joining
            if not patient or time.monotonic() - oldest.since > JOIN_SECONDS:
                self._drop(oldest)
        if len(self.clients) >= self.max_clients:
            if not self._joining:
                return False
            self._drop(next(iter(self._joining)))
        self.clients.add(client)
        self._joining[client] = None
        self._joining_of.setdefault(address, {})[client] = None
        return True

    def no_longer_joining(self, client: Client) -> None:
        """Note that a connection has joined, or is gone."""
        if client in self._joining:
            del self._joining[client]
            others = self._joining_of[client.public[0]]
            del others[client]
            if not others:
                del self._joining_of[client.public[0]]

    def _drop(self, client: Client) -> None:
        self.no_longer_joining(client)
        self.clients.discard(client)
        client.drop()

    def health(self) -> dict[str, Any]:
        """Return what the health check answers."""
        return {
            "status": "ok",
            "uptime_seconds": round(time.monotonic() - self.started, 3),
            "clients": len(self.clients),
            "sessions": len(self.sessions),
            "waiting": sum(len(s.members) for s in self.sessions.values() if not s.complete),
            "completed_sessions": self.completed,
        }

    def join(self, client: Client, message: dict[str, Any]) -> None:
        """Take a rank into its session; complete the session when it was the last."""
        problem = self._refusal(message)
        if problem is not None:
            client.fail(*problem)
            return
        key = (message["session"], message["epoch"])
        rank, size = message["rank"], message["size"]
        session = self.sessions.get(key)
        if session is not None and session.complete and not message["strict"]:
            # Without a session name of its own, a full session that lives under the same name
            # is an earlier run; the newcomer begins the next one.
            session = None
        if session is None:
            session = self.sessions[key] = Session(key, size, time.monotonic())
        if session.aborted is not None:
            client.send(session.aborted)
            return
        if session.size != size:
            client.fail(
                "FmiMismatch",
                f"session {key[0]!r} has {session.size} ranks; rank {rank} says {size}",
            )
            return
        if session.complete:
            client.fail(
                "FmiDuplicateRank",
                f"rank {rank} already takes part in session {key[0]!r}, epoch {key[1]}; "
                "ranks that start again need a new epoch, all of them",
            )
            return
        earlier = session.members.get(rank)
        if earlier is not None:
            earlier.session = None
            earlier.fail(
                "FmiDuplicateRank", f"another process joined as rank {rank} after this one"
            )
        session.members[rank] = client
        session.gave_up.discard(rank)
        client.joined(session, rank, message)
        if len(session.members) == size:
            self._spawn(self._complete(session))

    def _refusal(self, message: dict[str, Any]) -> tuple[str, str] | None:
        session, rank, size = message.get("session"), message.get("rank"), message.get("size")
        local = message.get("local")
        if (
            message.get("v") != protocol.VERSION
            or not isinstance(session, str)
            or not 0 < len(session) <= MAX_NAME
            or not all(type(message.get(n)) is int for n in ("rank", "size", "epoch", "time"))
            or not isinstance(message.get("strict"), bool)
            or not isinstance(message.get("nonce"), str)
            or not isinstance(message.get("wait"), int | float)
            or not (isinstance(local, list) and len(local) == 2 and isinstance(local[0], str))
        ):
            return "FmiMismatch", "malformed join message"
        if not (0 <= message["rank"] < message["size"] <= self.max_clients):
            return "FmiMismatch", f"rank {rank} of {size} ranks is not possible"
        if self.token is None:
            return None
        if not protocol.verify(self.token, message):
            return "FmiDenied", "the token is not the rendezvous server's"
        now = time.time()
        if abs(now - message["time"]) > protocol.CLOCK_SKEW:
            return "FmiDenied", "the clocks of rank and server differ by more than 5 minutes"
        if message["nonce"] in self.nonces:
            return "FmiDenied", "this join was seen before"
        self.nonces[message["nonce"]] = now
        while self.nonces and now - next(iter(self.nonces.values())) > 2 * protocol.CLOCK_SKEW:
            self.nonces.popitem(last=False)
        return None

    async def _complete(self, session: Session) -> None:
        """Send every member the addresses of all; large groups in waves."""
        session.complete = True
        self.completed += 1
        members = [session.members[rank] for rank in range(session.size)]
        addresses: list[list[str | int]] = [[*c.public, *c.local] for c in members]
        line = protocol.encode(protocol.peers_message(session.number, addresses))
        for position, client in enumerate(members):
            client.cancel_timer()
            client.write(line)
            if position % WAVE == WAVE - 1:
                await asyncio.sleep(0)
                await asyncio.gather(
                    *(c.drained() for c in members[position + 1 - WAVE : position + 1])
                )
        log(
            "INFO",
            "session complete",
            session=session.key[0],
            epoch=session.key[1],
            ranks=session.size,
            seconds=round(time.monotonic() - session.created, 3),
        )

    def leave(self, client: Client, *, polite: bool) -> None:
        """Take a rank out; the others of a complete session learn of one that died."""
        session, client.session = client.session, None
        if session is None or session.members.get(client.rank) is not client:
            return
        del session.members[client.rank]
        if session.complete and not polite:
            self._tell(session, {"type": "lost", "rank": client.rank})
            log("WARNING", "rank lost", session=session.key[0], rank=client.rank)
        if not session.members and self.sessions.get(session.key) is session:
            del self.sessions[session.key]

    def expire(self, client: Client) -> None:
        """End one rank's wait for the others."""
        session = client.session
        if session is None or session.complete:
            return
        session.gave_up.add(client.rank)
        client.send({"type": "timeout", "absent": session.absent()})
        log("WARNING", "wait expired", session=session.key[0], rank=client.rank)
        client.finish()

    def abort(self, session: Session, message: dict[str, Any]) -> None:
        """Pass an abort on to every member, present and yet to come."""
        session.aborted = {
            "type": "abort",
            "error": str(message.get("error", ""))[:64],
            "message": str(message.get("message", ""))[:1024],
            "ranks": [r for r in message.get("ranks", []) if type(r) is int][:1024],
        }
        self._tell(session, session.aborted)
        log("WARNING", "session aborted", session=session.key[0], **session.aborted)

    def abort_by_name(self, client: Client, message: dict[str, Any]) -> None:
        """Abort a session on behalf of a rank that cannot join any more (its error handler)."""
        problem = self._refusal(message)
        if problem is not None:
            client.fail(*problem)
            return
        key = (message["session"], message["epoch"])
        session = self.sessions.get(key)
        if session is None:
            # Ranks that come later must not wait: the abort is kept while the session may last.
            session = self.sessions[key] = Session(key, message["size"], time.monotonic())
        self.abort(session, message["abort"] if isinstance(message.get("abort"), dict) else {})
        asyncio.get_running_loop().call_later(self.session_seconds, self._forget, session)
        client.send({"type": "ok"})
        client.finish()

    def _forget(self, session: Session) -> None:
        if self.sessions.get(session.key) is session and not session.members:
            del self.sessions[session.key]

    def relay(self, client: Client, message: dict[str, Any]) -> None:
        """Ask another rank to punch towards this one."""
        session = client.session
        other = session.members.get(message.get("rank", -1)) if session is not None else None
        if other is not None:
            other.send({"type": "punch", "rank": client.rank})

    def _tell(self, session: Session, message: dict[str, Any]) -> None:
        line = protocol.encode(message)
        for member in session.members.values():
            member.write(line)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Client(asyncio.Protocol):
    """One connection: a rank, a health check, or a stranger."""

    __slots__ = (
        "_buffer",
        "_drained",
        "_server",
        "_timer",
        "_transport",
        "local",
        "public",
        "rank",
        "session",
        "since",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = b""
        self._drained: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.session: Session | None = None
        self.rank = -1
        self.since = time.monotonic()
        self.public: Address = ("", 0)
        self.local: Address = ("", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the connection, and give it a little time to join."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.public = transport.get_extra_info("peername")[:2]
        if not self._server.admit(self):
            self.fail("FmiChannelError", "the rendezvous server is full")
            return
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):  # a silent client is found dead after a minute
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        self._start_timer(IDLE_SECONDS, self.finish)

    def data_received(self, data: bytes) -> None:
        """Handle complete lines; what is longer than a message may be is refused."""
        buffer = self._buffer + data
        while (end := buffer.find(b"\n")) >= 0:
            line, buffer = buffer[:end], buffer[end + 1 :]
            if self._transport is None or self._transport.is_closing():
                return
            self._handle(line)
        if len(buffer) > protocol.MAX_LINE:
            self.fail("FmiMismatch", f"a message is longer than {protocol.MAX_LINE} bytes")
            return
        self._buffer = buffer

    def _handle(self, line: bytes) -> None:
        if line.startswith((b"GET ", b"HEAD ")):
            self._answer_http()
            return
        try:
            message = json.loads(line)
            kind = message["type"]
        except (ValueError, TypeError, KeyError):
            self.fail("FmiMismatch", "not a rendezvous message")
            return
        if kind == "join" and self.session is None:
            self._server.join(self, message)
        elif kind == "abort" and self.session is not None:
            self._server.abort(self.session, message)
        elif kind == "abort":
            self._server.abort_by_name(self, message)
        elif kind == "punch":
            self._server.relay(self, message)
        elif kind == "bye":
            self._server.leave(self, polite=True)
            self.finish()
        elif kind == "health":
            self.send({"type": "health", **self._server.health()})
        else:
            self.fail("FmiMismatch", f"unexpected message of type {str(kind)[:40]!r}")

    def _answer_http(self) -> None:
        body = json.dumps(self._server.health()).encode()
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        self.write(head.encode() + body)
        self.finish()

    def joined(self, session: Session, rank: int, message: dict[str, Any]) -> None:
        """Note the rank, and begin its wait."""
        self._server.no_longer_joining(self)
        self.session, self.rank = session, rank
        self.local = (message["local"][0][:64], int(message["local"][1]))
        wait = max(0.0, min(float(message["wait"]), self._server.session_seconds))
        self._start_timer(wait, lambda: self._server.expire(self))

    def _start_timer(self, seconds: float, action: Any) -> None:
        self.cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, action)

    def cancel_timer(self) -> None:
        """End the time limit of the current stage."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self.write(protocol.encode(message))

    def write(self, line: bytes) -> None:
        """Send one encoded message; a client that does not read is dropped."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(line)
        if transport.get_write_buffer_size() > max(4 * len(line), 1 << 20):
            transport.abort()

    def fail(self, error: str, message: str) -> None:
        """Refuse, saying why, and hang up."""
        self.send({"type": "error", "error": error, "message": message})
        self.finish()

    def finish(self) -> None:
        """Close after what is to be sent has been."""
        self.cancel_timer()
        if self._transport is not None:
            self._transport.close()

    def drop(self) -> None:
        """Hang up at once."""
        self.cancel_timer()
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        """Note that the client does not keep up."""
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Note that the client has caught up."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    async def drained(self) -> None:
        """Wait, at most 5 seconds, until the client has taken what was sent."""
        if self._drained is not None:
            await asyncio.wait([self._drained], timeout=5)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and notify its session."""
        self.cancel_timer()
        self.resume_writing()
        self._server.clients.discard(self)
        self._server.no_longer_joining(self)
        self._server.leave(self, polite=False)
        self._transport = None


async def serve(server: Server, host: str, port: int, port_file: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    address = await server.start(host, port)
    if port_file is not None:
        from pathlib import Path

        partial = Path(port_file + ".partial")
        partial.write_text(str(address[1]))
        partial.rename(port_file)
    await stop.wait()
    await server.stop()
