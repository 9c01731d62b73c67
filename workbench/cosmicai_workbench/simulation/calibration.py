"""A profile from a finished run: the times its ranks measured."""

from datetime import timedelta
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np
from cosmicai.errors import InvalidInput

from cosmicai_workbench.results.run import Run, load_run
from cosmicai_workbench.simulation.model import Limits, Profile

if TYPE_CHECKING:
    from pathlib import Path

_FAST_READ = 10e9
"""Bytes a second where reading hid entirely behind predicting."""


def profile_of(run_folder: "Path") -> Profile:
    """Calibrate from a run folder.

    Raises
    ------
    InvalidInput
        If it is no run folder, or no rank of it predicted anything.
    """
    return calibrate_run(load_run(run_folder))


def calibrate_run(run: Run) -> Profile:
    """Calibrate from a run.

    From a rank's end to the next one's start in a freed sandbox is the time of an invocation. A
    cold start is the sandbox's init (from REPORT lines, where there are any), loading the model,
    and what a sandbox's first rank does once (imports). Reading is the time that predicting stood
    still for data. Whatever else a rank did (writing its results, above all) is its fixed time.

    Raises
    ------
    InvalidInput
        If no rank predicted anything.
    """
    working = [record for record in run.records if record.num_samples]
    if not working:
        raise InvalidInput(f"{run.path}: no rank predicted anything, so there are no times to use")
    init = run.init_seconds
    seconds = np.array([r.total_cpu_time / r.num_samples for r in working])
    middle = float(np.median(seconds))
    fixed = [
        (r.finished_at - r.started_at).total_seconds()
        - r.model_load_seconds
        - r.wait_seconds
        - r.total_cpu_time
        for r in working
    ]
    usual = max(median(fixed), 0.0)
    cold = [
        init.get(r.request_id, 0.0) + r.model_load_seconds + max(own - usual, 0.0)
        for r, own in zip(working, fixed, strict=True)
        if r.cold_start
    ]
    waited = sum(r.wait_seconds for r in working)
    read = sum(r.num_bytes for r in working) / waited if waited else _FAST_READ
    starts = [r.started_at - timedelta(seconds=init.get(r.request_id, 0.0)) for r in run.records]
    first = (min(starts) - run.summary.execution.start_time).total_seconds()
    first -= _seconds_between_ranks(run)  # the first rank was dispatched that much earlier
    end = max(r.finished_at for r in run.records)
    after = run.summary.wall_seconds - (end - run.summary.execution.start_time).total_seconds()
    return Profile(
        source=f"run {run.name}: {len(working)} ranks, engine {run.summary.engine}",
        vcpus=float(fmean(r.threads for r in working)),
        initialize_seconds=max(first, 0.0),
        summarize_seconds=max(after, 0.0),
        cold_start_seconds=tuple(cold) or (0.0,),
        invoke_seconds=_seconds_between_ranks(run),
        rank_seconds_fixed=usual,
        read_bytes_per_second=min(read, _FAST_READ),
        s3_requests_per_rank=fmean(r.s3_num_requests for r in working),
        predict_seconds_per_sample=middle,
        jitter=tuple(float(value) for value in seconds / middle),
    )


def slots_of(run: Run) -> int:
    """Return how many ranks of a run were under way at once, at most."""
    edges = [(record.started_at, 1) for record in run.records]
    edges += [(record.finished_at, -1) for record in run.records]
    most = now = 0
    for _, step in sorted(edges):
        now += step
        most = max(most, now)
    return most


def limits_of(run: Run) -> Limits:
    """Return the limits of the place of a local run: as many sandboxes as it used, at once."""
    slots = slots_of(run)
    return Limits(
        concurrency=slots, burst=slots, map_concurrency=min(slots, 10_000), dispatch_rate=1000.0
    )


def _seconds_between_ranks(run: Run) -> float:
    """Return the median time from a rank's end to the start of the one that took its place."""
    slots = slots_of(run)
    starts = sorted(record.started_at for record in run.records)
    ends = sorted(record.finished_at for record in run.records)
    gaps = [(s - e).total_seconds() for s, e in zip(starts[slots:], ends, strict=False)]
    return max(median(gaps), 0.0) if gaps else 0.0
