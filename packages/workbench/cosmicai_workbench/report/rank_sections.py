"""Sections about ranks: when each did what, how fast, and in how much memory."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cosmicai_workbench.report import rank_figures, text
from cosmicai_workbench.report.content import Picture, Section, Table
from cosmicai_workbench.report.interactive import numbers
from cosmicai_workbench.report.phases import STRAGGLER_FACTOR, phases, stragglers
from cosmicai_workbench.results.logs import read_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cosmicai.schema import RankRecord

    from cosmicai_workbench.results.run_folder import Run

_MOST_DETAILED = 2000
"""Ranks whose records a page holds: beyond, the slow and failed ones, and every n-th."""
_LOG_BYTES = 600_000
"""Of all log lines on a page: those of failed and slow ranks go first."""
_FIELDS: "tuple[tuple[str, Callable[[RankRecord], float | str], str], ...]" = (
    ("galaxies", lambda r: r.num_samples, ""),
    ("without prediction", lambda r: r.num_unpredicted, ""),
    ("speed", lambda r: r.sample_persec, "galaxies/s"),
    ("predicting", lambda r: r.total_cpu_time, "s"),
    ("waiting for data", lambda r: r.wait_seconds, "s"),
    ("loading the model", lambda r: r.model_load_seconds, "s"),
    ("processor time", lambda r: r.process_cpu_seconds, "s"),
    ("billed", lambda r: r.billed_duration_ms / 1000, "s"),
    ("peak memory", lambda r: r.total_cpu_memory, "MB"),
    ("memory limit", lambda r: r.memory_limit_mb, "MB"),
    ("S3 requests", lambda r: r.s3_num_requests, ""),
    ("mean S3 request", lambda r: 1000 * r.s3_avg_time, "ms"),
    ("cold start", lambda r: "yes" if r.cold_start else "no", ""),
    ("request id", lambda r: r.request_id, ""),
)
"""What a click on a rank shows of its record: label, value, unit."""


def sections(run: "Run", prefix: str) -> "Iterator[Section]":
    """Yield the sections about a run's ranks."""
    yield _timeline(run, prefix)
    yield _resources(run, prefix)


