"""What a sweep's table holds of each run, beside its settings."""

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cosmicai.schema import RankRecord

    from cosmicai_workbench.results.run_folder import Run
    from cosmicai_workbench.sweep.experiment import Point


@dataclass(frozen=True)
class Measure:
    """A column of the table.

    Attributes
    ----------
    name
        Name of the column.
    of
        Run and its settings → value; None where there is none.
    label
        What figures call it; without one it is not drawn.
    head, digits
        Heading in the report's table of means, and decimals there; without a heading it has no
        column there.
    """

    name: str
    of: "Callable[[Run, Point], Any]"
    label: str = ""
    head: str = ""
    digits: int = 2


def _working(run: "Run") -> "list[RankRecord]":
    return [record for record in run.records if record.num_samples]


def _mean(values: "Iterable[float]") -> float | None:
    found = list(values)
    return fmean(found) if found else None


_ALL = (
    # MB of 2^20 bytes, from the name of the partitions' folder.
    Measure("partition_mb", lambda _, point: point.partition_mb, "partition size (MB)"),
    Measure("ranks", lambda run, _: run.summary.world_size, "ranks"),
    Measure("galaxies", lambda run, _: run.summary.num_samples, "galaxies"),
    # GB of 2^30 bytes that were read.
    Measure("data_gb", lambda run, _: run.summary.num_bytes / 2**30, "data (GB)"),
    # Means over the ranks that had data.
    Measure(
        "seconds_per_batch",
        lambda run, _: _mean(record.execution_time for record in _working(run)),
        "time per batch (s), mean of ranks",
        "s / batch",
        3,
    ),
    Measure(
        "rank_seconds",
        lambda run, _: _mean(record.total_cpu_time for record in _working(run)),
        "time to predict (s), mean of ranks",
        "predict s / rank",
    ),
    Measure(
        "slowest_rank_seconds",
        lambda run, _: max((record.total_cpu_time for record in _working(run)), default=None),
        "time to predict (s), slowest rank",
    ),
    Measure("wall_seconds", lambda run, _: run.summary.wall_seconds, "wall time (s)", "wall s"),
    Measure(
        "inference_seconds",
        lambda run, _: run.summary.inference_seconds,
        "inference, first rank to last (s)",
        "inference s",
    ),
    Measure(
        "samples_per_second",
        lambda run, _: run.summary.samples_per_second,
        "galaxies per second",
        "galaxies / s",
        0,
    ),
    # In 10^9 bits per second.
    Measure(
        "throughput_gbps",
        lambda run, _: run.summary.throughput_bps / 1e9,
        "throughput, sum of ranks (Gbit/s)",
        "Gbit/s",
        3,
    ),
    Measure(
        "peak_memory_mb",
        lambda run, _: run.summary.peak_memory_mb,
        "peak memory of a rank (MB)",
        "peak MB",
        0,
    ),
    Measure("cold_starts", lambda run, _: run.summary.cold_starts, "cold starts"),
    Measure("billed_seconds", lambda run, _: run.summary.billed_seconds, "billed time (s)"),
    Measure(
        "cost_dollars",
        lambda run, _: run.summary.cost.total if run.summary.cost else None,
        "estimated cost on AWS (US dollars)",
    ),
    Measure(
        "nmad", lambda run, _: run.summary.quality.nmad if run.summary.quality else None, "NMAD"
    ),
    Measure("model_digest", lambda run, _: run.summary.model_digest),
)
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}
"""Name → measure, in the order of the table."""
