"""The Redis channel: slots that the server fills and releases.

A slot belongs to one step of one operation. Every rank that has something for it contributes by
one script call; the contribution that completes it joins all, in rank order, and releases every
reader, which waits in ``BLPOP``. Contribution and wait travel in one write, so an operation is
one round trip, whatever the number of ranks; nothing polls and nothing scans keys.

Commands of N ranks (a payload over `INLINE_BYTES` costs a ``SET`` where it comes from and a
``GET`` where it goes; and each reader's farewell, one script, is not waited for):

=========  ======================================  ======================================
operation  scripts                                 waits (BLPOP)
=========  ======================================  ======================================
send       1                                       1
barrier    N                                       N
bcast      1                                       N-1
gather     N                                       1
scatter    N-1                                     N-1
allgather  N                                       N
reduce     N (by slices: N² + N)                   1 (by slices: N + 1)
allreduce  N (by slices: N² + N)                   N (by slices: 2N)
scan       N (by slices: 2N²)                      N (by slices: 2N)
=========  ======================================  ======================================

Every key expires by itself, and what was read is gone at once; the last rank that closes removes
the session's own keys.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from fmilib.backend import Backend, Traffic
from fmilib.channels.base import Channel
from fmilib.channels.resp import Argument, ReplyError, Resp
from fmilib.codec import NOTHING
from fmilib.collectives.peer_to_peer import LARGE_BYTES
from fmilib.errors import (
    FmiChannelError,
    FmiDuplicateRank,
    FmiError,
    FmiMismatch,
    FmiTimeout,
    from_wire,
    ranks_text,
)
from fmilib.frame import HEADER, Header, Kind, Packet, check_header, disagreement, pack_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fmilib.call import Call
    from fmilib.member import Member

# Above this a payload is stored under a key of its own, which scripts do not touch: Redis then
# moves it without copies.
INLINE_BYTES: Final = 8 * 1024
SESSION_SECONDS: Final = 900.0  # a Lambda function's longest life
CONNECT_SECONDS: Final = 5.0
# Redis looks for waits that have ended every tenth of a second.
SERVER_TICK: Final = 0.1
GRACE: Final = 0.25  # seconds beyond an operation's end in which the server is taken for busy
# To notify the others of a failure: a server that is stalled itself must not delay ours.
ABORT_SECONDS: Final = 0.5

_JOIN: Final = """
local base, strict, rank, size, ttl, nonce = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local gen = 's'
if strict == '0' then
  gen = redis.call('GET', base .. ':gen') or '0'
  if redis.call('EXISTS', base .. ':' .. gen .. ':open') == 1 then
    gen = tostring(tonumber(gen) + 1)
  end
  redis.call('SET', base .. ':gen', gen, 'PX', ttl)
end
local ns = base .. ':' .. gen
local aborted = redis.call('LINDEX', ns .. ':abort', 0)
if aborted then return {'abort', aborted} end
if redis.call('EXISTS', ns .. ':open') == 1 then return {'duplicate', ''} end
local members = ns .. ':members'
local known = redis.call('HGET', members, 'size')
if known and known ~= size then return {'size', known} end
local function tell(member, what)
  redis.call('RPUSH', ns .. ':ready:' .. member, what)
  redis.call('PEXPIRE', ns .. ':ready:' .. member, ttl)
end
-- An earlier process of this rank may be dead: the later one takes its place and notifies it.
local earlier = redis.call('HGET', members, rank)
if earlier then tell(earlier, 'displaced') end
redis.call('HSET', members, 'size', size, rank, nonce)
redis.call('PEXPIRE', members, ttl)
if redis.call('HLEN', members) - 1 == tonumber(size) then
  redis.call('SET', ns .. ':open', size, 'PX', ttl)
  for i = 0, tonumber(size) - 1 do tell(redis.call('HGET', members, i), 'ready') end
