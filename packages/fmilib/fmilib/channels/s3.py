"""The S3 channel: one object per message, under an exact prefix, without listing.

Objects are written with ``If-None-Match: *``, so a message exists once and never changes.
Contributions go up a tree of degree four: an inner rank reads its children's objects and writes
one bundle. Results for all ranks are one object that all read, and a scatter is one object of
which each rank reads its part.

Requests of N ranks, besides the repeated reads of objects that are not there yet:

=========  ==================================  ===========================================
operation  PUT                                 GET
=========  ==================================  ===========================================
join       N                                   0
send       1                                   1
barrier    N                                   2(N-1)
bcast      1                                   N-1
gather     N-1                                 N-1
scatter    1                                   2(N-1) (its place, then its part)
allgather  N                                   2(N-1)
reduce     N-1                                 N-1
allreduce  N                                   2(N-1)
scan       N                                   3(N-1)
close      N-1                                 N-1; the objects go by DeleteObjects
=========  ==================================  ===========================================

A receiver asks for the exact key until it is there. The pauses double from `first_pause` up to
`longest_pause`, each shortened at random by up to a half, so a wait of T seconds takes at most
`looks(T)` GETs; a rank looks, at the start and then at most once per second while it waits,
for the note of an aborted session. Both pauses grow with N, so
that all ranks together stay below the rate that S3 grants a prefix.

At close every rank hands the list of its objects up the tree, and rank 0 removes them all, by
batches of 1,000. What a crashed session leaves, no other session reads, since session and epoch
are part of the prefix; a lifecycle rule on the prefix or on ``tag`` expires it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

from fmilib.backend import Backend, Traffic
from fmilib.call import Call
from fmilib.channels.base import Channel
from fmilib.channels.bounded import BoundedCaller
from fmilib.codec import BUNDLE, BYTES, NOTHING
from fmilib.collectives.peer_to_peer import PeerToPeer
from fmilib.collectives.trees import STORE_DEGREE, children, depth, parent
from fmilib.errors import (
    FmiChannelError,
    FmiConfigError,
    FmiDuplicateRank,
    FmiError,
    FmiMismatch,
    FmiTimeout,
    from_wire,
    ranks_text,
)
from fmilib.frame import (
    HEADER,
    Header,
    Kind,
    Packet,
    check_header,
    pack_bundle,
    pack_header,
    unpack_bundle,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fmilib.member import Member

FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.5
# S3 allows 5,500 GETs per second and prefix; waiting ranks leave room for those that work.
REQUESTS_PER_SECOND: Final = 2000.0
ABORT_SECONDS: Final = 1.0  # how often at most a waiting rank looks for an abort
CLOSE_SECONDS: Final = 10.0
SEARCH_SECONDS: Final = 0.75  # kept of an operation's time for finding who is absent
_MISSING: Final = ("NoSuchKey", "404", "NotFound")
_EXISTS: Final = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
_EMPTY: Final = Packet(NOTHING, b"", 0)
PLACE_BYTES: Final = 16
_GATHER_FIRST: Final = (Kind.BARRIER, Kind.ALLGATHER, Kind.ALLREDUCE, Kind.SCAN)


class S3Channel(PeerToPeer, Channel):
    """Messages through objects of one bucket.

    Parameters
    ----------
    settings : mapping
        ``bucket_name``, ``s3_region``, ``prefix``, ``endpoint_url``; ``timeout``, milliseconds of
        the first interval between two looks at an object that is not there yet;
        ``requests_per_second``, what all waiting ranks together may ask of the store; ``tag``,
        ``key=value`` of every object, by which a lifecycle rule finds what a crash leaves (needs
        ``s3:PutObjectTagging``); ``close_seconds``, how long the last rank waits for the others
        before it leaves the removal to that rule; ``client``, a boto3 client to use.
    member : Member
    """

    name = "S3"
    degree = STORE_DEGREE

    def __init__(self, settings: Mapping[str, Any], member: Member) -> None:
        self._bucket = settings["bucket_name"]
        prefix = settings.get("prefix", "fmi").strip("/")
        self._prefix = f"{prefix}/{member.digest}/" if prefix else f"{member.digest}/"
        self._member = member
        self._session = member.number
        self._rank = member.rank
        given = settings.get("timeout", 1000 * FIRST_PAUSE) / 1000
        rate = settings.get("requests_per_second", REQUESTS_PER_SECOND)
        self.first_pause, self.longest_pause = pauses(member.size, given, rate)
        self._close_seconds = settings.get("close_seconds", CLOSE_SECONDS)
        tag = settings.get("tag")
        self._tagging = {} if tag is None else {"Tagging": tag}
        self._nonce = secrets.token_hex(8)
        self._written: list[str] = []
        self._joined = False
        self._root = 0  # of the gather at hand
        self._abort_checked = 0.0
        self._end = 0.0  # when the operation at hand must have ended
        self._caller = BoundedCaller()
        client = settings.get("client")
        self._client = client if client is not None else _client(settings, member.timeout)

    # Session --------------------------------------------------------------------------------

    def open(self, timeout: float) -> None:
        """Claim the rank. Nobody waits: the first operation does."""
        self._end = time.monotonic() + timeout
        self._check_abort()
        key = self._prefix + f"rank/{self._rank}"
        if not self._put(key, self._nonce.encode()):
            raise FmiDuplicateRank(
                f"rank {self._rank} already takes part in this session, epoch "
                f"{self._member.epoch} (s3://{self._bucket}/{key}); give each run its own "
                "session, or a new epoch"
            )
        self._joined = True

    def close(self, *, clean: bool) -> None:
        """Hand the written keys to rank 0, which removes them when all have."""
        if clean and self._joined:
            self._remove_all()
        self._joined = False
        self._caller.close()

    def _remove_all(self) -> None:
        size = self._member.size
        seconds = min(self._close_seconds, self._member.timeout)
        call = Call(Kind.CLOSE, 0, 0, tuple(range(size)), self._rank, seconds)
        up = parent(self._rank, 0, size, self.degree)
        if up is not None:
            self._written.append(self._key(call, f"{call.rank}-{up}", 0))
        keys = [key.removeprefix(self._prefix) for key in self._written]
        packet = Packet(BYTES, json.dumps(keys).encode(), len(keys))
        # After an error elsewhere the lifecycle rule removes what is left.
        with contextlib.suppress(FmiError):
            self._end = call.end
            packets = self.gather(call, packet, 0) if size > 1 else [packet]
            if packets is not None:
                self._end = call.end
                self._delete([key for p in packets for key in json.loads(bytes(p.data))])

    def abort(self, error: FmiError) -> None:
        """Leave a note that every waiting rank finds."""
        self._end = time.monotonic() + min(ABORT_SECONDS, self._member.timeout)
        with contextlib.suppress(FmiError):
            self._put(self._prefix + "abort", json.dumps(error.to_wire()).encode())

    # Messages -------------------------------------------------------------------------------

    def post(self, call: Call, dst: int, step: int, packet: Packet) -> None:
        """Write one object for one rank."""
        self._publish(call, f"{call.rank}-{dst}", step, packet)

    def take(self, call: Call, src: int, step: int, sink: memoryview | None = None) -> Packet:
        """Read one object that one rank wrote for this one."""
        data = self._fetch(call, f"{src}-{call.rank}", step, src)
        return self._unframe(call, data, src, step, sink)

    def gather(self, call: Call, packet: Packet, root: int, step: int = 0) -> list[Packet] | None:
        """Collect up the tree; see `PeerToPeer.gather`."""
        self._root = root
        return super().gather(call, packet, root, step)

    def barrier(self, call: Call) -> None:
        """Gather nothing to rank 0, which writes one object that releases all."""
        packets = self.gather(call, _EMPTY, 0)
        self.bcast(call, _EMPTY if packets is not None else None, 0, None)

    def bcast(
        self,
        call: Call,
        packet: Packet | None,
        root: int,
        nbytes: int | None,
        sink: memoryview | None = None,
    ) -> Packet:
        """Write one object that all others read."""
        if packet is not None:
            # One key whichever rank is the root, so that a second root is found out.
            self._publish(call, "all", 1, packet)
            return packet
        return self._unframe(call, self._fetch(call, "all", 1, root), root, 1, sink)

    def allgather(self, call: Call, packet: Packet) -> list[Packet]:
        """Gather to rank 0, which writes the whole for all."""
        packets = self.gather(call, packet, 0)
        if packets is not None:
            bundle = pack_bundle(dict(enumerate(packets)))
            self.bcast(call, Packet(BUNDLE, bundle, call.size), 0, None)
            return packets
        entries = unpack_bundle(self.bcast(call, None, 0, None).data)
        return [entries[rank] for rank in range(call.size)]

    def scatter(self, call: Call, packets: Sequence[Packet] | None, root: int) -> Packet:
        """Write all parts into one object; each rank reads its own by two ranged requests."""
        if packets is not None:
            frames = [self._frame(call, 2, packet) for packet in packets]
            position = PLACE_BYTES * call.size
            table = b""
            for frame in frames:
                table += position.to_bytes(8, "little") + len(frame).to_bytes(8, "little")
                position += len(frame)
            self._put_once(call, self._key(call, "parts", 2), table + b"".join(frames))
            return packets[call.rank]
        start = PLACE_BYTES * call.rank
        part = "parts"
        place = self._fetch(call, part, 2, root, (start, start + PLACE_BYTES))
        offset, size = int.from_bytes(place[:8], "little"), int.from_bytes(place[8:], "little")
        data = self._fetch(call, part, 2, root, (offset, offset + size))
        return self._unframe(call, data, root, 2, None)

    # Objects --------------------------------------------------------------------------------

    def _key(self, call: Call, part: str, step: int) -> str:
        stream = "m" if call.kind == Kind.MESSAGE else "c"
        return f"{self._prefix}{call.comm:x}/{stream}{call.op}/{part}.{step}"

    def _frame(self, call: Call, step: int, packet: Packet) -> bytes:
        header = pack_header(
            packet, call.kind, self._rank, call.comm, self._member.epoch, self._session, call.op,
            step, call.terms,
        )  # fmt: skip
        return b"".join((header, packet.data))

    def _publish(self, call: Call, part: str, step: int, packet: Packet) -> None:
        self._put_once(call, self._key(call, part, step), self._frame(call, step, packet))

    def _put_once(self, call: Call, key: str, body: bytes) -> None:
        self._end = call.end
        if self._put(key, body):
            return
        writer = Header(self._get(key) or body).sender if not key.endswith("parts.2") else None
        if writer == self._rank:
            raise FmiDuplicateRank(
                f"s3://{self._bucket}/{key} exists: another process acts as rank {self._rank}",
                [self._rank],
            )
        raise FmiMismatch(
            f"{call}: {'another rank' if writer is None else f'rank {writer}'} takes itself for "
            f"the root, as rank {self._rank} does (s3://{self._bucket}/{key})",
            [] if writer is None else [writer],
        )

    def _ask(self, function: Callable[[], Any], what: str) -> Any:
        """Ask S3 for something, no longer than the operation at hand may take.

        Raises
        ------
        ClientError
            What S3 answered.
        FmiChannelError
            S3 cannot be reached, or did not answer in time.
        """
        from botocore.exceptions import BotoCoreError

        try:
            return self._caller.call(self._end - time.monotonic(), function)
        except (BotoCoreError, TimeoutError) as error:
            raise FmiChannelError(f"S3 does not answer ({what}): {error}") from error

    def _put(self, key: str, body: bytes) -> bool:
        """Write an object that must not exist; false if another wrote it."""
        from botocore.exceptions import ClientError

        where = f"s3://{self._bucket}/{key}"
        try:
            self._ask(
                lambda: self._client.put_object(
                    Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*",
                    Metadata={"fmi": self._nonce}, **self._tagging,
                ),
                f"PUT {where}",
            )  # fmt: skip
        except ClientError as error:
            if error.response["Error"]["Code"] in _EXISTS:
                # A repeated request, whose first answer was lost, finds its own object.
                return self._is_ours(key)
            raise FmiChannelError(f"S3 refused {where}: {error}") from error
        self._written.append(key)
        return True

    def _is_ours(self, key: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            head = self._ask(
                lambda: self._client.head_object(Bucket=self._bucket, Key=key), f"HEAD {key}"
            )
        except ClientError:
            return False
        ours = bool(head.get("Metadata", {}).get("fmi") == self._nonce)
        if ours:
            self._written.append(key)
        return ours

    def _get(self, key: str, span: tuple[int, int] | None = None) -> bytes | None:
        from botocore.exceptions import ClientError

        ranged = {} if span is None else {"Range": f"bytes={span[0]}-{span[1] - 1}"}
        where = f"s3://{self._bucket}/{key}"
        try:
            body: bytes = self._ask(
                lambda: self._client.get_object(Bucket=self._bucket, Key=key, **ranged)[
                    "Body"
                ].read(),
                f"GET {where}",
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING:
                return None
            raise FmiChannelError(f"S3 refused {where}: {error}") from error
        return body

    def _fetch(
        self, call: Call, part: str, step: int, src: int, span: tuple[int, int] | None = None
    ) -> bytes:
        """Read an object, waiting until it is there."""
        key = self._key(call, part, step)
        self._end = call.end
        pause = self.first_pause
        end = call.deadline - min(SEARCH_SECONDS, 0.15 * call.timeout)
        while (data := self._get(key, span)) is None:
            now = time.monotonic()
            if now - self._abort_checked > max(ABORT_SECONDS, 2 * self.longest_pause):
                self._check_abort()
            if now >= end:
                self._check_abort()
                raise self._late(call, src)
            # Not all at once: ranks wait for the same object, and began together.
            wait = pause * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret
            time.sleep(min(wait, max(0.0, end - now)))
            pause = min(2 * pause, self.longest_pause)
        return data

    def _unframe(
        self, call: Call, data: bytes, src: int, step: int, sink: memoryview | None
    ) -> Packet:
        """Return an object's packet, checked to belong to the operation."""
        header = Header(data)
        if (header.session, header.epoch) != (self._session, self._member.epoch):
            raise FmiMismatch(f"{call}: found an object of another session in this one's place")
        check_header(header, call, step, call.ranks[src])
        body = HEADER.size + header.description_size
        payload = memoryview(data)[body:]
        if payload.nbytes != header.nbytes:
            raise FmiMismatch(f"{call}: an object of rank {header.sender} is cut short")
        if sink is not None and sink.nbytes == payload.nbytes:
            sink[:] = payload
            payload = sink
        return Packet(header.code, payload, header.count, data[HEADER.size : body])

    def _check_abort(self) -> None:
        self._abort_checked = time.monotonic()
        note = self._get(self._prefix + "abort")
        if note is not None:
            raise from_wire(json.loads(note))

    def _delete(self, keys: list[str]) -> None:
        from botocore.exceptions import ClientError

        for start in range(0, len(keys), 1000):
            batch = [{"Key": self._prefix + key} for key in keys[start : start + 1000]]
            delete = functools.partial(
                self._client.delete_objects,
                Bucket=self._bucket,
                Delete={"Objects": batch, "Quiet": True},
            )
            try:
                self._ask(delete, "DeleteObjects")
            except ClientError as error:
                raise FmiChannelError(
                    f"S3 could not remove the session's objects: {error}"
                ) from error

    def _late(self, call: Call, src: int) -> FmiTimeout:
        """Blame the rank that kept us waiting, or those that keep it waiting itself."""
        blamed = []
        if call.kind in _GATHER_FIRST and src == 0:
            blamed = self._silent(call, children(0, 0, call.size, self.degree), 0, 0)
        ranks = [call.ranks[r] for r in blamed or [src]]
        return FmiTimeout(
            f"{call}: after {call.timeout:g} s still waiting for {ranks_text(ranks)}", ranks
        )

    def _silent(self, call: Call, ranks: Sequence[int], above: int, root: int) -> list[int]:
        """Return those of ``ranks`` that wrote nothing, or those below that they wait for.

        Nobody looks longer than the operation may take: then the inner rank is named.
        """
        silent: list[int] = []
        end = self._end = call.end
        for rank in ranks:
            if rank == call.rank:
                continue
            try:
                there = self._get(self._key(call, f"{rank}-{above}", 0)) is not None
            except FmiChannelError:
                # S3 answered while we waited, so time ran out: those found so far are named.
                if silent:
                    break
                there = False
            if there:
                continue
            below = children(rank, root, call.size, self.degree)
            if time.monotonic() < end:
                silent += self._silent(call, below, rank, root) or [rank]
            else:
                silent.append(rank)
        return silent

    def _absent(self, call: Call, sources: Sequence[int], step: int) -> FmiTimeout:
        # A store takes from several ranks in a gather alone.
        absent = self._silent(call, sources, call.rank, self._root)
        ranks = [call.ranks[s] for s in absent or sources[:1]]
        return FmiTimeout(
            f"{call}: after {call.timeout:g} s still waiting for {ranks_text(ranks)}", ranks
        )


