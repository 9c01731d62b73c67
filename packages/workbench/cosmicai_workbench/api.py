"""Executions from Python: :func:`run`, which the command line calls as well."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmicai.errors import CosmicAIError, InvalidInput

from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.bars import chosen_bar, no_bar
from cosmicai_workbench.client.execution import check_input, new_name
from cosmicai_workbench.client.inputs import complete, located
from cosmicai_workbench.client.upload import check_contents
from cosmicai_workbench.defaults import MAX_COST, RUNS
from cosmicai_workbench.deployment.preflight import Preflight, preflight
from cosmicai_workbench.extras import libraries_named
from cosmicai_workbench.performing import Outcome, again, attach, begin
from cosmicai_workbench.place import existing_place, own_cloud
from cosmicai_workbench.results.fetch import reserve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from astropy.table import QTable
    from cosmicai.schema import Summary

    from cosmicai_workbench.bars import Bar, Progress
    from cosmicai_workbench.place import Place
    from cosmicai_workbench.results.run_folder import Run

    Source = str | Path
    Approve = Callable[[Place, dict[str, Any], Path | None, Path | None], dict[str, Any]]
    """Takes the place, the input, and the folders of model and data to upload."""


_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class FinishedRun:
    """An execution that has ended, and what it left."""

    outcome: Outcome
    """How it ended, the run folder, the plot."""
    place: Place

    @property
    def name(self) -> str:
        """Name of the execution."""
        return self.outcome.execution.name

    @property
    def folder(self) -> Path:
        """The run folder, ``runs/<name>``.

        Raises
        ------
        CosmicAIError
            If there was nothing to fetch.
        """
        if self.outcome.folder is None:
            raise CosmicAIError(f"execution {self.name} left no results")
        return self.outcome.folder

    @property
    def results(self) -> Run:
        """The run folder, read: summary, records of the ranks, predictions.

        Raises
        ------
        CosmicAIError
            If the execution ended before Summarize.
        """
        if self.outcome.run is None:
            raise CosmicAIError(f"execution {self.name} left no summary")
        return self.outcome.run

    @property
    def summary(self) -> Summary:
        """Status, quality, throughput, cost, failed ranks."""
        return self.results.summary

    def catalogue(self, data: Source | None = None) -> QTable:
        """Return the predictions, one row per object, with units, descriptions and provenance.

        Parameters
        ----------
        data
            Folder with the partitions of failed ranks, whose predictions do not name their
            objects.

        Raises
        ------
        InvalidInput
            If the predictions cannot be read.
        MissingLibrary
            If astropy is not installed.
        """
        return self.results.catalogue(data)

    def logs(self, rank: int | None = None) -> list[str]:
        """Return the log lines of the execution, in order; of one rank, if it is given.

        Raises
        ------
        CosmicAIError
            If the logs are gone, or CloudWatch refuses.
        """
        if self.place.logs is None:
            from cosmicai_workbench.client.cloudwatch import lines, pattern

            since = datetime.now(UTC) - (self.outcome.execution.started or _EPOCH)
            found = lines(
                self.place.connection, since + timedelta(minutes=1), pattern(self.name, rank)
            )
            return [line.text for line in found]
        from cosmicai_workbench.cloud.invocations import lines_of

        if not self.place.logs.is_dir():
            raise CosmicAIError(f"{self.place.logs}: the logs of {self.name} are gone")
        return [entry.text for entry in lines_of(self.place.logs, self.name, rank)]


class ExecutionFailed(CosmicAIError):
    """An execution did not succeed; ``run`` is what it left."""

    def __init__(self, run: FinishedRun) -> None:
        execution = run.outcome.execution
        reason = f"{execution.error or 'no error'}: {execution.reason or 'no reason given'}"
        super().__init__(f"execution {execution.name} ended {execution.status}: {reason}")
        self.run = run


def run(
    data: Source | None = None,
    model: Source | None = None,
    on: str = "local",
    *,
    settings: Mapping[str, Any] | None = None,
    replace_data: bool = False,
    name: str | None = None,
    runs: Source = RUNS,
    max_cost: float = MAX_COST,
    concurrency: int | None = None,
    parameters: Mapping[str, str] | None = None,
    profile: str | None = None,
    region: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> FinishedRun:
    """Run an execution of the state machine, wait for its end, and fetch its results.

    Parameters
    ----------
    data
        Folder of partitions (``*.pt``) to upload first, or ``s3://bucket/folder`` where they are.
    model
        Folder of a model bundle to upload first, or ``s3://bucket/folder`` in the bucket of the
        results; by default the small model that ships.
    on
        ``"local"``: the local cloud that is up (``cosmicai local up``), or else one of its own
        that ends with the run; ``"local:NAME"``: the one of that name; ``"stack:NAME"``: a stack
        on AWS.
    settings
        Keys of the execution's input, e.g. ``{"batch_size": 256, "engine": "openvino"}``; they
        count before what ``data``, ``model`` and ``on`` decide.
    replace_data
        Remove partitions of another data set from where ``data`` goes; else they are refused.
    name
        Name of the execution; by default a new one.
    runs
        Folder of the run folders.
    max_cost
        On AWS: refuse a run whose estimated cost, in US dollars, is above this.
    concurrency, parameters
        Only for a local cloud of the run's own: ranks at once (by default the number of cores), and
        values of the template's parameters.
    profile, region
        On AWS: which credentials, and where.
    on_progress
        Called as the run goes on. By default a notebook shows a bar.

    Returns
    -------
    FinishedRun
        Of an execution that succeeded; ``run.summary.status`` is PARTIAL where ranks are missing,
        no more than it tolerates.

    Raises
    ------
    ExecutionFailed
        If the execution ended in any other way.
    LocalCloudError
        If the local cloud that ``on`` names is not up.
    InvalidInput
        If something given is at fault, the run cannot work in the stack, or its cost is above
        ``max_cost`` or unknown: nothing was started.
    LookupRefused
        On AWS, if the account may not be asked for what it takes to check that.
    WatchLost
        On AWS, if the connection was lost: the execution goes on.
    """

    def approve(
        place: Place, content: dict[str, Any], bundle: Path | None, partitions: Path | None
    ) -> dict[str, Any]:
        found = possible(place, content, bundle, partitions)
        if found.dollars is None or found.dollars > max_cost:
            cost = "unknown" if found.dollars is None else f"${found.dollars:.4f}"
            raise InvalidInput(
                f"the estimated cost of the run is {cost}, and max_cost is ${max_cost:.4f}"
            )
        return {**content, **found.bounds}

    bar = chosen_bar(on_progress)
    with (
        libraries_named(),
        started(
            data,
            model,
            on,
            settings=settings or {},
            replace_data=replace_data,
            name=name,
            concurrency=concurrency,
            parameters=parameters,
            profile=profile,
            region=region,
            approve=approve,
            runs=Path(runs),
            bar=bar,
        ) as begun,
    ):
        finished = begun.finish(bar)
    if finished.outcome.execution.status != "SUCCEEDED":
        raise ExecutionFailed(finished)
    return finished


def possible(
    place: Place, content: Mapping[str, Any], model: Path | None, data: Path | None
) -> Preflight:
    """Check a run in a stack before it starts, and estimate its cost.

    Raises
    ------
    InvalidInput
        The message names everything that prevents it.
    LookupRefused
        If the account may not be asked.
    """
    found = preflight(place.connection, check_input(content), model=model, data=data)
    problems = [f"{each.name}: {each.finding}" for each in found.checks if each.level == "error"]
    if problems:
        raise InvalidInput("; ".join(problems))
    return found


@dataclass(frozen=True)
class StartedRun:
    """An execution that has started."""

    place: Place
    arn: str
    runs: Path

    @property
    def name(self) -> str:
        """Name of the execution, and of its run folder."""
        return self.arn.rsplit(":", 1)[-1]

    def goes_on(self) -> str:
        """Say what becomes of the execution if nobody waits any longer."""
        folder = self.runs / self.name
        if folder.is_dir():  # made whole, once it has ended
            return f"its results are in {folder}: cosmicai results show {folder}"
        if self.place.temporary:
            return "the execution ends with its local cloud; nothing is left of it"
        return f"the execution does not end with this command; {again(self.place, self.arn)}"

    def finish(self, bar: Bar = no_bar) -> FinishedRun:
        """Wait for its end, however it ends, and fetch what it left.

        Raises
        ------
        WatchLost
            If the connection was lost: the execution goes on.
        """
        return FinishedRun(attach(self.place, self.arn, bar=bar, runs=self.runs), self.place)


@contextmanager
def started(
    data: Source | None,
    model: Source | None,
    on: str,
    *,
    settings: Mapping[str, Any],
    approve: Approve,
    runs: Path | None,
    replace_data: bool = False,
    name: str | None = None,
    concurrency: int | None = None,
    parameters: Mapping[str, str] | None = None,
    profile: str | None = None,
    region: str | None = None,
    bar: Bar = no_bar,
    on_default_model: Callable[[Path], None] = lambda _: None,
) -> Iterator[StartedRun]:
    """Start an execution; a local cloud of its own ends with the block. See :func:`run`.

    Parameters
    ----------
    approve
        Called before a run on AWS starts; returns the input to run, or raises to refuse it.
    runs
        Folder of the run folders. None for an execution that goes on after the block: a local
        cloud of its own will not do for it.
    on_default_model
        Told the model that is uploaded where none is given.
    """
    name = name or new_name()
    if runs is not None:
        reserve(runs, name)  # before a cloud is started
    given, bundle, partitions = located(settings, model=model, data=data)
    check_contents(model=bundle, data=partitions)
    with ExitStack() as cleanup:
        place = existing_place(on, profile=profile, region=region)
        if model is None and data is not None and (place is None or "S3_object_name" not in given):
            bundle = SMALL_MODEL
            on_default_model(bundle)
        if place is not None and (concurrency is not None or parameters):
            raise InvalidInput(
                "concurrency and parameters are for a local cloud of the run's own; where one is "
                "there, give them to `cosmicai local up`, or deploy the stack with them"
            )
        connection = place.connection if place else None
        content = complete(given, name=name, connection=connection, model=bundle, data=partitions)
        checked = check_input(content)
        if place is None:
            if runs is None:
                raise InvalidInput("--no-watch needs a cloud that stays: `cosmicai local up` first")
            if bundle is None or partitions is None:
                raise InvalidInput(
                    "a local cloud of its own starts empty: give folders of the model (--model) "
                    "and the partitions (--data), or keep a cloud up by `cosmicai local up` and "
                    "fill it"
                )
            own = own_cloud(
                checked, concurrency=concurrency, parameters=parameters, data=partitions, bar=bar
            )
            place = cleanup.enter_context(own)
        elif place.stack is not None:
            content = approve(place, content, bundle, partitions)
        arn = begin(
            place,
            content,
            bar=bar,
            model=bundle,
            data=partitions,
            replace_data=replace_data,
            name=name,
        )
        yield StartedRun(place, arn, runs or RUNS)
