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
import hashlib
import json
import os
import secrets
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from fmilib.channels.base import Call, Channel
from fmilib.channels.resp import Argument, ReplyError, Resp
from fmilib.codec import NOTHING
from fmilib.errors import (
    FmiChannelError,
    FmiDuplicateRank,
    FmiError,
    FmiMismatch,
    FmiTimeout,
    ranks_text,
)
from fmilib.frame import HEADER, KIND_NAMES, Header, Kind, Packet, pack_header
from fmilib.rendezvous.client import error_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Above this a payload is stored under a key of its own, which scripts do not touch: Redis then
# moves it without copies.
INLINE_BYTES: Final = 8 * 1024
SESSION_SECONDS: Final = 900.0  # a Lambda function's longest life
GRACE: Final = 1.0  # seconds for the server's own answer to a wait that ended

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
redis.call('HSET', members, 'size', size, rank, nonce)
redis.call('PEXPIRE', members, ttl)
if redis.call('HLEN', members) - 1 == tonumber(size) then
  redis.call('SET', ns .. ':open', size, 'PX', ttl)
  for i = 1, tonumber(size) do redis.call('RPUSH', ns .. ':ready', '1') end
  redis.call('PEXPIRE', ns .. ':ready', ttl)
end
return {'ok', gen}
"""

# A slot's hash holds the contributions by place; when complete it is joined and removed.
_GIVE: Final = """
local slot, ready = KEYS[1], KEYS[2]
local place, frame, expected = ARGV[1], ARGV[2], tonumber(ARGV[3])
local readers, ttl = tonumber(ARGV[4]), ARGV[5]
if redis.call('HSETNX', slot, place, frame) == 0 or redis.call('EXISTS', ready) == 1 then
  return redis.error_reply('FMIDUPLICATE ' .. place)
end
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
  redis.call('DEL', ns .. ':open', ns .. ':members', ns .. ':ready', ns .. ':messages')
  if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
