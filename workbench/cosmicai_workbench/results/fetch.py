"""Bring an execution's results into a run folder, ``runs/<execution>/``."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cosmicai import keys
from cosmicai.errors import CosmicAIError, InvalidInput

from cosmicai_workbench.client.connection import PARALLEL_TRANSFERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from cosmicai_workbench.client.connection import Connection
    from cosmicai_workbench.client.execution import Ended

RUNS = Path("runs")
LATEST = "latest"
_NOT_FETCHED = ("map/", "fmi/")
"""What Step Functions and the ranks wrote for each other, under the result path."""


def fetch(
    connection: Connection,
    execution: Ended,
    runs: Path = RUNS,
    on_start: Callable[[int], Callable[[int], None]] | None = None,
) -> Path:
    """Download the results of an execution, and make ``runs/latest`` point at them.

    Parameters
    ----------
    on_start
        Called with the number of files; returns what to call with each number that has come.

    Returns
    -------
    Path
        The run folder: there only once it is whole.

    Raises
    ------
    InvalidInput
        If the run folder exists already.
    CosmicAIError
        If a file could not be read.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    target = runs / execution.name
    if target.exists():
        raise InvalidInput(f"{target} exists already; move it away to fetch it again")
    partial = runs / f".{execution.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    bucket, prefix = execution.input["bucket"], keys.folder(execution.input["result_path"])
    try:
        names = _names(connection, bucket, prefix)
        advance = on_start(len(names)) if on_start else lambda _: None

        def get(name: str) -> None:
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            body = connection.s3.get_object(Bucket=bucket, Key=prefix + name)["Body"]
            with path.open("wb") as file:
                shutil.copyfileobj(body, file)
            advance(1)

        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            list(pool.map(get, names))
    except (ClientError, BotoCoreError) as error:
        raise CosmicAIError(f"s3://{bucket}/{prefix} could not be read: {error}") from error
    document = {
        "arn": execution.arn,
        "status": execution.status,
        "error": execution.error,
        "reason": execution.reason,
        "input": execution.input,
    }
    (partial / "execution.json").write_text(json.dumps(document, indent=2))
    partial.replace(target)
    _point(runs / LATEST, target.name)
    return target


def _names(connection: Connection, bucket: str, prefix: str) -> list[str]:
    pages = connection.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    found = (
        item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])
    )
    return [
        name
        for name in found
        if keys.is_result(prefix, prefix + name) and not name.startswith(_NOT_FETCHED)
    ]


def _point(link: Path, target: str) -> None:
    """Make a symbolic link point at a target, whatever it pointed at."""
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)
