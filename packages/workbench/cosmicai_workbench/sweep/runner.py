"""Run a sweep: what is done is skipped, what is half done is done again, money has a limit."""

import fcntl
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cosmicai.errors import IncompleteResults, InvalidInput

from cosmicai_workbench.files import whole_text_file
from cosmicai_workbench.results.run_folder import load_run
from cosmicai_workbench.sweep.table import (
    EXPERIMENT_FILE,
    SweepTable,
    is_done,
    read_table,
    run_folder,
    write_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from cosmicai_workbench.sweep.experiment import Experiment, Point


class Executor(Protocol):
    """Runs one execution; the local cloud or a stack."""

    def run(self, point: "Point", path: str, destination: "Path") -> None:
        """Run ``point`` and leave its run folder at ``destination``.

        Parameters
        ----------
        path
            Names the execution within all sweeps: experiment, settings, repetition.

        Raises
        ------
        CosmicAIError
            If the execution did not succeed.
        """

    def estimated_dollars(self, point: "Point") -> float:
        """Return what one execution is expected to cost; 0 where it costs nothing."""


@dataclass(frozen=True)
class Task:
    """One execution of a sweep."""

    point: "Point"
    repetition: int
    folder: "Path"


@dataclass(frozen=True)
class Progress:
    """The sweep's progress; ``seconds_left`` is None until one execution was timed."""

    done: int
    total: int
    current: str
    seconds_left: float | None


def claim_folder(sweep: "Path", source: "Path") -> None:
    """Make the sweep's folder, or check that it belongs to this very experiment.

    Raises
    ------
    InvalidInput
        If the folder holds another experiment: its results would be mixed with these.
    """
    text = source.read_text(encoding="utf-8")
    kept = sweep / EXPERIMENT_FILE
    if kept.is_file():
        if kept.read_text(encoding="utf-8") != text:
            raise InvalidInput(
                f"{sweep}: holds results of another version of this experiment; choose another "
                f"folder with --output, or remove this one, or restore the file ({kept})"
            )
        return
    sweep.mkdir(parents=True, exist_ok=True)
    with whole_text_file(kept) as file:
        file.write(text)


@contextmanager
def sole_use(sweep: "Path") -> "Iterator[None]":
    """Hold the sweep's folder; the kernel lets go of it when the process ends, however it does.

    Raises
    ------
    InvalidInput
        If another process runs a sweep in it.
    """
    with (sweep / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(
                f"{sweep}: another sweep is running in this folder; wait for it to end, or choose "
                "another folder with --output"
            ) from None
        yield


def tasks(experiment: "Experiment", sweep: "Path") -> list[Task]:
    """Return the executions still to do, repetitions outermost so that drift spreads evenly."""
    points = experiment.points()
    return [
        Task(point, repetition, folder)
        for repetition in range(1, experiment.repetitions + 1)
        for point in points
        if not is_done(folder := run_folder(sweep, point, repetition))
    ]


def estimate(experiment: "Experiment", executor: Executor, left: "Iterable[Task]") -> float:
    """Return the expected dollars of the executions still to do.

    Raises
    ------
    InvalidInput
        If they pass the experiment's limit.
    """
    dollars = sum(executor.estimated_dollars(task.point) for task in left)
    limit = experiment.cost_limit_dollars
    if dollars > limit:
        raise InvalidInput(
            f"experiment {experiment.name!r}: expected to cost ${dollars:.2f}, more than its limit "
            f"of ${limit:.2f}; raise cost_limit_dollars or make the grid smaller"
        )
    return dollars


def run_sweep(
    experiment: "Experiment",
    source: "Path",
    sweep: "Path",
    executor: Executor,
    report: "Callable[[Progress], None]",
) -> SweepTable:
    """Run what is left of a sweep and return its table, also written to its folder.

    An execution's results come into their folder by one rename, so that an interruption leaves
    either a whole run folder or none.

    Raises
    ------
    InvalidInput
        If the folder holds another experiment, another process runs a sweep in it, or the cost
        limit would be passed.
    CosmicAIError
        If an execution fails; what was done before stays.
    """
    claim_folder(sweep, source)
    with sole_use(sweep):
        left = tasks(experiment, sweep)
        total = len(experiment.points()) * experiment.repetitions
        estimate(experiment, executor, left)
        seconds = dollars = 0.0
        for number, task in enumerate(left):
            seconds_left = seconds / number * (len(left) - number) if number else None
            here = f"{task.point.folder}/{task.repetition}"
            report(Progress(total - len(left) + number, total, here, seconds_left))
            began = time.monotonic()
            _run_one(experiment, task, executor)
            seconds += time.monotonic() - began
            write_table(read_table(sweep), sweep)
            if executor.estimated_dollars(task.point):  # billed: hold the limit by actual cost
                dollars += _spent(task)
                _hold_limit(experiment, dollars)
        report(Progress(total, total, "done", 0.0))
        table = read_table(sweep)
        write_table(table, sweep)
        return table


def _spent(task: Task) -> float:
    cost = load_run(task.folder).summary.cost
    return cost.total if cost else 0.0


def _hold_limit(experiment: "Experiment", dollars: float) -> None:
    limit = experiment.cost_limit_dollars
    if dollars > limit:
        raise IncompleteResults(
            f"experiment {experiment.name!r}: stopped, ${dollars:.2f} spent of its limit of "
            f"${limit:.2f}; what is done is kept: raise cost_limit_dollars to go on"
        )


def _run_one(experiment: "Experiment", task: Task, executor: Executor) -> None:
    unfinished = task.folder.with_name(f"{task.folder.name}.part")
    for leftover in (unfinished, task.folder):  # of an interrupted or failed attempt
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    path = f"{experiment.name}/{task.point.folder}/{task.repetition}"
    executor.run(task.point, path, unfinished)
    unfinished.replace(task.folder)
