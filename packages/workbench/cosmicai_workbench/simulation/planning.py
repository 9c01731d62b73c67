"""Plan an execution before running it: simulate it several times and sum up what may happen."""

import math
from typing import TYPE_CHECKING

import numpy as np
from cosmicai.cost import (
    CostBreakdown,
    Usage,
    cost,
    execution_usage,
    round_up_express,
)
from cosmicai.errors import InvalidInput
from cosmicai.facts import ARCHIVE_BYTES, MB, Architecture, vcpus
from pydantic import BaseModel, ConfigDict

from cosmicai_workbench.simulation.events import Trace, simulate
from cosmicai_workbench.simulation.parameters import Limits, Profile, Work

if TYPE_CHECKING:
    from collections.abc import Iterable


class Spread(BaseModel):
    """Distribution of one figure over the simulated executions."""

    model_config = ConfigDict(frozen=True)

    p5: float
    median: float
    p95: float

    @classmethod
    def of(cls, values: "Iterable[float]") -> "Spread":
        """Return the 5th, 50th and 95th percentile."""
        low, middle, high = np.percentile(np.fromiter(values, float), [5, 50, 95])
        return cls(p5=float(low), median=float(middle), p95=float(high))


class Plan(BaseModel):
    """What to expect of an execution; times in seconds, memory in MB, cost in US dollars."""

    model_config = ConfigDict(frozen=True)

    calibrated_from: str
    seed: int
    simulations: int
    galaxies: int
    data_bytes: int
    partition_mb: float
    work: Work
    limits: Limits
    memory_mb: int
    vcpus: float
    wall_seconds: Spread
    initialize_seconds: float
    map_seconds: Spread
    rank_seconds: Spread
    billed_seconds: Spread
    cold_starts: Spread
    throttled_invocations: Spread
    failed_ranks: Spread
    peak_concurrency: Spread
    galaxies_per_second: Spread
    cost: CostBreakdown | None
    """Of the execution with the median billed time; None where the region has no prices."""
    warnings: tuple[str, ...] = ()


def work_for(
    galaxies: float,
    partition_mb: float,
    bytes_per_galaxy: int,
    *,
    ranks: int | None = None,
    barrier: bool = False,
) -> Work:
    """Divide galaxies over ranks: one per partition, or as many as asked for.

    Raises
    ------
    InvalidInput
        If a figure is not positive, or there are more ranks than galaxies.
    """
    if not (math.isfinite(galaxies) and galaxies >= 1):
        raise InvalidInput(f"--galaxies: expected at least 1, found {galaxies:g}")
    per_partition = int((partition_mb * MB - ARCHIVE_BYTES) // bytes_per_galaxy)
    if per_partition < 1:
        raise InvalidInput(
            f"--partition-mb: one galaxy takes {bytes_per_galaxy} bytes, so a partition of "
            f"{partition_mb:g} MB holds none; choose a larger one"
        )
    count = round(galaxies)
    ranks = ranks or math.ceil(count / per_partition)
    if ranks > count:
        raise InvalidInput(f"--ranks: {ranks} ranks for {count} galaxies leave some without work")
    samples = math.ceil(count / ranks)
    return Work(
        ranks=ranks,
        samples_per_rank=samples,
        bytes_per_rank=samples * bytes_per_galaxy,
        barrier=barrier,
    )


def plan(
    work: Work,
    profile: Profile,
    limits: Limits,
    *,
    memory_mb: int,
    region: str = "us-east-1",
    architecture: Architecture = "arm64",
    simulations: int = 10,
    seed: int = 0,
) -> Plan:
    """Simulate an execution ``simulations`` times; the same seed gives the same plan.

    A region without prices is a warning, not an error: the times are the same.
    """
    cpus = vcpus(memory_mb)
    scaled = profile.at(cpus)
    traces = [simulate(work, scaled, limits, seed=seed + i) for i in range(simulations)]
    typical = sorted(traces, key=lambda trace: float(trace.billed.sum()))[len(traces) // 2]
    try:
        priced = cost(_usage(work, typical, scaled, memory_mb, region, architecture))
        unpriced = []
    except InvalidInput as error:
        priced, unpriced = None, [f"cost unknown: {error}"]
    galaxies = work.ranks * work.samples_per_rank
    data_bytes = work.ranks * work.bytes_per_rank
    return Plan(
        calibrated_from=profile.source,
        seed=seed,
        simulations=simulations,
        galaxies=galaxies,
        data_bytes=data_bytes,
        partition_mb=work.bytes_per_rank / MB,
        work=work,
        limits=limits,
        memory_mb=memory_mb,
        vcpus=cpus,
        wall_seconds=Spread.of(t.wall for t in traces),
        initialize_seconds=traces[0].initialized,
        map_seconds=Spread.of(t.map_end - t.initialized for t in traces),
        rank_seconds=Spread.of(np.concatenate([t.end - t.started for t in traces])),
        billed_seconds=Spread.of(t.billed.sum() for t in traces),
        cold_starts=Spread.of(t.sandboxes for t in traces),
        throttled_invocations=Spread.of(t.throttles for t in traces),
        failed_ranks=Spread.of(t.failed.sum() for t in traces),
        peak_concurrency=Spread.of(t.peak_concurrency for t in traces),
        galaxies_per_second=Spread.of(galaxies / t.wall for t in traces),
        cost=priced,
        warnings=(*_warnings(work, limits, traces), *unpriced),
    )


def _usage(
    work: Work,
    trace: Trace,
    profile: Profile,
    memory_mb: int,
    region: str,
    architecture: Architecture,
) -> Usage:
    return execution_usage(
        ranks=work.ranks,
        attempts=trace.attempts,
        partition_requests=work.ranks * profile.s3_requests_per_rank,
        cold_starts=trace.sandboxes,
        inference_seconds=float(trace.billed.sum()),
        inference_memory_mb=memory_mb,
        child_seconds=sum(round_up_express(s) for s in trace.end - trace.queued),
        initialize_seconds=trace.initialized,
        summarize_seconds=trace.wall - trace.map_end,
        barrier_seconds=float(trace.waited.sum()) if work.barrier else None,
        region=region,
        architecture=architecture,
    )


def _warnings(work: Work, limits: Limits, traces: "list[Trace]") -> "Iterable[str]":
    if work.barrier and work.ranks > min(limits.concurrency, limits.map_concurrency):
        yield (
            f"a barrier among {work.ranks} ranks needs them all running at once, and at most "
            f"{min(limits.concurrency, limits.map_concurrency)} can be: Initialize will refuse it"
        )
    longest = max(trace.wall for trace in traces)
    if longest > limits.execution_seconds:
        yield (
            f"the execution may take {longest:,.0f} s, and the state machine ends it after "
            f"{limits.execution_seconds:,.0f} s: raise its TimeoutSeconds or the concurrency, or "
            "divide the data over several executions"
        )
    failed = max(int(t.failed.sum()) for t in traces)
    late = max(int((t.end - t.queued > limits.child_seconds).sum()) for t in traces)
    if late:
        yield (
            f"up to {late} ranks take longer than the {limits.child_seconds:g} s of an EXPRESS "
            "child: choose smaller partitions, more memory or a lower MaxConcurrency"
        )
    if failed - late > 0:
        yield f"up to {failed - late} ranks fail for good after their retries"
    if any(t.throttles for t in traces) and limits.map_concurrency > limits.concurrency:
        yield (
            f"the Map may start {limits.map_concurrency} children at once but the account runs "
            f"{limits.concurrency}: the rest is throttled; lower MaxConcurrency"
        )
