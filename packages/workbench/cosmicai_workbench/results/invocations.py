"""What Lambda billed: the REPORT lines of an execution's invocations (``invocations.jsonl``)."""

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosmicai.errors import InvalidInput, load_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE_NAME = "invocations.jsonl"
"""One JSON object per line, ``{"function": …, "report": …}``, in the run folder."""

_REPORT = re.compile(
    r"REPORT RequestId: (?P<request_id>\S+)\s+"
    r"Duration: (?P<duration>[\d.]+) ms\s+"
    r"Billed Duration: (?P<billed>[\d.]+) ms\s+"
    r"Memory Size: (?P<size>\d+) MB\s+"
    r"Max Memory Used: (?P<used>\d+) MB"
    r"(?:\s+(?:Init|Restore) Duration: (?P<init>[\d.]+) ms)?"
)


@dataclass(frozen=True)
class Invocation:
    """One invocation, by its REPORT line; times in ms, memory in MB."""

    function: str
    request_id: str
    duration_ms: float
    billed_ms: float
    memory_mb: int
    max_memory_mb: int
    init_ms: float


def parse_report(report: "str | dict[str, Any]", function: str = "") -> Invocation:
    """Parse a REPORT line of Lambda or of its emulator, or a JSON log's ``platform.report``.

    Raises
    ------
    InvalidInput
        If it is neither.
    """
    if isinstance(report, str) and not report.lstrip().startswith("{"):
        return _parse_line(report, function)
    try:
        record = (json.loads(report) if isinstance(report, str) else report)["record"]
        metrics = record["metrics"]
        init = metrics.get("initDurationMs", metrics.get("restoreDurationMs", 0.0))
        return Invocation(
            function=function,
            request_id=str(record["requestId"]),
            duration_ms=float(metrics["durationMs"]),
            billed_ms=float(metrics["billedDurationMs"]),
            memory_mb=int(metrics["memorySizeMB"]),
            max_memory_mb=int(metrics["maxMemoryUsedMB"]),
            init_ms=float(init),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"expected a platform.report record of Lambda ({error!r})") from None


def _parse_line(line: str, function: str) -> Invocation:
    found = _REPORT.search(line)
    if not found:
        raise InvalidInput(f"expected a REPORT line of Lambda, found {line[:80]!r}")
    return Invocation(
        function=function,
        request_id=found["request_id"],
        duration_ms=float(found["duration"]),
        billed_ms=float(found["billed"]),
        memory_mb=int(found["size"]),
        max_memory_mb=int(found["used"]),
        init_ms=float(found["init"] or 0),
    )


def write_invocations(run: "Path", rows: "Iterable[dict[str, str]]") -> None:
    """Write invocations, each its function and its REPORT line, into a run folder."""
    (run / FILE_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_invocations(run_folder: "Path") -> tuple[Invocation, ...]:
    """Return the invocations of a run; none if the folder has no such file.

    Raises
    ------
    InvalidInput
        If the file is there but a line of it is not what it should be; the message names it.
    """
    source = run_folder / FILE_NAME
    if not source.is_file():
        return ()
    found = []
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = load_json(line)
            found.append(parse_report(row["report"], row["function"]))
        except (ValueError, KeyError, TypeError, InvalidInput) as error:
            raise InvalidInput(f"{source}, line {number}: {error}") from None
    return tuple(found)
