"""Run the executions of a sweep in a local cloud, or in a stack on AWS."""

import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from cosmicai.errors import IncompleteResults, InvalidInput
from cosmicai.whole_files import whole_folder

from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.client.execution import check_input, new_name
from cosmicai_workbench.client.inputs import LOCAL_BUCKET
from cosmicai_workbench.client.upload import files_to_upload, upload
from cosmicai_workbench.data.making import make_dataset
from cosmicai_workbench.data.splitting import galaxies_per_partition, split_dataset
from cosmicai_workbench.deployment.preflight import preflight
from cosmicai_workbench.performing import perform
from cosmicai_workbench.place import Place, on_aws, own_cloud

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from cosmicai_workbench.sweep.experiment import Experiment, Point


_SEED = 0


def content_of(
    point: "Point", *, bucket: str, data_bucket: str, model: str, result: str
) -> dict[str, Any]:
    """Return the execution input of a point."""
    return {
        "bucket": bucket,
        "object_type": "folder",
        "S3_object_name": model,
        "result_path": result,
        "data_bucket": data_bucket,
        "overwrite": True,  # an interrupted attempt may hold the path
    } | point.execution_input()


def _run(place: Place, content: Any, destination: "Path") -> None:
    """Run one execution and move its run folder to ``destination``."""
    runs = destination.parent / f"{destination.name}.fetched"
    shutil.rmtree(runs, ignore_errors=True)
    try:
        outcome = perform(place, content, bar=no_bar, name=new_name(), runs=runs)
        execution = outcome.execution
        if execution.status != "SUCCEEDED" or outcome.folder is None:
            raise IncompleteResults(
                f"execution {execution.name} of {content['result_path']} ended "
                f"{execution.status}: {execution.error} {execution.reason}"
            )
        if execution.is_partial:
            raise IncompleteResults(f"execution {execution.name}: ranks are missing in its result")
        outcome.folder.replace(destination)
    finally:
        shutil.rmtree(runs, ignore_errors=True)


class LocalExecutor:
    """Runs executions in a local cloud; a context manager that ends the cloud.

    The data are painted SDSS galaxies, made once for each partition size and kept. A cloud stays
    up from execution to execution while they need the same memory size, so all but its first
    have warm sandboxes, as on AWS.

    Parameters
    ----------
    experiment
        What is to run: the largest number of partitions of each size decides what is made.
    model
        Folder of the model bundle.
    cache
        Where data sets are kept.
    on_step
        Told what is being prepared.
    """

    def __init__(
        self,
        experiment: "Experiment",
        model: "Path",
        cache: "Path",
        on_step: "Callable[[str], None]" = lambda _: None,
    ) -> None:
        self._model, self._cache, self._on_step = model, cache, on_step
        self._partitions: dict[str, int] = {}
        points = experiment.points()
        # Ranks that wait for each other must all run at once; the executions without FMI get
        # the same concurrency, so that the two can be compared.
        worlds = [point["world_size"] or point["file_limit"] for point in points if point["fmi"]]
        self._concurrency = max(worlds, default=None)
        for point in points:
            most = max(self._partitions.get(point["partition"], 0), point["file_limit"])
            self._partitions[point["partition"]] = most
        self._cloud = ExitStack()
        self._place: Place | None = None
        self._parameters: dict[str, Any] = {}
        self._uploaded: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: "TracebackType | None",
    ) -> None:
        self._cloud.close()

    def estimated_dollars(self, point: "Point") -> float:  # noqa: ARG002 - nothing is billed here
        """Return 0: this machine bills nothing."""
        return 0.0

    def run(self, point: "Point", path: str, destination: "Path") -> None:
        """Run ``point``; see :class:`~cosmicai_workbench.sweep.runner.Executor`."""
        content = content_of(
            point,
            bucket=LOCAL_BUCKET,
            data_bucket=LOCAL_BUCKET,
            model=self._model.name,
            result=f"sweeps/{path}",
        )
        place = self._place_for(point, content)
        partition = point["partition"]
        if partition not in self._uploaded:
            data = self._dataset(point)
            self._on_step(f"uploading {partition}")
            checked = check_input(content)
            files = files_to_upload(checked, model=self._model, data=data)
            upload(place.connection, files)
            self._uploaded.add(partition)
        _run(place, content, destination)

    def _place_for(self, point: "Point", content: Any) -> Place:
        if self._place is None or point.parameters() != self._parameters:
            self._cloud.close()
            self._uploaded.clear()
            self._on_step("starting the local cloud")
            self._parameters = point.parameters()
            cloud = own_cloud(
                check_input(content), concurrency=self._concurrency, parameters=self._parameters
            )
            self._place = self._cloud.enter_context(cloud)
        return self._place

    def _dataset(self, point: "Point") -> "Path":
        """Return the folder of the partitions, made unless it is there already."""
        partition = point["partition"]
        count = self._partitions[partition]
        target = self._cache / f"{partition}-{count}-seed{_SEED}"
        if target.is_dir():
            return target
        each = galaxies_per_partition(point.partition_mb)
        self._on_step(f"painting {count * each:,} galaxies for {count} × {partition}")
        with whole_folder(target) as unfinished:
            survey = unfinished.with_name("survey.pt")  # the folder around it is removed
            make_dataset(survey, count * each, "test", _SEED)
            split_dataset(survey, unfinished, each)
        return target


class StackExecutor:
    """Runs executions in a deployed stack, over partitions in its data bucket.

    Parameters
    ----------
    stack
        Name of the stack.
    bucket, data_bucket
        Where model and results, and the partitions, are; partitions under the name of their
        size, e.g. ``25MB/1.pt``.
    model
        Folder of the model bundle in ``bucket``.

    Raises
    ------
    StackNotFound
        If there is no such stack.
    InvalidInput
        If the experiment varies a parameter of the template, of which a stack has one value.
    """

    def __init__(
        self, experiment: "Experiment", stack: str, *, bucket: str, data_bucket: str, model: str
    ) -> None:
        parameters = {name for point in experiment.points() for name in point.parameters()}
        if parameters:
            raise InvalidInput(
                f"experiment {experiment.name!r} sets {', '.join(sorted(parameters))}, of which a "
                "stack has one value; take it out, and deploy a stack for each value"
            )
        self._place = on_aws(stack)
        self._bucket, self._data_bucket, self._model = bucket, data_bucket, model
        self._estimates: dict[Point, float] = {}

    def estimated_dollars(self, point: "Point") -> float:
        """Return what the simulation expects one execution to cost in this stack.

        Raises
        ------
        PartitionNotFound
            If the data bucket holds no partitions of the point's size.
        InvalidInput
            If the stack's region has no prices: the spending limit could not be held.
        """
        if point not in self._estimates:
            content = check_input(self._content(point, "estimate"))
            dollars = preflight(self._place.connection, content).dollars
            if dollars is None:
                region = self._place.connection.s3.meta.region_name
                raise InvalidInput(
                    f"the spending limit cannot be held: there are no prices for region {region}"
                )
            self._estimates[point] = dollars
        return self._estimates[point]

    def run(self, point: "Point", path: str, destination: "Path") -> None:
        """Run ``point``; see :class:`~cosmicai_workbench.sweep.runner.Executor`."""
        _run(self._place, self._content(point, path), destination)

    def _content(self, point: "Point", path: str) -> dict[str, Any]:
        return content_of(
            point,
            bucket=self._bucket,
            data_bucket=self._data_bucket,
            model=self._model,
            result=f"sweeps/{path}",
        )