def document(run: "Run") -> dict[str, Any]:
    """Return the ranks as the page's script reads them.

    ``fields`` are labels and units, ``ranks`` rank → values in their order with partition and
    phases, ``failed`` rank → why, ``logs`` rank → its last lines.
    """
    records = run.records
    slow = _slow(run)[2] if records else []
    step = max(1, -(-len(records) // _MOST_DETAILED))
    kept = [record for i, record in enumerate(records) if i % step == 0 or i in slow]
    failed = [each.rank for each in run.summary.failed_ranks]
    first = [*failed, *(records[i].rank for i in slow)]
    return {
        "logs": _logs(run, first),
        "fields": [[label, unit] for label, _, unit in _FIELDS],
        "ranks": {
            str(record.rank): [_partition_name(record), *map(_short, _values(record))]
            for record in kept
        },
        "slow": numbers(np.array([records[i].rank for i in slow], int)),
        "failed": {
            str(each.rank): [
                _path_name(each.data_path),
                f"{each.error}: {each.cause}",
            ]
            for each in run.summary.failed_ranks[:_MOST_DETAILED]
        },
    }


def _logs(run: "Run", first: "list[int]") -> dict[str, list[str]]:
    """Return the log lines that a page has room for, those of some ranks first."""
    lines = read_logs(run.path)
    room, found = _LOG_BYTES, {}
    for rank in dict.fromkeys([*first, *lines]):
        room -= sum(len(line) + 3 for line in lines.get(rank, ()))
        if room < 0:
            break
        if rank in lines:
            found[str(rank)] = lines[rank]
    return found


def _values(record: "RankRecord") -> "Iterator[float | str]":
    return (value(record) for _, value, _ in _FIELDS)


def _short(value: float | str) -> float | str | None:
    if isinstance(value, str):
        return value
    return value if isinstance(value, int) else float(f"{value:.4g}")


def _slow(run: "Run") -> "tuple[dict[str, Any], Any, list[int]]":
    """Return phases, seconds of work of each rank, and the positions of the stragglers."""
    records = run.records
    start = run.summary.execution.start_time
    barrier = run.summary.fmi is not None
    segments = phases(records, start, run.init_seconds, barrier=barrier)
    work = segments["write"][1] - segments["read"][0]
    return segments, work, stragglers(work)


def _timeline(run: "Run", prefix: str) -> Section:
    records = run.records
    met = run.summary.fmi
    segments, work, slow = _slow(run)
    median_work = float(np.median(work))
    names = list(segments)

    def row(head: str, of: "Callable[[Any], float]", last: str) -> tuple[str, ...]:
        return (head, *(f"{of(e - s):.2f}" for s, e in segments.values()), f"{of(work):.2f}", last)

    table = Table(
        "Seconds by phase: the median of each, and the slowest ranks",
        ("rank", *names, "work", "partition"),
        (
            row("median", lambda values: float(np.median(values)), ""),
            *(
                row(
                    str(records[i].rank),
                    lambda values, i=i: float(values[i]),  # type: ignore[misc]
                    _partition_name(records[i]),
                )
                for i in (slow or [int(np.argmax(work))])
            ),
        ),
    )
    if len(records) < rank_figures.FEWEST_RANKS:
        note = "Too few ranks to name a straggler."
    elif slow:
        note = (
            f"Stragglers: {len(slow)} of {len(records)} ranks worked (without queue and cold "
            f"start) more than {STRAGGLER_FACTOR} times the median of {text.seconds(median_work)}."
        )
    else:
        note = (
            "No stragglers: no rank worked (without queue and cold start) more than "
            f"{STRAGGLER_FACTOR} times the median of {text.seconds(median_work)}."
        )
    if met is not None:
        note += (
            f" After the last rank, all met over FMI ({met.channel}): the first to come waited "
            f"{text.seconds(met.longest_wait_seconds)} at the barrier."
        )
    picture = Picture(
        rank_figures.timeline(
            segments,
            [record.rank for record in records],
            [records[i].rank for i in slow],
            [failed.rank for failed in run.summary.failed_ranks],
            f"{prefix}-ranks",
        ),
        "One bar per rank; click one for its record, its log and its galaxies. Reading and "
        "predicting take turns batch by batch; their sums are shown one after the other.",
    )
    return Section(
        f"{prefix}-timeline", "Ranks in time", note, (), (picture,), (table,), explorer="ranks"
    )


def _partition_name(record: "RankRecord") -> str:
    return _path_name(record.data_path)


def _path_name(paths: "str | list[str] | None") -> str:
    if not paths:
        return "none"
    if isinstance(paths, str):
        return paths
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _resources(run: "Run", prefix: str) -> Section:
    working = [record for record in run.records if record.num_samples]
    if len(run.records) < rank_figures.FEWEST_RANKS:
        return _few(run, prefix)
    memory = np.array([record.total_cpu_memory for record in run.records])
    limit = max((record.memory_limit_mb for record in run.records), default=0) or None
    pictures = []
    if working:
        speed = np.array([record.sample_persec for record in working])
        throughput = np.array([record.throughput_bps / 1e6 for record in working])
        pictures = [
            Picture(
                rank_figures.rank_histogram(speed, "galaxies per second", f"{prefix}-speed"),
                "Speed of each rank while it predicts.",
            ),
            Picture(
                rank_figures.rank_histogram(
                    throughput, "throughput (Mbit/s)", f"{prefix}-throughput"
                ),
                "Bits of images and magnitudes predicted per second, by rank.",
            ),
        ]
        if any(record.s3_num_requests for record in working):
            reading = np.array([1000 * record.s3_avg_time for record in working])
            plot = rank_figures.rank_histogram(reading, "mean S3 request (ms)", f"{prefix}-s3")
            pictures.append(Picture(plot, "Mean time of an S3 request, by rank."))
    plot = rank_figures.rank_histogram(memory, "peak memory (MB)", f"{prefix}-memory", limit)
    pictures.append(Picture(plot, "Peak resident memory of each rank's sandbox."))
    return Section(f"{prefix}-resources", "Throughput and memory", pictures=tuple(pictures))


def _few(run: "Run", prefix: str) -> Section:
    """Return a table instead of distributions of too few ranks."""
    table = Table(
        "By rank",
        ("rank", "galaxies per second", "throughput", "mean S3 request", "peak memory"),
        tuple(
            (
                str(record.rank),
                f"{record.sample_persec:,.0f}",
                text.rate(record.throughput_bps),
                text.seconds(record.s3_avg_time) if record.s3_num_requests else "–",
                f"{record.total_cpu_memory:,.0f} MB",
            )
            for record in run.records
        ),
    )
    return Section(f"{prefix}-resources", "Throughput and memory", tables=(table,))
