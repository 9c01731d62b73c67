"""A profile from finished runs: the times their ranks measured."""

from datetime import timedelta
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import MAX_CHILDREN

from cosmicai_workbench.results.run_folder import Run, load_run
from cosmicai_workbench.simulation.parameters import Limits, Profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cosmicai.schema import RankRecord

_FAST_READ = 10e9
"""Bytes per second where reading hid entirely behind predicting."""
_APART = 1.5
"""Sizes that differ by less than this factor cannot separate a constant from a slope."""


def profile_of(run_folders: "Sequence[Path]") -> Profile:
    """Calibrate from run folders.

    Raises
    ------
    InvalidInput
        If one is not a run folder, they do not belong together, or no rank predicted anything.
    """
    return calibrate([load_run(folder) for folder in run_folders])


def calibrate(runs: "Sequence[Run]") -> Profile:
    """Calibrate from runs of one model, engine and number of threads.

    A rank's time is what it takes in a warm sandbox: reading (the time that predicting stood still
    for data), predicting, and the rest (writing its results, above all). Whatever a sandbox's first
    rank took beyond that, and the sandbox's init (from REPORT lines, where there are any), is a
    cold start: init, imports, loading the model, a first batch that is slower than the others.
    From a rank's end to the next one's start in a freed sandbox is the time of an invocation.

    Runs of different sizes separate what grows with the data from what does not; one size cannot,
    and all of reading and predicting is then taken to grow.

    Raises
    ------
    InvalidInput
        If no rank predicted anything, or the runs do not belong together.
    """
    _check_alike(runs)
    working = [record for run in runs for record in run.records if record.num_samples]
    if not working:
        named = ", ".join(str(run.path) for run in runs)
        raise InvalidInput(f"{named}: no rank predicted anything, so there are no times to use")
    init = {request: s for run in runs for request, s in run.init_seconds.items()}
    # Where every rank had a sandbox of its own, their first batches cannot be recognized.
    warm = [record for record in working if not record.cold_start] or working
    predict_fixed, predict = _line((r.num_samples, r.total_cpu_time) for r in warm)
    read_fixed, read = _line((r.num_bytes, r.wait_seconds) for r in warm)
    fixed = max(fmean(_own(r) - r.total_cpu_time - r.wait_seconds for r in warm), 0.0)
    if warm is working:
        fixed = max(fixed - fmean(r.model_load_seconds for r in working), 0.0)
    fixed += predict_fixed + read_fixed
    cold = tuple(
        init.get(r.request_id, 0.0)
        + max(_own(r) - fixed - predict * r.num_samples - read * r.num_bytes, 0.0)
        for r in working
        if r.cold_start
    )
    names = ", ".join(run.name for run in runs)
    plural = "s" if len(runs) > 1 else ""
    return Profile(
        source=f"run{plural} {names}: {len(working)} ranks, engine {working[0].engine}",
        vcpus=fmean(r.threads for r in working),
        initialize_seconds=fmean(map(_seconds_before, runs)),
        summarize_seconds=fmean(map(_seconds_after, runs)),
        cold_start_seconds=cold or (0.0,),
        invoke_seconds=fmean(map(_seconds_between_ranks, runs)),
        rank_seconds_fixed=fixed,
        read_bytes_per_second=min(1 / read, _FAST_READ) if read else _FAST_READ,
        s3_requests_per_rank=fmean(r.s3_num_requests for r in working),
        predict_seconds_per_sample=predict,
        jitter=tuple(r.total_cpu_time / (predict_fixed + predict * r.num_samples) for r in warm),
    )


def _check_alike(runs: "Sequence[Run]") -> None:
    """Refuse runs whose times do not describe one system."""
    for what, of in (
        ("engines", lambda r: f"{r.engine}, {r.precision}"),
        ("numbers of threads", lambda r: str(r.threads)),
        ("models", lambda r: r.model_digest[:12]),
    ):
        found = {of(r): run.path for run in runs for r in run.records if r.num_samples}
        if len(found) > 1:
            listed = "; ".join(f"{value} in {path}" for value, path in sorted(found.items()))
            raise InvalidInput(
                f"runs of different {what} do not calibrate one profile: {listed}; take runs alike"
            )


def _own(record: "RankRecord") -> float:
    return (record.finished_at - record.started_at).total_seconds()


def _line(points: "Iterable[tuple[float, float]]") -> tuple[float, float]:
    """Fit ``constant + slope · x``, neither of them negative, to times at several sizes.

    The mean at each size is fitted, by relative error. Where the sizes are too much alike, all is
    slope.
    """
    grouped = groupby(sorted(points), key=lambda point: point[0])
    means = {x: fmean(seconds for _, seconds in group) for x, group in grouped}
    x, y = np.array(list(means)), np.array(list(means.values()))
    if x[-1] < _APART * x[0]:
        return 0.0, float(y.sum() / x.sum())
    weights = 1 / np.maximum(y, 1e-6)
    slope, constant = np.polyfit(x, y, 1, w=weights)
    if constant < 0:
        return 0.0, float(weights @ (y / x) / weights.sum())
    if slope < 0:
        return float(y.mean()), 0.0
    return float(constant), float(slope)


def _seconds_before(run: Run) -> float:
    """Return the time from the start of an execution to the dispatch of its first rank."""
    init = run.init_seconds
    starts = [r.started_at - timedelta(seconds=init.get(r.request_id, 0.0)) for r in run.records]
    first = (min(starts) - run.summary.execution.start_time).total_seconds()
    return max(first - _seconds_between_ranks(run), 0.0)


def _seconds_after(run: Run) -> float:
    """Return the time from the last rank's end to the end of the execution."""
    end = max(record.finished_at for record in run.records)
    last = (end - run.summary.execution.start_time).total_seconds()
    return max(run.summary.wall_seconds - last, 0.0)


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
        concurrency=slots,
        burst=slots,
        map_concurrency=min(slots, MAX_CHILDREN),
        dispatch_rate=1000.0,
    )


def _seconds_between_ranks(run: Run) -> float:
    """Return the mean time from a rank's end to the start of the one that took its place."""
    slots = slots_of(run)
    starts = sorted(record.started_at for record in run.records)
    ends = sorted(record.finished_at for record in run.records)
    gaps = [(s - e).total_seconds() for s, e in zip(starts[slots:], ends, strict=False)]
    return max(fmean(gaps), 0.0) if gaps else 0.0
