"""Log streams of the local cloud: one file per sandbox, as CloudWatch Logs has one stream.

A line of a file is a timestamp (UTC, microseconds), a tab, and what the function or the platform
wrote. One invocation's lines are between ``START`` and ``REPORT``.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cosmicai.machine import peak_memory_mb_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_RANK_FIELD = "\tRank: "
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _escape(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"


@dataclass(frozen=True)
class Report:
    """What one invocation used: Lambda's REPORT line, measured.

    Durations are milliseconds. ``max_memory_used`` is the peak resident memory of the sandbox's
    runtime since it started, in MB of 1,048,576 bytes.
    """

    request_id: str
    duration: float
    memory_size: int
    max_memory_used: int
    init_duration: float | None = None
    status: str | None = None

    @property
    def billed_duration(self) -> int:
        """Whole milliseconds that AWS bills: since August 2025 the init phase counts too."""
        return math.ceil(self.duration + (self.init_duration or 0.0))

    def line(self) -> str:
        """Return the line as Lambda writes it."""
        fields = [
            f"REPORT RequestId: {self.request_id}",
            f"Duration: {self.duration:.2f} ms",
            f"Billed Duration: {self.billed_duration} ms",
            f"Memory Size: {self.memory_size} MB",
            f"Max Memory Used: {self.max_memory_used} MB",
        ]
        if self.init_duration is not None:
            fields.append(f"Init Duration: {self.init_duration:.2f} ms")
        if self.status is not None:
            fields.append(f"Status: {self.status}")
        return "\t".join(fields)


def peak_memory(process_id: int) -> int | None:
    """Return the peak resident memory of a process in MB, rounded up; None if it is gone."""
    used = peak_memory_mb_of(process_id)
    return None if used is None else math.ceil(used)


class LogStream:
    """Appends timestamped lines to one file; safe to share between threads.

    ``fault`` is the first error of writing, e.g. of a full disk: lines are dropped from then on,
    since the process that says them must not be held up.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()
        self.fault: OSError | None = None

    def write(self, line: str) -> None:
        """Append a line; after :meth:`close`, drop it.

        A record of several lines is kept as Lambda's runtime writes it, by carriage returns.
        """
        line = line.replace("\r\n", "\r").replace("\n", "\r")
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        with self._lock:
            if self._file.closed or self.fault:
                return
            try:
                self._file.write(f"{now}\t{line}\n")
            except OSError as error:
                self.fault = error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            try:
                self._file.close()
            except OSError as error:  # what could not be written is tried again
                self.fault = self.fault or error


@dataclass(frozen=True)
class Entry:
    """One line of a stream."""

    timestamp: str
    stream: str
    text: str

    def shown(self) -> str:
        """Return what to print: time and stream, then the text, its further lines indented.

        Lambda's runtime writes the lines of a stack trace as one record, with carriage returns
        between them. Characters that would control a terminal are shown as escapes.
        """
        first, *more = self.text.split("\r")
        lines = [f"{self.timestamp} {self.stream} {first}", *(f"    {line}" for line in more)]
        return "\n".join(_CONTROL.sub(_escape, line) for line in lines)


@dataclass
class _Stream:
    """Reads a growing file, one invocation at a time."""

    path: Path
    name: str
    position: int = 0
    rest: str = ""
    pending: list[Entry] = field(default_factory=list)
    rank_seen: bool = False


class LogReader:
    """Reads all streams under a folder, oldest line first, and again as they grow.

    Parameters
    ----------
    folder
        Folder of the streams, as :class:`LogStream` wrote them.
    rank
        Show only the invocations that served this rank: those whose START line names it, or a JSON
        line whose ``rank`` is this number. They are shown once they are over, for a JSON line may
        come late.
    """

    def __init__(self, folder: Path, *, rank: int | None = None) -> None:
        self._folder = folder
        self._rank = rank
        self._streams: dict[Path, _Stream] = {}

    def read(self) -> list[Entry]:
        """Return what has come since the last call."""
        entries: list[Entry] = []
        for path in sorted(self._folder.rglob("*.log")):
            stream = self._streams.setdefault(
                path, _Stream(path, str(path.relative_to(self._folder).with_suffix("")))
            )
            entries.extend(self._new_entries(stream))
        return sorted(entries, key=lambda entry: entry.timestamp)

    def follow(self, interval: float = 0.2) -> Iterator[Entry]:
        """Yield lines as they come, for ever."""
        while True:
            yield from self.read()
            time.sleep(interval)

    def _new_entries(self, stream: _Stream) -> Iterator[Entry]:
        # newline="": carriage returns are part of a line.
        with stream.path.open(encoding="utf-8", errors="replace", newline="") as file:
            file.seek(stream.position)
            text = stream.rest + file.read()
            stream.position = file.tell()
        *lines, stream.rest = text.split("\n")
        for line in lines:
            timestamp, _, rest = line.partition("\t")
            entry = Entry(timestamp, stream.name, rest)
            if self._rank is None:
                yield entry
            else:
                yield from self._of_rank(stream, entry)

    def _of_rank(self, stream: _Stream, entry: Entry) -> Iterator[Entry]:
        if entry.text.startswith("START RequestId"):
            stream.pending, stream.rank_seen = [], False
        stream.pending.append(entry)
        stream.rank_seen = stream.rank_seen or rank_of(entry.text) == self._rank
        if entry.text.startswith("REPORT RequestId"):
            if stream.rank_seen:
                yield from stream.pending
            stream.pending, stream.rank_seen = [], False


def start_line(request_id: str, payload: bytes) -> str:
    """Return the START line of an invocation, with the rank that its event names, if it does.

    A rank that fails before its first log line is found by it.
    """
    line = f"START RequestId: {request_id} Version: $LATEST"
    try:
        event = json.loads(payload)
    except ValueError:
        return line
    rank = event.get("RANK") if isinstance(event, dict) else None
    return line if rank is None else f"{line}{_RANK_FIELD}{rank}"


def rank_of(text: str) -> int | None:
    """Return the rank that a START or JSON log line names, if it does."""
    if text.startswith("START RequestId"):
        named = text.partition(_RANK_FIELD)[2]
        return int(named) if named.isdigit() else None
    if not text.startswith("{"):
        return None
    try:
        rank = json.loads(text).get("rank")
    except ValueError:
        return None
    return int(rank) if isinstance(rank, int | str) and str(rank).isdigit() else None


def latest_logs(root: Path) -> Path | None:
    """Return the log folder, of those of all local clouds, that was written to last."""
    folders = {path.parents[1] for path in root.glob("*/logs/*/*.log")}
    return max(folders, key=_last_written, default=None)


def _last_written(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.rglob("*.log"))