def pauses(ranks: int, first: float, rate: float) -> tuple[float, float]:
    """Return the first and the longest pause between two looks of each of ``ranks`` ranks."""
    share = ranks / rate
    longest = max(LONGEST_PAUSE, share)
    return min(longest, max(first, share / 8)), longest


def looks(seconds: float, first: float, longest: float) -> int:
    """Return how often at most a receiver asks for an object that appears after ``seconds``."""
    asked, pause = 1, first
    while seconds > 0:
        asked += 1
        seconds -= pause / 2  # what is least left of it
        pause = min(2 * pause, longest)
    return asked


def traffic(operation: str, nbytes: int, n: int) -> Traffic:
    """Return what an operation of ``n`` ranks moves through the store."""
    others = n - 1
    levels, served = depth(n, STORE_DEGREE), min(others, STORE_DEGREE)
    # The bytes of a rank at the bottom are moved by every level; those through the root, its
    # child and so on, who work one after the other, are n + 2n/4 + 2n/16 + …
    critical = others * nbytes * (1 if levels < 2 else 5 / 3)
    up = Traffic(
        levels * (1 + served), 0, critical, 2 * levels * others * nbytes, others, others
    )  # fmt: skip
    if operation == "send":
        return Traffic(2, 0, 2 * nbytes, 2 * nbytes, 1, 1)
    if operation == "bcast":
        return Traffic(2, 0, 2 * nbytes, n * nbytes, 1, others)
    if operation == "scatter":  # each rank looks up its place, then reads its part
        return Traffic(3, 0, (n + 1) * nbytes, 2 * n * nbytes, 1, 2 * others)
    if operation in ("gather", "reduce"):
        return up
    if operation == "scan":  # a gather, and a scatter of the prefixes
        return Traffic(
            up.rounds + 3, 0, up.critical + (n + 1) * nbytes, up.total + 2 * n * nbytes,
            n, 3 * others,
        )  # fmt: skip
    result = n * nbytes if operation == "allgather" else nbytes
    return Traffic(
        up.rounds + 2, 0, up.critical + 2 * result, up.total + n * result,
        others + 1, 2 * others,
    )  # fmt: skip


