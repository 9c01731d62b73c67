"""The whole of one run: upload, start, follow, fetch, draw."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosmicai.errors import CosmicAIError

from cosmicai_workbench.client import execution as executions
from cosmicai_workbench.client.connection import LookupRefused
from cosmicai_workbench.client.links import Links, links_of
from cosmicai_workbench.client.upload import files_to_upload, upload
from cosmicai_workbench.client.waiting import WatchLost, persist
from cosmicai_workbench.cloud.invocations import invocations, lines_by_rank
from cosmicai_workbench.defaults import RUNS
from cosmicai_workbench.results.fetch import fetch, reserve
from cosmicai_workbench.results.invocations import write_invocations
from cosmicai_workbench.results.logs import write_logs
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

    ``folder`` is None where there was nothing to fetch, ``run`` where it holds no summary;
    ``trouble`` says why the results of an execution that failed could not be fetched; ``links``
    leads to it in AWS's console, for one on AWS.
    """

    execution: executions.Ended
    folder: Path | None = None
    run: Run | None = None
    plot: Path | None = None
    trouble: str = ""
    links: Links | None = None


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
        If the input, the name or a folder is at fault: nothing was started.
    WatchLost
        If the connection was lost: the execution goes on.
    """
    name = name or executions.new_name()
    reserve(runs, name)
    arn = begin(place, content, model=model, data=data, name=name, bar=bar)
    if on_start is not None:
        on_start(arn)
    return attach(place, arn, runs=runs, bar=bar)


def begin(
    place: Place,
    content: Mapping[str, Any],
    *,
    bar: Bar,
    model: Path | None = None,
    data: Path | None = None,
    replace_data: bool = False,
    name: str | None = None,
) -> str:
    """Upload a model and partitions to where an input looks for them, start it, return its ARN.

    Partitions of another data set that are there are refused, or removed with ``replace_data``.

    Raises
    ------
    InvalidInput
        If the input, or a folder, is at fault: nothing was uploaded or started.
    """
    files = files_to_upload(executions.check_input(content), model=model, data=data)
    if files:
        total = sum(path.stat().st_size for path in files.values())
        with bar("uploading", total, "bytes") as advance:
            upload(place.connection, files, advance, replace=replace_data)
    return executions.start(place.connection, content, name)


def attach(place: Place, arn: str, *, bar: Bar, runs: Path = RUNS) -> Outcome:
    """Follow an execution that has started, and fetch what it leaves.

    Raises
    ------
    WatchLost
        If it can no longer be watched: it goes on, and can be attached to again.
    """
    try:
        follow(place, arn, bar=bar)
        execution = persist(
            lambda: executions.ended(place.connection, arn), f"execution {arn}", place.patience
        )
    except LookupRefused as error:
        raise WatchLost(
            f"{error}. The execution goes on without this command; {again(place, arn)}"
        ) from error
    return collect(place, execution, runs=runs, bar=bar)


def again(place: Place, arn: str) -> str:
    """Say how an execution is watched again."""
    where = f" --stack {place.stack}" if place.stack else ""
    name = arn.rsplit(":", 1)[-1]
    return f"to watch it again and fetch its results: cosmicai run --attach {name}{where}"


def follow(place: Place, arn: str, *, bar: Bar) -> None:
    """Show the ranks of an execution as they are done, until it ends.

    Raises
    ------
    LookupRefused
        If AWS refuses, or does not answer for as long as the place has patience.
    """
    progress = executions.watch(place.connection, arn, place.interval, place.patience)
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


def collect(place: Place, execution: executions.Ended, *, bar: Bar, runs: Path = RUNS) -> Outcome:
    """Fetch what an execution that ended has left.

    Trouble with fetching never hides why an execution failed: both are reported.
    """

    def links(run: Run | None = None) -> Links | None:
        if place.stack is None:
            return None
        groups = place.connection.outputs.get("LogGroups", "").split(",")
        return links_of(execution.arn, run.summary if run else None, groups)

    if execution.is_refused:
        # The result path may be another execution's: there is nothing of this one.
        return Outcome(execution, links=links())
    try:
        folder = fetch(place.connection, execution, runs, bar=bar)
    except CosmicAIError as error:
        if execution.status == "SUCCEEDED":
            raise
        return Outcome(execution, trouble=str(error), links=links())
    if place.logs is not None:
        write_invocations(folder, invocations(place.logs, execution.name))
        write_logs(folder, lines_by_rank(place.logs, execution.name))
    if not (folder / "summary.json").is_file():
        return Outcome(execution, folder, links=links())
    run = load_run(folder)
    return Outcome(execution, folder, run, plot_redshifts(run), links=links(run))
