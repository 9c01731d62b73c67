"""The tidy table of a sweep: one row per execution, read from the run folders."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosmicai.errors import InvalidInput
from cosmicai.whole_files import whole_file

from cosmicai_workbench.results.run_folder import load_run
from cosmicai_workbench.sweep.axes import AXES
from cosmicai_workbench.sweep.experiment import Experiment, Point, load_experiment
from cosmicai_workbench.sweep.measures import MEASURES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from cosmicai_workbench.results.run_folder import Run

EXPERIMENT_FILE = "experiment.toml"
"""Copy of the experiment in the sweep's folder, so that the folder explains itself."""


@dataclass(frozen=True)
class Row:
    """One execution: ``row[column]`` is a setting or a measure, None where there is no figure."""

    folder: str
    repetition: int
    status: str
    text: str
    """The settings as a report writes them."""
    values: "Mapping[str, Any]"

    def __getitem__(self, column: str) -> Any:
        return self.values[column]


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

        leading = ("folder", "repetition", "status")
        rows = [
            {name: getattr(row, name) for name in leading} | dict(row.values) for row in self.rows
        ]
        return pd.DataFrame(rows, columns=[*leading, *Point(), *MEASURES])


def row_of(point: Point, repetition: int, run: "Run") -> Row:
    """Sum up one run."""
    used = {name: AXES[name].used(run) for name in point}
    settings = {name: value if used[name] is None else used[name] for name, value in point.items()}
    measured = {measure.name: measure.of(run, point) for measure in MEASURES.values()}
    return Row(
        folder=point.folder,
        repetition=repetition,
        status=run.summary.status,
        text=Point(**settings).text,
        values=settings | measured,
    )


def run_folder(sweep: "Path", point: Point, repetition: int) -> "Path":
    """Return where one execution's run folder is: ``<settings>/<repetition>``."""
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
        with whole_file(sweep / name) as unfinished:
            write(unfinished, index=False)
