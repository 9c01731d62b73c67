"""The invocations that served one execution, from the log streams of a local cloud."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cosmicai_workbench.cloud.records import LogReader, rank_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cosmicai_workbench.cloud.records import Entry


def lines_of(logs: Path, execution: str, rank: int | None = None) -> list[Entry]:
    """Return the lines of the invocations that served an execution, or one of its ranks, by time.

    An invocation belongs to the execution whose name its JSON log lines give.
    """
    pending: dict[str, list[Entry]] = {}
    ours: dict[str, bool] = {}
    found: list[Entry] = []
    for entry in LogReader(logs, rank=rank).read():
        if entry.text.startswith("START RequestId"):
            pending[entry.stream], ours[entry.stream] = [], False
        lines = pending.setdefault(entry.stream, [])
        lines.append(entry)
        if entry.text.startswith("{"):
            ours[entry.stream] = ours.get(entry.stream, False) or _names(entry.text, execution)
        elif entry.text.startswith("REPORT RequestId"):
            if ours.get(entry.stream):
                found += lines
            pending[entry.stream] = []
    return sorted(found, key=lambda entry: entry.timestamp)


def invocations(logs: Path, execution: str) -> Iterator[dict[str, str]]:
    """Yield the function and the REPORT line of each invocation of an execution."""
    for entry in lines_of(logs, execution):
        if entry.text.startswith("REPORT RequestId"):
            yield {"function": entry.stream.split("/", 1)[0], "report": entry.text}


def lines_by_rank(logs: Path, execution: str) -> dict[int, list[str]]:
    """Return rank → the lines of the invocations that served it, each with its time."""
    serving: dict[str, int | None] = {}
    pending: dict[str, list[str]] = {}
    found: dict[int, list[str]] = {}
    for entry in lines_of(logs, execution):
        if entry.text.startswith("START RequestId"):
            serving[entry.stream], pending[entry.stream] = None, []
        if serving.get(entry.stream) is None:
            serving[entry.stream] = rank_of(entry.text)
        pending.setdefault(entry.stream, []).extend(entry.shown().splitlines())
        if entry.text.startswith("REPORT RequestId"):
            rank = serving[entry.stream]
            if rank is not None:
                found.setdefault(rank, []).extend(pending[entry.stream])
            pending[entry.stream] = []
    return found


def _names(text: str, execution: str) -> bool:
    try:
        record: dict[str, Any] = json.loads(text)
    except ValueError:
        return False
    return str(record.get("execution", "")).rsplit(":", 1)[-1] == execution
