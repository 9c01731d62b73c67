"""Where a run takes place: a stack on AWS, a local cloud that is up, or one of its own."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cosmicai.errors import InvalidInput
from cosmicai.sharing import partition_files

from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.client.connection import Connection, connect
from cosmicai_workbench.cloud.local import STATE_ROOT, LocalCloud
from cosmicai_workbench.cloud.state import Status, logs_folder, not_up, state_folder
from cosmicai_workbench.defaults import CLOUD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cosmicai.schema import ExecutionInput

    from cosmicai_workbench.bars import Bar

_LOCAL_INTERVAL = 0.2
_AWS_INTERVAL = 2.0
_AWS_PATIENCE = 300.0


@dataclass(frozen=True)
class Place:
    """A connection, and what is known of the place beyond what AWS says.

    ``logs`` is the folder of a local cloud's log streams; ``interval`` the seconds between two
    looks at an execution, and ``patience`` those to wait for an answer that does not come;
    ``stack`` the name of a stack on AWS; ``temporary`` whether it ends with the run.
    """

    connection: Connection
    interval: float
    logs: Path | None = None
    patience: float = 0.0
    stack: str | None = None
    temporary: bool = False


def on_aws(stack: str, *, profile: str | None = None, region: str | None = None) -> Place:
    """Return the place of a deployed stack; see :func:`connect` for the errors."""
    connection = connect(stack, profile=profile, region=region)
    return Place(connection, _AWS_INTERVAL, patience=_AWS_PATIENCE, stack=stack)


def find(
    stack: str | None, cloud: str | None, *, profile: str | None = None, region: str | None = None
) -> Place:
    """Return the place of a stack on AWS, or else of a local cloud that is up (``local``).

    Raises
    ------
    StackNotFound
        If there is no such stack.
    LocalCloudError
        If no such local cloud is up.
    """
    if stack is not None:
        return on_aws(stack, profile=profile, region=region)
    cloud = cloud or CLOUD
    running = running_cloud(cloud)
    if running is None:
        raise not_up(cloud)
    return running


def running_cloud(name: str, root: Path = STATE_ROOT) -> Place | None:
    """Return the place of the local cloud of a name, or None if it is not up."""
    folder = state_folder(root, name)
    status = Status.read(folder)
    if status is None:
        return None
    return _local(status, logs_folder(folder))


def existing_place(
    on: str, *, profile: str | None = None, region: str | None = None
) -> Place | None:
    """Return the place that ``on`` names, or None if no local cloud is up and none is named.

    Parameters
    ----------
    on
        ``"local"``: the local cloud of the usual name, if it is up; ``"local:NAME"``: the one of
        that name; ``"stack:NAME"``: a stack on AWS.

    Raises
    ------
    InvalidInput
        If it is not one of these.
    StackNotFound
        If there is no such stack.
    LocalCloudError
        If the local cloud that it names is not up.
    """
    if on == "local":
        return running_cloud(CLOUD)
    kind, _, name = on.partition(":")
    if kind not in ("local", "stack") or not name:
        raise InvalidInput(f"on={on!r}: expected 'local', 'local:NAME' or 'stack:NAME'")
    return find(name if kind == "stack" else None, name, profile=profile, region=region)


@contextmanager
def own_cloud(
    content: ExecutionInput,
    *,
    concurrency: int | None = None,
    parameters: Mapping[str, str] | None = None,
    data: Path | None = None,
    root: Path = STATE_ROOT,
    bar: Bar = no_bar,
) -> Iterator[Place]:
    """Bring up a local cloud for one run, with the buckets that its input names.

    Parameters
    ----------
    content
        Input of the run.
    concurrency
        Ranks at once; by default the number of cores, but all ranks of a run with FMI, since they
        wait for each other.
    parameters
        Values of the template's parameters.
    data
        Folder of the partitions that will be uploaded.
    root
        Where state folders are.
    bar
        Shows that it starts.
    """
    if concurrency is None and content.fmi:
        partitions = len(partition_files(data)) if data is not None else content.file_limit
        concurrency = content.world_size or min(content.file_limit, max(1, partitions))
    cloud = LocalCloud(
        parameters=parameters,
        concurrency=concurrency,
        buckets=[content.bucket, content.data_bucket],
        root=root,
    )
    try:
        with bar("starting", 1, "local cloud") as advance:
            status = cloud.start()
            advance(1)
        yield replace(_local(status, cloud.logs), temporary=True)
    finally:
        cloud.stop()


def _local(status: Status, logs: Path) -> Place:
    connection = connect(status.stack, variables=status.variables)
    return Place(connection, _LOCAL_INTERVAL, logs)