def _client(parameters: Mapping[str, Any], timeout: float) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise FmiConfigError(
            f"the S3 channel needs boto3 (pip install fmilib[s3]): {error}"
        ) from error

    limit = max(1.0, min(timeout, 20.0))
    return boto3.client(
        "s3",
        region_name=parameters.get("s3_region") or os.environ.get("AWS_REGION"),
        endpoint_url=parameters.get("endpoint_url"),
        config=Config(
            connect_timeout=min(5.0, limit),
            read_timeout=limit,
            retries={"mode": "standard", "total_max_attempts": 5},
        ),
    )


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any] | None:
    location = environment.get("FMI_S3")
    if not location:
        return None
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    return {"bucket_name": bucket, "prefix": prefix or "fmi"}


BACKEND: Final = Backend(
    name="S3",
    open=S3Channel,
    settings={
        "bucket_name": str,
        "s3_region": str,
        "prefix": str,
        "endpoint_url": str,
        "requests_per_second": float,
        "close_seconds": float,
        "tag": str,
        "client": object,
    },
    required=(("bucket_name",),),
    # See the direct channel's.
    costs={
        "bandwidth": 50.0,
        "overhead": 40.4,
        "transfer_price": 0.0,
        "download_price": 0.00000043,
        "upload_price": 0.0000054,
    },
    traffic=traffic,
    from_environment=_from_environment,
)
