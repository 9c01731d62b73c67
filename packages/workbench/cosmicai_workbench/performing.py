"""The whole of one run: upload, start, follow, fetch, draw."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosmicai_workbench.client import execution as executions
from cosmicai_workbench.client.upload import files_to_upload, upload
from cosmicai_workbench.cloud.invocations import write_invocations
from cosmicai_workbench.results.fetch import RUNS, fetch
from cosmicai_workbench.results.plot import plot_redshifts
from cosmicai_workbench.results.run_folder import Run, load_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cosmicai_workbench.bars import Bar
    from cosmicai_workbench.place import Place


@dataclass(frozen=True)
class Outcome:
    """How an execution ended, and what was fetched of it.

    ``folder`` is None where there was nothing to fetch, ``run`` where it holds no summary.
    """

    execution: executions.Ended
    folder: Path | None = None
    run: Run | None = None
    plot: Path | None = None


def perform(
    place: Place,
    content: Mapping[str, Any],
    *,
    bar: Bar,
    model: Path | None = None,
    data: Path | None = None,
    name: str | None = None,
    runs: Path = RUNS,
    on_start: Callable[[str], None] | None = None,
) -> Outcome:
    """Run an execution from its input to its run folder.

    Parameters
    ----------
    content
        The execution's input.
    bar
        Shows progress.
    model, data
        Folders to upload first, to where the input looks for them.
    name
        Name of the execution, by default a new one.
    runs
        Folder of the run folders.
    on_start
        Called with the execution's ARN once it has started.

    Raises
    ------
    InvalidInput
        If the input, or a folder, is at fault: nothing was started.
    """
    files = files_to_upload(executions.check_input(content), model=model, data=data)
    if files:
        total = sum(path.stat().st_size for path in files.values())
        with bar("uploading", total, "bytes") as advance:
            upload(place.connection, files, advance)
    arn = executions.start(place.connection, content, name)
    if on_start is not None:
        on_start(arn)
    follow(place, arn, bar=bar)
    return collect(place, arn, runs=runs, bar=bar)


def follow(place: Place, arn: str, *, bar: Bar) -> None:
    """Show the ranks of an execution as they are done, until it ends."""
    progress = executions.watch(place.connection, arn, place.interval)
    now = next(progress)
    while now.total == 0:
        following = next(progress, None)
        if following is None:
            return  # it ended before a rank was planned
        now = following
    with bar("inference", now.total, "ranks") as advance:
        done = 0
        for each in itertools.chain([now], progress):
            advance(each.succeeded + each.failed - done)
            done = each.succeeded + each.failed


def collect(place: Place, arn: str, *, bar: Bar, runs: Path = RUNS) -> Outcome:
    """Fetch what an execution that ended has left."""
    execution = executions.ended(place.connection, arn)
    if execution.is_refused:
        # The result path may be another execution's: there is nothing of this one.
        return Outcome(execution)
    folder = fetch(place.connection, execution, runs, bar=bar)
    if place.logs is not None:
        write_invocations(place.logs, execution.name, folder)
    if not (folder / "summary.json").is_file():
        return Outcome(execution, folder)
    run = load_run(folder)
    return Outcome(execution, folder, run, plot_redshifts(run))
