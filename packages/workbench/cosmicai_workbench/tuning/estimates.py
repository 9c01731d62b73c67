"""From measured speed to the time and cost of a data set on AWS, and which setting is best.

The model, all of whose inputs are in its output: a rank of ``n`` galaxies takes
``start + n / speed``; Lambda bills that at the memory size, in milliseconds; the other items
(requests, transitions, S3) come from :mod:`cosmicai.cost`. S3 time is hidden behind compute, as
``benchmarks/inference.py`` measures. Every rank pays a cold start, the worst case.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, get_args

from cosmicai.cost import cost, execution_usage, round_up_express
from cosmicai.facts import (
    GALAXY_BYTES,
    MAX_MEMORY_MB,
    MIN_MEMORY_MB,
    PART_BYTES,
    Architecture,
    galaxies_in,
)
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Iterable

STEP_SECONDS = 1.0
"""Of Initialize, and of Summarize, generously."""


class Setting(BaseModel):
    """What a user can choose."""

    model_config = ConfigDict(frozen=True)

    memory_mb: int = Field(ge=MIN_MEMORY_MB, le=MAX_MEMORY_MB)
    batch_size: int = Field(ge=1)
    partition_mb: float = Field(gt=0)


class Estimate(BaseModel):
    """Time and cost of a data set at one setting."""

    model_config = ConfigDict(frozen=True)

    setting: Setting
    vcpus: float
    galaxies_per_second: float = Field(description="Of one rank, measured.")
    start_seconds: float = Field(description="Cold start of a rank, measured.")
    ranks: int
    rank_seconds: float = Field(description="Of a rank with a whole partition.")
    seconds: float = Field(description="Of the inference, in waves of the allowed concurrency.")
    gb_seconds: float
    dollars: float


def survey_cost(
    *, galaxies: int, ranks: int, galaxies_per_second: float, memory_mb: int, start_seconds: float
) -> dict[str, Any]:
    """Return GB-seconds and dollars of a data set on both architectures, with all inputs.

    The speed is taken to be the same on both: it was measured on one.
    """
    rank_seconds = start_seconds + math.ceil(galaxies / ranks) / galaxies_per_second
    billed = ranks * start_seconds + galaxies / galaxies_per_second
    totals, items = {}, {}
    for architecture in get_args(Architecture):
        read = galaxies * GALAXY_BYTES
        breakdown = _price(read, ranks, billed, rank_seconds, memory_mb, architecture)
        totals[architecture] = breakdown.total
        items[architecture] = breakdown.items
    return {
        "inputs": {
            "galaxies": galaxies,
            "ranks": ranks,
            "galaxies_per_second": galaxies_per_second,
            "memory_mb": memory_mb,
            "start_seconds": start_seconds,
        },
        "rank_seconds": rank_seconds,
        "gb_seconds": billed * memory_mb / 1024,
        "total_dollars": totals,
        "items": items,
    }


def estimate(
    setting: Setting,
    *,
    galaxies: int,
    galaxies_per_second: float,
    start_seconds: float,
    vcpus: float,
    concurrency: int,
    architecture: Architecture = "arm64",
    galaxy_bytes: int = GALAXY_BYTES,
) -> Estimate:
    """Return time and cost of ``galaxies`` at one setting."""
    in_partition = max(1, galaxies_in(setting.partition_mb, galaxy_bytes))
    ranks = math.ceil(galaxies / in_partition)
    rank_seconds = start_seconds + min(in_partition, galaxies) / galaxies_per_second
    billed = ranks * start_seconds + galaxies / galaxies_per_second
    read = galaxies * galaxy_bytes
    priced = _price(read, ranks, billed, rank_seconds, setting.memory_mb, architecture)
    return Estimate(
        setting=setting,
        vcpus=vcpus,
        galaxies_per_second=galaxies_per_second,
        start_seconds=start_seconds,
        ranks=ranks,
        rank_seconds=rank_seconds,
        seconds=rank_seconds * math.ceil(ranks / concurrency),
        gb_seconds=billed * setting.memory_mb / 1024,
        dollars=priced.total,
    )


def pareto(estimates: Iterable[Estimate]) -> list[Estimate]:
    """Return the estimates that no other beats in both time and cost, fastest first."""
    front: list[Estimate] = []
    for candidate in sorted(estimates, key=lambda one: (one.seconds, one.dollars)):
        if not front or candidate.dollars < front[-1].dollars:
            front.append(candidate)
    return front


def recommend(
    estimates: Iterable[Estimate], *, max_seconds: float | None = None, slack: float = 0.05
) -> Estimate:
    """Return the fastest setting that costs at most ``slack`` more than the cheapest.

    With ``max_seconds``, among the settings that keep to it, if there are any; else the fastest.
    """
    candidates = list(estimates)
    if max_seconds is not None:
        quick = [one for one in candidates if one.seconds <= max_seconds]
        candidates = quick or [min(candidates, key=lambda one: one.seconds)]
    limit = (1 + slack) * min(one.dollars for one in candidates)
    return min(
        (one for one in candidates if one.dollars <= limit),
        key=lambda one: (one.seconds, one.dollars),
    )


def _price(
    read_bytes: int,
    ranks: int,
    billed_seconds: float,
    rank_seconds: float,
    memory_mb: int,
    architecture: Architecture,
) -> Any:
    usage = execution_usage(
        ranks=ranks,
        partition_requests=math.ceil(read_bytes / PART_BYTES),
        cold_starts=ranks,
        inference_seconds=billed_seconds,
        inference_memory_mb=memory_mb,
        child_seconds=ranks * round_up_express(rank_seconds),
        initialize_seconds=STEP_SECONDS,
        summarize_seconds=STEP_SECONDS,
        architecture=architecture,
    )
    return cost(usage)