end
"""


class RedisChannel(Channel):
    """Messages through a Redis or Valkey server.

    Parameters
    ----------
    parameters : mapping
        ``host`` and ``port``, or ``url``; ``ttl``, seconds after which a crashed session's keys
        are gone. ``FMI_REDIS_PASSWORD`` is the password if the URL has none.
    session, strict, epoch, rank, size
        See `fmilib.Communicator`.
    timeout : float
        Seconds of one operation; its keys outlive it by a minute.
    """

    name = "Redis"
    allgather_is_one_round = True
    has_exchange = True

    def __init__(
        self,
        parameters: Mapping[str, Any],
        *,
        session: str,
        strict: bool,
        epoch: int,
        rank: int,
        size: int,
        timeout: float,
    ) -> None:
        self._url = _url(parameters)
        self._rank = rank
        self._size = size
        self._strict = strict
        self._epoch = epoch
        self._timeout = timeout
        self._ttl = int(1000 * float(parameters.get("ttl", SESSION_SECONDS)))
        self._slot_ttl = int(1000 * min(self._ttl / 1000, 2 * timeout + 60))
        digest = hashlib.sha256(f"{session}\n{epoch}".encode()).hexdigest()[:20]
        self._base = f"fmi:{{{digest}}}"
        self._ns = f"{self._base}:s"
        self._session = int(digest[:16], 16)
        self._resp: Resp | None = None
        self._unread = 0  # replies that nobody has looked at yet
        self._scripts: dict[str, str] = {}
        self._generation = "s"

    # Session --------------------------------------------------------------------------------

    def open(self, timeout: float) -> None:
        """Join the session by one script, then wait for all ranks."""
        deadline = time.monotonic() + timeout
        resp = self._connect(timeout)
        try:
            answer, detail = (
                bytes(part)
                for part in self._script(
                    _JOIN, [self._base], "1" if self._strict else "0",
                    self._rank, self._size, self._ttl, secrets.token_hex(8),
                )
            )  # fmt: skip
            if answer == b"abort":
                raise error_of(json.loads(detail))
            if answer == b"duplicate":
                raise FmiDuplicateRank(
                    f"rank {self._rank} already takes part in this session, epoch {self._epoch}; "
                    "ranks that start again need a new epoch, all of them"
                )
            if answer == b"size":
                raise FmiMismatch(
                    f"the session has {detail.decode()} ranks; rank {self._rank} says {self._size}"
                )
            self._generation = detail.decode()
            self._ns = f"{self._base}:{self._generation}"
            resp.send([("BLPOP", f"{self._ns}:ready", f"{self._ns}:abort", _seconds(deadline))])
            reply = resp.read(deadline - time.monotonic() + GRACE)
            if reply is None:
                joined = resp.call(GRACE, "HKEYS", f"{self._ns}:members")
                present = {int(k) for k in map(bytes, joined) if k != b"size"}
                absent = sorted(set(range(self._size)) - present)
                raise FmiTimeout(
                    f"{ranks_text(absent)} of {self._size} did not join the session in time", absent
                )
            self._raise_abort(reply)
        except BaseException:
            self.close(clean=False)
            raise

    def _connect(self, timeout: float) -> Resp:
        if self._resp is None:
            self._resp = Resp(self._url, min(timeout, 5.0))
        return self._resp

    def close(self, *, clean: bool) -> None:
        """Leave; the last rank to do so removes the session's keys."""
        if self._resp is None:
            return
        if clean:
            # A server that is gone has nothing left to remove.
            with contextlib.suppress(FmiError, ReplyError):
                self._settle()
                self._script(_LEAVE, [self._ns, f"{self._base}:gen"], self._generation)
        self._resp.close()
        self._resp = None

    def abort(self, error: FmiError) -> None:
        """Release every waiting rank with the error."""
        body = {"error": type(error).__name__, "message": str(error), "ranks": list(error.ranks)}
        with contextlib.suppress(FmiError, ReplyError):
            if self._resp is not None:
                # A wait may be pending on the old connection: its reply is of no use any more.
                self._resp.close()
                self._resp = None
            self._connect(2.0)
            self._unread = 0
            key = f"{self._ns}:abort"
            self._script(_ABORT, [key], json.dumps(body), self._size, self._slot_ttl)

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
            packet, call.kind, self._rank, call.comm, self._epoch, self._session, call.op, step,
            detached=detached,
        )  # fmt: skip
        commands: list[tuple[Argument, ...]] = []
        if detached:
            ttl = str(self._slot_ttl)
            commands.append(("SET", f"{slot}:{place}", packet.data, "NX", "PX", ttl))
        else:
            frame = b"".join((frame, packet.data))
        keys = [slot, f"{slot}:r"] + ([f"{self._ns}:messages"] if kept else [])
        commands.append((
            "EVALSHA", self._sha(_GIVE), len(keys), *keys,
            place, frame, expected, readers, self._slot_ttl,
        ))  # fmt: skip
        return commands

    def _sha(self, script: str) -> str:
        """Return a script's digest, loading it into the server once."""
        digest = self._scripts.get(script)
        if digest is None:
            resp = self._connect(self._timeout)
            digest = bytes(resp.call(self._timeout, "SCRIPT", "LOAD", script)).decode()
            self._scripts[script] = digest
        return digest

    def _script(self, script: str, keys: list[str], *arguments: Argument) -> Any:
        resp = self._connect(self._timeout)
        try:
            return resp.call(5.0, "EVAL", script, len(keys), *keys, *arguments)
        except ReplyError as error:
            raise FmiChannelError(f"Redis {resp.where}: {error}") from error

    def _run(self, call: Call, commands: list[tuple[Argument, ...]]) -> None:
        """Send contributions; their replies are read with the next command's."""
        self._settle(keep=256)
        resp = self._resp_of(call)
        resp.send(commands)
        self._unread += len(commands)

    def _resp_of(self, call: Call) -> Resp:
        if self._resp is None:
            raise FmiChannelError(f"{call}: the channel is not open")
        return self._resp

    def _settle(self, keep: int = 0) -> None:
        """Read the replies of earlier contributions."""
        while self._unread > keep and self._resp is not None:
            self._unread -= 1
            try:
                self._resp.read(5.0)
            except ReplyError as error:
                raise self._refused(error) from error

    def _refused(self, error: ReplyError) -> FmiError:
        if "FMIDUPLICATE" in str(error):
            return FmiDuplicateRank(
                f"another process contributes as rank {self._rank} to this session", [self._rank]
            )
        return FmiChannelError(f"Redis: {error}")

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
        resp.send([*gives, wait])
        self._unread += len(gives)
        self._settle()
        try:
            reply = resp.read(max(0.0, call.deadline - time.monotonic()) + GRACE)
            if reply is None:
                raise self._absent(call, slot, sources)
            self._raise_abort(reply)
            packets, apart = self._split(call, memoryview(reply[1]), step, sources, sinks)
            self._fetch(call, slot, packets, apart, sinks)
        except ReplyError as error:
            raise self._refused(error) from error
        done = [f"{slot}:r:left", *(f"{slot}:{place}" for place in apart)]
        self._run(call, [("EVALSHA", self._sha(_DONE), len(done), *done)])
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
        resp.send([("GET", f"{slot}:{place}") for place in apart])
        for place in apart:
            left = max(GRACE, call.deadline - time.monotonic())
            data = resp.read(left, None if sinks is None else sinks[place])
            if data is None:
                raise FmiChannelError(f"{call}: the data expired in Redis before it was read")
            packets[place].data = data

    def _absent(self, call: Call, slot: str, sources: Sequence[int]) -> FmiTimeout:
        """Name the ranks whose contribution the slot lacks."""
        resp = self._resp_of(call)
        arrived = {int(bytes(place)) for place in resp.call(GRACE, "HKEYS", slot)}
        absent = [r for i, r in enumerate(sources) if len(sources) == 1 or i not in arrived]
        ranks = [call.ranks[r] for r in absent]
        return FmiTimeout(
            f"{call}: after {call.timeout:g} s still waiting for {ranks_text(ranks)}", ranks
        )

    def _raise_abort(self, reply: list[Any]) -> None:
        if bytes(reply[0]).endswith(b":abort"):
            raise error_of(json.loads(bytes(reply[1])))

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
            sender = call.ranks[source]
            found = (header.session, header.epoch, header.comm, header.op, header.step)
            wanted = (self._session, self._epoch, call.comm, call.op, step)
            if found != wanted or header.kind != call.kind or header.sender != sender:
                raise FmiMismatch(
                    f"{call}: rank {header.sender} is in "
                    f"{KIND_NAMES.get(header.kind, header.kind)} (operation {header.op})",
                    [sender],
                )
            body = position + HEADER.size + header.description_size
            description = bytes(whole[position + HEADER.size : body])
            if header.detached:
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


def _url(parameters: Mapping[str, Any]) -> str:
    password = os.environ.get("FMI_REDIS_PASSWORD")
    login = f":{quote(password, safe='')}@" if password else ""
    if "url" in parameters:
        scheme, separator, server = str(parameters["url"]).partition("://")
        return f"{scheme}{separator}{'' if '@' in server else login}{server}"
    return f"redis://{login}{parameters['host']}:{parameters['port']}/{parameters.get('db', 0)}"


def _seconds(deadline: float) -> str:
    return f"{max(0.01, deadline - time.monotonic()):.3f}"
