"""Where a partition's bytes come from: a local file, or an S3 object by range requests."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cosmicai.errors import (
    CorruptPartition,
    InvalidInput,
    ObjectNotFound,
    PartitionNotFound,
    PreconditionFailed,
    TransientStorageError,
)
from cosmicai.facts import MB
from cosmicai.storage import ATTEMPTS, Store, backoff, client, failures

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

HEAD_BYTES: Final = MB
TAIL_BYTES: Final = 512 * 1024
REQUEST_SECONDS: Final = 60.0
_CHUNK: Final = 256 * 1024  # of a read from the socket; smaller ones cost CPU


@dataclass(frozen=True)
class S3Object:
    """One object in S3, the client to read it with, and the ETag that was planned, if any."""

    bucket: str
    key: str
    client: S3Client
    etag: str | None = None

    @property
    def store(self) -> Store:
        """The bucket that holds it."""
        return Store(self.client, self.bucket)

    def __str__(self) -> str:
        return self.store.address(self.key)


def located(partition: str | Path | S3Object) -> Path | S3Object:
    """Return where a partition is stored, of a path or an address ``s3://bucket/key``.

    Raises
    ------
    InvalidInput
        The address lacks a bucket or a key.
    """
    if not isinstance(partition, str) or not partition.startswith("s3://"):
        return Path(partition) if isinstance(partition, str) else partition
    bucket, _, key = partition.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise InvalidInput(f"{partition}: an address s3://bucket/key expected")
    return S3Object(bucket, key, client())


@dataclass
class RequestStatistics:
    """What the requests for one partition took, each from its start to its last byte."""

    requests: int = 0
    total_seconds: float = 0.0
    min_seconds: float = 0.0
    max_seconds: float = 0.0
    retries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def record(self, seconds: float) -> None:
        """Count one request, successful or not."""
        with self._lock:
            self.min_seconds = min(self.min_seconds, seconds) if self.requests else seconds
            self.max_seconds = max(self.max_seconds, seconds)
            self.total_seconds += seconds
            self.requests += 1

    def record_retry(self) -> None:
        """Count one request that had to be made again."""
        with self._lock:
            self.retries += 1


class FileSource:
    """A local file, by positioned reads.

    Reads, not a memory map: a map of a file that another process cuts off kills this one
    (SIGBUS), and its pages count as resident memory for as long as they stay mapped. The copy
    costs about a thousandth of the model's time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise PartitionNotFound(f"{path} is not a file")
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            raise PartitionNotFound(f"{path}: there is no such file") from None
        except OSError as error:
            raise PartitionNotFound(f"{path} cannot be read: {error.strerror}") from error
        self._opened = os.fstat(self._descriptor)
        self.statistics: RequestStatistics | None = None

    @property
    def size(self) -> int:
        """Length in bytes when it was opened."""
        return self._opened.st_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, whole or not at all."""
        while buffer:
            count = os.preadv(self._descriptor, [buffer], offset)
            if count == 0:
                raise CorruptPartition(f"{self._path} ends at byte {offset}: it is cut off")
            offset += count
            buffer = buffer[count:]

    def check_unchanged(self) -> None:
        """Raise CorruptPartition if the file was written to since it was opened."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise CorruptPartition(f"{self._path} was changed while it was read")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class S3Source:
    """An S3 object, by range requests that all ask for the same version of it (``If-Match``).

    That is the planned version, or else the one that is there at first. The first request brings
    the head of the object, its size and its ETag; the second, where the
    object is longer, its tail. Both are kept, since a partition's directory and small tensors lie
    there. After a transient failure, only the missing bytes are asked for again, as often and as
    late as :mod:`cosmicai.storage` retries any request.
    """

    def __init__(
        self, location: S3Object, *, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES
    ) -> None:
        self._location = location
        self._closed = threading.Event()
        self.statistics = RequestStatistics()
        self._etag = location.etag
        self._size: int | None = None
        head = bytearray(head_bytes)
        self._fetch(0, memoryview(head), first=True)
        self._known: list[tuple[int, memoryview]] = [(0, memoryview(head)[: self.size])]
        if self.size > head_bytes:
            tail = bytearray(min(tail_bytes, self.size - head_bytes))
            self._fetch(self.size - len(tail), memoryview(tail))
            self._known.append((self.size - len(tail), memoryview(tail)))

    @property
    def size(self) -> int:
        """Length of the object in bytes."""
        return self._size or 0

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from what is known already, and by a range request for the rest."""
        for begin, data in self._known:
            if begin <= offset < begin + len(data):
                known = data[offset - begin : offset - begin + len(buffer)]
                buffer[: len(known)] = known
                offset += len(known)
                buffer = buffer[len(known) :]
        if buffer:
            self._fetch(offset, buffer)

    def check_unchanged(self) -> None:
        """Do nothing: every request asked for the same ETag."""

    def close(self) -> None:
        """Let requests that are under way end at their next chunk."""
        self._closed.set()

    def _fetch(self, offset: int, buffer: memoryview, *, first: bool = False) -> None:
        """Fill the buffer (of the first request: as far as the object goes), trying again."""
        received = 0
        for attempt in range(1, ATTEMPTS + 1):
            started = time.monotonic()
            progress = _Progress()
            try:
                self._request(offset + received, buffer[received:], progress, first=first)
            except _Interrupted as interruption:
                if attempt == ATTEMPTS or self._closed.is_set():
                    raise TransientStorageError(
                        f"{self._location}: bytes from {offset + received + progress.received} "
                        f"did not come in {attempt} attempts, last: {interruption}"
                    ) from interruption
            else:
                return
            finally:
                self.statistics.record(time.monotonic() - started)
            received += progress.received
            self.statistics.record_retry()
            self._closed.wait(backoff(attempt))

    def _request(
        self, offset: int, buffer: memoryview, progress: _Progress, *, first: bool
    ) -> None:
        """Make one range request; raise _Interrupted where another attempt may help."""
        deadline = time.monotonic() + REQUEST_SECONDS
        condition: dict[str, Any] = {} if self._etag is None else {"IfMatch": f'"{self._etag}"'}
        try:
            response = self._location.client.get_object(
                Bucket=self._location.bucket,
                Key=self._location.key,
                Range=f"bytes={offset}-{offset + len(buffer) - 1}",
                **condition,
            )
            self._check_version(response)
            wanted = min(len(buffer), self.size - offset) if first else len(buffer)
            with contextlib.closing(response["Body"]) as body:
                while progress.received < wanted:
                    if self._closed.is_set():
                        raise _Interrupted("the reader was closed")
                    if time.monotonic() > deadline:
                        raise _Interrupted(f"it took over {REQUEST_SECONDS:.0f} s")
                    part = buffer[progress.received : min(progress.received + _CHUNK, wanted)]
                    count = body.readinto(part)  # type: ignore[arg-type]  # wants any buffer
                    if not count:
                        raise _Interrupted(f"ended after {progress.received} of {wanted} bytes")
                    progress.received += count
        except failures() as error:
            self._raise_ours(error)

    def _check_version(self, response: GetObjectOutputTypeDef) -> None:
        """Take size and ETag from the first answer; hold every later one to them."""
        content_range = response.get("ContentRange", "")
        total = content_range.rpartition("/")[2]
        size = int(total) if total.isdigit() else response["ContentLength"]
        etag = response["ETag"].strip('"')
        if self._etag is None:
            self._etag = etag
        if self._size is None:
            self._size = size
        if (etag, size) != (self._etag, self._size):
            raise CorruptPartition(self._changed())

    def _changed(self) -> str:
        if self._size is None:  # no answer yet
            return (
                f"{self._location} was changed since it was planned (ETag {self._etag} expected); "
                "start the run again"
            )
        return f"{self._location} was changed while it was read; nothing of it was mixed"

    def _raise_ours(self, error: Exception) -> NoReturn:
        """Raise what a failed request means for the partition."""
        response = getattr(error, "response", None) or {}
        if response.get("Error", {}).get("Code") == "InvalidRange":
            raise CorruptPartition(f"{self._location} is empty: 0 bytes") from error
        failure = self._location.store.explain(error, self._location.key)
        if isinstance(failure, ObjectNotFound):
            if self._size is not None:
                raise CorruptPartition(f"{self._location} was deleted while it was read") from error
            raise PartitionNotFound(str(failure)) from error
        if isinstance(failure, PreconditionFailed):
            raise CorruptPartition(self._changed()) from error
        if isinstance(failure, TransientStorageError):
            raise _Interrupted(str(failure)) from error
        raise failure from error


@dataclass
class _Progress:
    """How many bytes of one request have come."""

    received: int = 0


class _Interrupted(Exception):
    """A request failed, and another attempt may help."""
