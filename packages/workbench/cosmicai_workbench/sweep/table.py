"""The tidy table of a sweep: one row an execution, read from the run folders."""

from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import TYPE_CHECKING

from cosmicai.errors import InvalidInput

from cosmicai_workbench.results.run import load_run
from cosmicai_workbench.sweep.experiment import Experiment, Point, load_experiment

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from cosmicai_workbench.results.run import Run

EXPERIMENT_FILE = "experiment.toml"
"""Copy of the experiment in the sweep's folder, so that the folder explains itself."""


@dataclass(frozen=True)
class Row:
    """One execution: its settings, then what was measured; None where there is no figure."""

    folder: str
    repetition: int
    status: str
    partition: str
    partition_mb: float
    file_limit: int
    batch_size: int
    world_size: int | None
    memory_mb: int | None
    engine: str | None
    fmi: bool
    ranks: int
    galaxies: int
    data_gb: float
    """GB of 2^30 bytes that were read."""
    seconds_per_batch: float | None
    """Mean over ranks with data."""
    rank_seconds: float | None
    """Mean over ranks with data of the predict loop's wall time."""
    slowest_rank_seconds: float | None
    wall_seconds: float
    inference_seconds: float
    samples_per_second: float
    throughput_gbps: float
    """Sum of the ranks' throughputs, in 10^9 bits a second."""
    peak_memory_mb: float
    cold_starts: int
    billed_seconds: float
    cost_dollars: float | None
    nmad: float | None
    model_digest: str | None


@dataclass(frozen=True)
class SweepTable:
    """All finished executions of a sweep."""

    name: str
    experiment: Experiment
    planned: int
    rows: tuple[Row, ...]

    def frame(self) -> "pd.DataFrame":
        """Return the rows as a data frame, every column present even without rows."""
        import pandas as pd

        columns = [column.name for column in fields(Row)]
        return pd.DataFrame([asdict(row) for row in self.rows], columns=columns)


def row_of(point: Point, repetition: int, run: "Run") -> Row:
    """Sum up one run."""
    summary = run.summary
    working = [record for record in run.records if record.num_samples]
    return Row(
        folder=point.folder,
        repetition=repetition,
        status=summary.status,
        partition=point.partition,
        partition_mb=point.partition_mb,
        file_limit=point.file_limit,
        batch_size=point.batch_size,
        world_size=point.world_size,
        memory_mb=max((r.memory_limit_mb for r in run.records), default=0) or point.memory_mb,
        engine=summary.engine or point.engine,
        fmi=point.fmi,
        ranks=summary.world_size,
        galaxies=summary.num_samples,
        data_gb=summary.num_bytes / 2**30,
        seconds_per_batch=fmean(r.execution_time for r in working) if working else None,
        rank_seconds=fmean(r.total_cpu_time for r in working) if working else None,
        slowest_rank_seconds=max((r.total_cpu_time for r in working), default=None),
        wall_seconds=summary.wall_seconds,
        inference_seconds=summary.inference_seconds,
        samples_per_second=summary.samples_per_second,
        throughput_gbps=summary.throughput_bps / 1e9,
        peak_memory_mb=summary.peak_memory_mb,
        cold_starts=summary.cold_starts,
        billed_seconds=summary.billed_seconds,
        cost_dollars=summary.cost.total if summary.cost else None,
        nmad=summary.quality.nmad if summary.quality else None,
        model_digest=summary.model_digest,
    )


def run_folder(sweep: "Path", point: Point, repetition: int) -> "Path":
    """Return where one execution's run folder lies: ``<settings>/<repetition>``."""
    return sweep / point.folder / str(repetition)


def is_done(folder: "Path") -> bool:
    """Say whether an execution has finished there with a whole result."""
    return (folder / "summary.json").is_file() and load_run(folder).summary.status == "SUCCEEDED"


def read_table(sweep: "Path") -> SweepTable:
    """Read the table of a sweep's folder, finished or not.

    Raises
    ------
    InvalidInput
        If the folder is not a sweep's.
    """
    source = sweep / EXPERIMENT_FILE
    if not source.is_file():
        raise InvalidInput(f"{sweep}: holds no {EXPERIMENT_FILE}, so this is not a sweep's folder")
    experiment = load_experiment(source)
    points = experiment.points()
    rows = [
        row_of(point, repetition, load_run(folder))
        for point in points
        for repetition in range(1, experiment.repetitions + 1)
        if is_done(folder := run_folder(sweep, point, repetition))
    ]
    return SweepTable(
        experiment.name, experiment, len(points) * experiment.repetitions, tuple(rows)
    )


def write_table(table: SweepTable, sweep: "Path") -> None:
    """Write ``table.csv`` and ``table.parquet``; an interrupted write leaves the old ones."""
    frame = table.frame()
    for name, write in (("table.csv", frame.to_csv), ("table.parquet", frame.to_parquet)):
        unfinished = sweep / f"{name}.part"
        write(unfinished, index=False)
        unfinished.replace(sweep / name)
