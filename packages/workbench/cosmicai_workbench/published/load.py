"""Read the published figures that ship with the workbench (``executions.json``)."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class PublishedRanks:
    """Rank times of one published execution.

    Attributes
    ----------
    partition_mb
        Size of a partition in MB.
    rank_seconds
        Their ``total_cpu_time (seconds)`` of every rank: profiler time, which counts nested
        operators twice, so an upper bound of wall time.
    """

    source: str
    partition_mb: int
    data_gb: float
    batch_size: int
    rank_seconds: tuple[float, ...]


@cache
def published() -> dict[str, Any]:
    """Return the whole document: ``source``, ``headline``, ``executions`` and the other tables."""
    text = files(__package__).joinpath("executions.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def executions() -> list[dict[str, Any]]:
    """Return the timed executions up to 12.6 GB: partition, data, ranks, seconds in total."""
    return list(published()["executions"])


def rank_times(partition_mb: int) -> PublishedRanks:
    """Return the published rank times of one partition size (25 or 100 MB)."""
    for row in published()["rank_times"]:
        if row["partition_mb"] == partition_mb:
            return PublishedRanks(**{**row, "rank_seconds": tuple(row["rank_seconds"])})
    raise KeyError(partition_mb)