end
return {'ok', gen}
"""

# A slot's hash holds the contributions by place; when complete it is joined and removed.
_GIVE: Final = """
local slot, ready = KEYS[1], KEYS[2]
local place, frame, expected = ARGV[1], ARGV[2], tonumber(ARGV[3])
local readers, ttl = tonumber(ARGV[4]), ARGV[5]
local there = redis.call('LINDEX', ready, 0) or redis.call('HGET', slot, place)
if there then
  -- The sender begins at the frame's ninth byte.
  return redis.error_reply('FMITAKEN ' .. struct.unpack('<I4', there, 9))
end
redis.call('HSET', slot, place, frame)
local arrived = redis.call('HLEN', slot)
if arrived < expected then
  if arrived == 1 then redis.call('PEXPIRE', slot, ttl) end
  return arrived
end
local whole = frame
if expected > 1 then
  local parts = {}
  for i = 0, expected - 1 do parts[i + 1] = redis.call('HGET', slot, i) end
  whole = table.concat(parts)
end
redis.call('DEL', slot)
for i = 1, readers do redis.call('RPUSH', ready, whole) end
redis.call('PEXPIRE', ready, ttl)
redis.call('SET', ready .. ':left', readers, 'PX', ttl)
if KEYS[3] then redis.call('SADD', KEYS[3], slot) redis.call('PEXPIRE', KEYS[3], ttl) end
return arrived
"""

# After reading, every reader counts itself off; the last one removes what is left of the slot.
_DONE: Final = """
if redis.call('DECR', KEYS[1]) <= 0 then redis.call('UNLINK', unpack(KEYS)) end
"""

_ABORT: Final = """
for i = 1, tonumber(ARGV[2]) do redis.call('RPUSH', KEYS[1], ARGV[1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""

_LEAVE: Final = """
local ns = KEYS[1]
if redis.call('DECR', ns .. ':open') <= 0 then
  for _, slot in ipairs(redis.call('SMEMBERS', ns .. ':messages')) do
    redis.call('DEL', slot .. ':r', slot .. ':r:left', slot .. ':0')
  end
  redis.call('DEL', ns .. ':open', ns .. ':members', ns .. ':messages')
  if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
end
"""


class RedisChannel(Channel):
    """Messages through a Redis or Valkey server.

    Parameters
    ----------
    settings : mapping
        ``host`` and ``port``, or ``url``; ``ttl``, seconds after which a crashed session's keys
        are gone. ``FMI_REDIS_PASSWORD`` is the password if the URL has none.
    member : Member
        The keys of an operation outlive its time-out by a minute.
    """

    name = "Redis"
    allgather_is_one_round = True
    has_exchange = True

    def __init__(self, settings: Mapping[str, Any], member: Member) -> None:
        self._url = _url(settings)
        self._member = member
        self._rank = member.rank
        self._ttl = int(1000 * settings.get("ttl", SESSION_SECONDS))
        self._slot_ttl = int(1000 * min(self._ttl / 1000, 2 * member.timeout + 60))
        self._base = f"fmi:{{{member.digest}}}"
        self._ns = f"{self._base}:s"
        self._session = member.number
        self._resp: Resp | None = None
        self._scripts: dict[str, str] = {}
        self._generation = "s"

    # Session --------------------------------------------------------------------------------

    def open(self, timeout: float) -> None:
        """Join the session by one script, then wait for all ranks."""
        end = time.monotonic() + timeout + GRACE
        deadline = end - GRACE - min(0.25, 0.1 * timeout)
        member, nonce = self._member, secrets.token_hex(8)
        resp = self._connect(timeout)
        try:
            answer, detail = (
                bytes(part)
                for part in self._script(
                    end, _JOIN, [self._base], "1" if member.strict else "0",
                    member.rank, member.size, self._ttl, nonce,
                )
            )  # fmt: skip
            if answer == b"abort":
                raise from_wire(json.loads(detail))
            if answer == b"duplicate":
                raise self._duplicate()
            if answer == b"size":
                raise FmiMismatch(
                    f"the session has {detail.decode()} ranks; rank {member.rank} says "
                    f"{member.size}"
                )
            self._generation = detail.decode()
            self._ns = f"{self._base}:{self._generation}"
            wait = ("BLPOP", f"{self._ns}:ready:{nonce}", f"{self._ns}:abort", _seconds(deadline))
            resp.send([wait], _left(end))
            reply = resp.read(_left(end))
            if reply is None:
                joined = resp.call(_left(end), "HKEYS", f"{self._ns}:members")
                present = {int(k) for k in map(bytes, joined) if k != b"size"}
                absent = sorted(set(range(member.size)) - present)
                raise FmiTimeout(
                    f"{ranks_text(absent)} of {member.size} did not join the session in time",
                    absent,
                )
            self._raise_abort(reply)
            if bytes(reply[1]) == b"displaced":
                raise self._duplicate()
        except BaseException:
            self.close(clean=False)
            raise

    def _duplicate(self) -> FmiDuplicateRank:
        return FmiDuplicateRank(
            f"another process takes part as rank {self._rank} in this session, epoch "
            f"{self._member.epoch}; ranks that start again need a new epoch, all of them",
            [self._rank],
        )

    def _connect(self, timeout: float) -> Resp:
        if self._resp is None:
            self._resp = Resp(self._url, min(timeout, CONNECT_SECONDS))
        return self._resp

    def close(self, *, clean: bool) -> None:
        """Leave; the last rank to do so removes the session's keys.

        Raises
        ------
        FmiMismatch, FmiDuplicateRank
            The server refused an earlier contribution of this rank.
        """
        if self._resp is None:
            return
        refused: ReplyError | None = None
        if clean:
            end = time.monotonic() + min(CONNECT_SECONDS, self._member.timeout)
            # A server that is gone has nothing left to remove.
            with contextlib.suppress(FmiError, ReplyError):
                try:
                    self._resp.settle(_left(end))
                except ReplyError as error:
                    refused = error
                self._script(end, _LEAVE, [self._ns, f"{self._base}:gen"], self._generation)
        self._resp.close()
        self._resp = None
        if refused is not None:
            raise self._refused(refused)

    def abort(self, error: FmiError) -> None:
        """Release every waiting rank with the error."""
        with contextlib.suppress(FmiError, ReplyError):
            if self._resp is not None:
                # A wait may be pending on the old connection: its reply is of no use any more.
                self._resp.close()
                self._resp = None
            limit = min(ABORT_SECONDS, self._member.timeout)
            end = time.monotonic() + limit
            self._connect(limit)
            key, text = f"{self._ns}:abort", json.dumps(error.to_wire())
            self._script(end, _ABORT, [key], text, self._member.size, self._slot_ttl)

    # Operations -----------------------------------------------------------------------------

    def send(self, call: Call, dst: int, packet: Packet) -> None:
        """Fill a slot of one contribution."""
        slot = self._slot(call, f"{call.rank}>{dst}")
        self._run(call, self._give(call, slot, 0, 1, 1, packet, 0, kept=True))

    def recv(self, call: Call, src: int, sink: memoryview | None = None) -> Packet:
        """Wait for a slot of one contribution."""
        slot = self._slot(call, f"{src}>{call.rank}")
        return self._collect(call, slot, [], 0, [src], None if sink is None else [sink])[0]

    def barrier(self, call: Call) -> None:
        """Fill one slot together and wait for it."""
        self.allgather(call, Packet(NOTHING, b"", 0))

    def bcast(
        self,
        call: Call,
        packet: Packet | None,
        root: int,
        nbytes: int | None,
        sink: memoryview | None = None,
    ) -> Packet:
        """Fill a slot that all others read."""
        slot = self._slot(call, "0")
        if packet is not None:
            self._run(call, self._give(call, slot, 0, 1, call.size - 1, packet, 0))
            return packet
        return self._collect(call, slot, [], 0, [root], None if sink is None else [sink])[0]

    def gather(self, call: Call, packet: Packet, root: int, step: int = 0) -> list[Packet] | None:
        """Fill one slot together; the root waits for it."""
        slot = self._slot(call, str(step))
        give = self._give(call, slot, call.rank, call.size, 1, packet, step)
        if call.rank != root:
            self._run(call, give)
            return None
        return self._collect(call, slot, give, step, range(call.size))

    def allgather(
        self,
        call: Call,
        packet: Packet,
        step: int = 0,
        sinks: Sequence[memoryview] | None = None,
    ) -> list[Packet]:
        """Fill one slot together; all wait for it."""
        slot = self._slot(call, str(step))
        give = self._give(call, slot, call.rank, call.size, call.size, packet, step)
        return self._collect(call, slot, give, step, range(call.size), sinks)

    def share(
        self, call: Call, packet: Packet, step: int, sinks: Sequence[memoryview]
    ) -> list[Packet]:
        """Allgather of the slices of a large result."""
        return self.allgather(call, packet, step, sinks)

    def scatter(self, call: Call, packets: Sequence[Packet] | None, root: int) -> Packet:
        """Fill a slot for each rank."""
        if packets is None:
            return self._collect(call, self._slot(call, f"0.{call.rank}"), [], 0, [root])[0]
        self._run(
            call,
            [
                command
                for dst, packet in enumerate(packets)
                if dst != call.rank
                for command in self._give(call, self._slot(call, f"0.{dst}"), 0, 1, 1, packet, 0)
            ],
        )
        return packets[call.rank]

    def exchange(
        self,
        call: Call,
        packets: Sequence[Packet],
        step: int = 0,
        sinks: Sequence[memoryview] | None = None,
    ) -> list[Packet]:
        """Fill a slot for each rank together; each waits for its own."""
        size = call.size
        gives = [
            command
            for dst, packet in enumerate(packets)
            for command in self._give(
                call, self._slot(call, f"{step}.{dst}"), call.rank, size, 1, packet, step
            )
        ]
        slot = self._slot(call, f"{step}.{call.rank}")
        return self._collect(call, slot, gives, step, range(size), sinks)

    # Slots ----------------------------------------------------------------------------------

    def _slot(self, call: Call, part: str) -> str:
        stream = "m" if call.kind == Kind.MESSAGE else "c"
        return f"{self._ns}:{call.comm:x}:{stream}{call.op}:{part}"

    def _give(
        self,
        call: Call,
        slot: str,
        place: int,
        expected: int,
        readers: int,
        packet: Packet,
        step: int,
        *,
        kept: bool = False,
    ) -> list[tuple[Argument, ...]]:
        """Return the commands that contribute to a slot."""
        detached = packet.nbytes > INLINE_BYTES
        frame = pack_header(
            packet, call.kind, self._rank, call.comm, self._member.epoch, self._session, call.op,
            step, call.terms, detached=detached,
        )  # fmt: skip
        commands: list[tuple[Argument, ...]] = []
        if detached:
            ttl = str(self._slot_ttl)
            commands.append(("SET", f"{slot}:{place}", packet.data, "NX", "PX", ttl))
        else:
            frame = b"".join((frame, packet.data))
        keys = [slot, f"{slot}:r"] + ([f"{self._ns}:messages"] if kept else [])
        commands.append((
            "EVALSHA", self._sha(call, _GIVE), len(keys), *keys,
            place, frame, expected, readers, self._slot_ttl,
        ))  # fmt: skip
        return commands

    def _sha(self, call: Call, script: str) -> str:
        """Return a script's digest, loading it into the server once."""
        digest = self._scripts.get(script)
        if digest is None:
            with self._named_refusals():
                reply = self._resp_of(call).call(_left(call.end + GRACE), "SCRIPT", "LOAD", script)
            digest = self._scripts[script] = bytes(reply).decode()
        return digest

    def _script(self, end: float, script: str, keys: list[str], *arguments: Argument) -> Any:
        resp = self._connect(_left(end))
        with self._named_refusals():
            return resp.call(_left(end), "EVAL", script, len(keys), *keys, *arguments)

    def _run(self, call: Call, commands: list[tuple[Argument, ...]]) -> None:
        """Send contributions; their replies are read before the next one that is asked for."""
        with self._named_refusals():
            self._resp_of(call).send(commands, _left(call.end + GRACE), unread=len(commands))

    def _resp_of(self, call: Call) -> Resp:
        if self._resp is None:
            raise FmiChannelError(f"{call}: the channel is not open")
        return self._resp

    @contextlib.contextmanager
    def _named_refusals(self) -> Iterator[None]:
        try:
            yield
        except ReplyError as error:
            raise self._refused(error) from error

    def _refused(self, error: ReplyError) -> FmiError:
        """Return the named error for the server's answer to a command."""
        name, _, sender = str(error).partition(" ")
        if name != "FMITAKEN":
            return FmiChannelError(f"Redis: {error}")
        if int(sender) == self._rank:
            return self._duplicate()
        return FmiMismatch(
            f"rank {sender} and this one, rank {self._rank}, gave a value to the same place of "
            "one operation; all ranks must call the same operations with the same roots",
            [int(sender)],
        )

    def _collect(
        self,
        call: Call,
        slot: str,
        gives: list[tuple[Argument, ...]],
        step: int,
        sources: Sequence[int],
        sinks: Sequence[memoryview] | None = None,
    ) -> list[Packet]:
        """Contribute, wait for the slot, and return its packets."""
        resp = self._resp_of(call)
        wait = ("BLPOP", f"{slot}:r", f"{self._ns}:abort", _seconds(call.deadline))
        try:
            resp.send([*gives, wait], _left(call.end + GRACE), unread=len(gives))
            reply = resp.read(_left(call.end + GRACE))
            if reply is None:
                raise self._absent(call, slot, sources)
            self._raise_abort(reply)
            packets, apart = self._split(call, memoryview(reply[1]), step, sources, sinks)
            self._fetch(call, slot, packets, apart, sinks)
        except ReplyError as error:
            raise self._refused(error) from error
        done = [f"{slot}:r:left", *(f"{slot}:{place}" for place in apart)]
        self._run(call, [("EVALSHA", self._sha(call, _DONE), len(done), *done)])
        return packets

    def _fetch(
        self,
        call: Call,
        slot: str,
        packets: list[Packet],
        apart: list[int],
        sinks: Sequence[memoryview] | None,
    ) -> None:
        """Read the payloads that are stored apart."""
        if not apart:
            return
        resp = self._resp_of(call)
        resp.send([("GET", f"{slot}:{place}") for place in apart], _left(call.end + GRACE))
        for place in apart:
            data = resp.read(_left(call.end + GRACE), None if sinks is None else sinks[place])
            if data is None:
                raise FmiChannelError(f"{call}: the data expired in Redis before it was read")
            packets[place].data = data

    def _absent(self, call: Call, slot: str, sources: Sequence[int]) -> FmiError:
        """Name the ranks whose contribution the slot lacks, or that gave it to another."""
        resp = self._resp_of(call)
        arrived = {int(bytes(place)) for place in resp.call(_left(call.end + GRACE), "HKEYS", slot)}
        absent = [r for i, r in enumerate(sources) if len(sources) == 1 or i not in arrived]
        ranks = [call.ranks[r] for r in absent]
        # Small values have one slot for all ranks, large ones a slot for each.
        for part in ("0", *(f"0.{rank}" for rank in range(call.size))):
            if (other := self._slot(call, part)) == slot or call.kind == Kind.MESSAGE:
                continue
            for frame in resp.call(_left(call.end + GRACE), "HVALS", other):
                header = Header(frame)
                header.take_detached()
                if header.sender in ranks and header.terms != call.terms:
                    return disagreement(header, call, header.sender)
        return FmiTimeout(
            f"{call}: after {call.timeout:g} s still waiting for {ranks_text(ranks)}", ranks
        )

    def _raise_abort(self, reply: list[Any]) -> None:
        if bytes(reply[0]).endswith(b":abort"):
            raise from_wire(json.loads(bytes(reply[1])))

    def _split(
        self,
        call: Call,
        whole: memoryview,
        step: int,
        sources: Sequence[int],
        sinks: Sequence[memoryview] | None,
    ) -> tuple[list[Packet], list[int]]:
        """Cut a slot's content into packets, each checked to belong to the operation.

        Returns the packets, and the places of those whose payload is stored apart.
        """
        packets, apart = [], []
        position = 0
        for i, source in enumerate(sources):
            header = Header(whole, position)
            if (header.session, header.epoch) != (self._session, self._member.epoch):
                raise FmiMismatch(f"{call}: found a frame of another session in this one's place")
            detached = header.take_detached()
            check_header(header, call, step, call.ranks[source])
            body = position + HEADER.size + header.description_size
            description = bytes(whole[position + HEADER.size : body])
            if detached:
                apart.append(i)
                position = body
                packets.append(Packet(header.code, b"", header.count, description))
                continue
            position = body + header.nbytes
            data = whole[body:position]
            if sinks is not None and sinks[i].nbytes == data.nbytes:
                sinks[i][:] = data
                data = sinks[i]
            packets.append(Packet(header.code, data, header.count, description))
        return packets, apart


def traffic(operation: str, nbytes: int, n: int) -> Traffic:
    """Return what an operation of ``n`` ranks moves through the server."""
    others = n - 1
    if operation == "barrier":
        return Traffic(1, 1, 0, 0)
    if operation in ("send", "scatter"):
        return Traffic(1, 1, nbytes, 2 * nbytes)
    if operation == "bcast":
        return Traffic(1, 1, nbytes, n * nbytes)
    if operation in ("gather", "reduce"):
        return Traffic(1, 1, n * nbytes, 2 * others * nbytes)
    if nbytes > LARGE_BYTES and operation != "allgather":
        return Traffic(2, 2, 4 * nbytes, 4 * n * nbytes)
    return Traffic(1, 1, n * nbytes, n * (n + 1) * nbytes)


def _url(parameters: Mapping[str, Any]) -> str:
    password = os.environ.get("FMI_REDIS_PASSWORD")
    login = f":{quote(password, safe='')}@" if password else ""
    if "url" in parameters:
        scheme, separator, server = str(parameters["url"]).partition("://")
        return f"{scheme}{separator}{'' if '@' in server else login}{server}"
    return f"redis://{login}{parameters['host']}:{parameters['port']}/{parameters.get('db', 0)}"


def _left(end: float) -> float:
    return max(0.001, end - time.monotonic())


def _seconds(deadline: float) -> str:
    """Return how long the server is to wait, so that its answer is there by the deadline."""
    left = deadline - time.monotonic()
    return f"{max(0.01, left - min(SERVER_TICK, 0.15 * left)):.3f}"


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any] | None:
    url = environment.get("FMI_REDIS_URL")
    return {"url": url} if url else None


BACKEND: Final = Backend(
    name="Redis",
    open=RedisChannel,
    settings={"host": str, "port": int, "url": str, "db": int, "ttl": float},
    required=(("url",), ("host", "port")),
    # See the direct channel's.
    costs={
        "bandwidth_single": 100.0,
        "bandwidth_multiple": 400.0,
        "overhead": 5.2,
        "transfer_price": 0.0,
        "instance_price": 0.0038,
        "requests_per_hour": 1000.0,
        "include_infrastructure_costs": True,
    },
    traffic=traffic,
    from_environment=_from_environment,
)
