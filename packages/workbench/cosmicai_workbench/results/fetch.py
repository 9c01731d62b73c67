"""Bring an execution's results into a run folder, ``runs/<execution>/``."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from cosmicai import keys
from cosmicai.errors import InvalidInput, ResultPathInUse
from cosmicai.schema import Claim, Summary, parse_json
from cosmicai.whole_files import whole_folder

from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.client.connection import PARALLEL_TRANSFERS
from cosmicai_workbench.defaults import LATEST, RUNS
from cosmicai_workbench.files import file_errors
from cosmicai_workbench.results.failed import store_failed

if TYPE_CHECKING:
    from pathlib import Path

    from cosmicai.storage import Store

    from cosmicai_workbench.bars import Bar
    from cosmicai_workbench.client.connection import Connection
    from cosmicai_workbench.client.execution import Ended

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_CLAIM = keys.claim("x").removeprefix(keys.folder("x"))
_NOT_FETCHED = ("map/", "fmi/")
"""What Step Functions and the ranks wrote for each other, under the result path."""
_MOST_LISTED = 1000
"""Ranks of a failed execution whose objects are looked up: it is rather resumed than used."""


def fetch(
    connection: Connection, execution: Ended, runs: Path = RUNS, *, bar: Bar = no_bar
) -> Path:
    """Download the results of an execution, and make ``runs/latest`` point at them.

    Returns
    -------
    Path
        The run folder: there only once it is whole.

    Raises
    ------
    InvalidInput
        If the run folder cannot be made; see :func:`reserve`.
    ResultPathInUse
        If the result path is another execution's by now.
    ObjectNotFound, StorageDenied, TransientStorageError
        If a file could not be read.
    """
    target = reserve(runs, execution.name)
    bucket, prefix = execution.input["bucket"], keys.folder(execution.input["result_path"])
    store = connection.store(bucket)
    names = _names(store, prefix)
    with file_errors(target), whole_folder(target, replace=False) as partial:
        with (
            bar("fetching", len(names), "files") as advance,
            ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool,
        ):

            def get(name: str) -> None:
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                store.download(prefix + name, path)
                advance(1)

            list(pool.map(get, names))
        _require_claim(partial, execution)
        _list_failed(partial, execution, connection)
        document = {
            "arn": execution.arn,
            "status": execution.status,
            "error": execution.error,
            "reason": execution.reason,
            "input": execution.input,
        }
        (partial / "execution.json").write_text(json.dumps(document, indent=2))
    point_latest(target)
    return target


def _list_failed(folder: Path, execution: Ended, connection: Connection) -> None:
    """Look up the objects of the ranks that left no result."""
    summary = folder / "summary.json"
    if not summary.is_file():
        return
    found = parse_json(Summary, summary.read_bytes(), str(summary))
    failed = found.failed_ranks[: None if found.status == "PARTIAL" else _MOST_LISTED]
    if not failed:
        return
    bucket = execution.input["data_bucket"]
    with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
        list(pool.map(lambda rank: store_failed(folder, rank, bucket, connection.s3), failed))


def reserve(runs: Path, name: str) -> Path:
    """Return the run folder of an execution, having made sure that it can be made.

    Called before an execution starts, so that nothing is computed that could not be stored.

    Raises
    ------
    InvalidInput
        If Step Functions has no such names, the run folder exists already, ``runs/latest`` is no
        link, or the folder of the run folders cannot be written.
    """
    if not _NAME.fullmatch(name) or name == LATEST:
        raise InvalidInput(
            f"name of an execution: expected 1 to 80 letters, digits, '.', '_' and '-', the first "
            f"a letter or digit, and not {LATEST!r}; found {name!r}"
        )
    link = runs / LATEST
    if link.exists() and not link.is_symlink():
        raise InvalidInput(f"{link} is not a link to the latest run; move it away")
    return reserve_folder(runs / name)


def reserve_folder(target: Path) -> Path:
    """Return a run folder, having made sure that it can be made.

    Raises
    ------
    InvalidInput
        If it exists already, or the folder that is to hold it cannot be written.
    """
    if target.exists():
        raise InvalidInput(f"{target} exists already; move it away, or choose another name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=target.parent, prefix=".writable-"):
            pass
    except FileExistsError:
        raise InvalidInput(f"{target.parent} cannot hold run folders: it is a file") from None
    except OSError as error:
        raise InvalidInput(f"{target.parent} cannot hold run folders: {error.strerror}") from error
    return target


def _names(store: Store, prefix: str) -> list[str]:
    """Return the files to fetch, the claim last: it says which execution the others are of."""
    found = [item.key for item in store.list(prefix)]
    names = [key.removeprefix(prefix) for key in found if keys.is_result(prefix, key)]
    kept = [name for name in names if not name.startswith(_NOT_FETCHED)]
    return sorted(kept, key=lambda name: name == _CLAIM)


def _require_claim(folder: Path, execution: Ended) -> None:
    claim = folder / _CLAIM
    if not claim.is_file():
        return  # it ended before it claimed its path, and wrote nothing
    holder = parse_json(Claim, claim.read_bytes(), str(claim)).execution
    if holder != execution.arn:
        raise ResultPathInUse(
            f"the results of {execution.name} are gone: {execution.input['result_path']} was "
            f"taken over by {holder}"
        )


def point_latest(run: Path) -> None:
    """Make ``latest``, beside a run folder, a link to it, whatever it pointed at."""
    new = run.with_name(f".{LATEST}.{os.getpid()}")  # runs may end at once
    new.unlink(missing_ok=True)
    new.symlink_to(run.name)
    new.replace(run.with_name(LATEST))
