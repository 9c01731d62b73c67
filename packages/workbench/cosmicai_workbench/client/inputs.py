"""An execution's input: from a file, from the command line, and what both leave open."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmicai.errors import InvalidInput, load_json
from cosmicai.facts import BATCH_SIZE
from cosmicai.keys import folder
from cosmicai.model.architectures import bundle_files
from cosmicai.sharing import is_partition, partition_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cosmicai_workbench.client.connection import Connection

LOCAL_BUCKET = "cosmicai-data"
"""Bucket of a local cloud that nothing else names."""


def read_input(source: str | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the input in a JSON file (``-`` for standard input), overridden by KEY=VALUE pairs.

    Without a file, it is the pairs alone.

    Raises
    ------
    InvalidInput
        If it cannot be read, is not a JSON object, or a pair has no equals sign.
    """
    try:
        text = "{}" if source is None else _text(source)
        content = load_json(text)
    except OSError as error:
        raise InvalidInput(f"the input {source} cannot be read: {error}") from error
    except ValueError as error:
        raise InvalidInput(f"the input {source} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"the input {source} must be a JSON object, found {text[:40]!r}")
    return {**content, **{key: _value(text) for key, text in pairs(overrides, "--set").items()}}


def complete(
    content: Mapping[str, Any],
    *,
    name: str,
    connection: Connection | None = None,
    model: Path | None = None,
    data: Path | None = None,
) -> dict[str, Any]:
    """Fill in what an input leaves open.

    Parameters
    ----------
    content
        Keys that were given; they stay.
    name
        Name of the execution: its results go to ``results/<name>``, or under the prefix that the
        stack allows results in.
    connection
        The stack, whose outputs name the buckets; without one, a local cloud's bucket.
    model, data
        Folders that are about to be uploaded. Their keys hold a digest, so that another model or
        data set of the same folder name never mixes with an earlier one.

    Raises
    ------
    InvalidInput
        If neither the input nor an option says which model, or which partitions.
    """
    outputs = connection.outputs if connection else {}
    bucket = content.get("bucket", outputs.get("BucketName", LOCAL_BUCKET))
    prefix = connection.parameters.get("ResultPrefix", "") if connection else ""
    filled = {
        "bucket": bucket,
        "data_bucket": outputs.get("DataBucketName", bucket),
        "object_type": "folder",
        "batch_size": BATCH_SIZE,
        "script": "inference.py",
        "result_path": f"{prefix or 'results/'}{name}",
    }
    if model is not None:
        filled["S3_object_name"] = f"models/{_slug(model)}-{_digest_of_contents(model)}"
    if data is not None:
        sizes = {path.name: path.stat().st_size for path in partition_files(data)}
        filled["data_prefix"] = f"data/{_slug(data)}-{_digest(sorted(sizes.items()))}"
        filled["file_limit"] = max(1, len(sizes))
    filled |= content
    for key, option, what in (
        ("S3_object_name", "--model", "model bundle"),
        ("data_prefix", "--data", "partitions"),
    ):
        if key not in filled:
            raise InvalidInput(
                f"key {key!r} is missing: name a folder of {what} by {option} FOLDER, or what is "
                f"in the bucket already by --set {key}=FOLDER"
            )
    if "file_limit" not in filled:
        filled["file_limit"] = _partitions_there(connection, filled)
    return filled


def located(
    content: Mapping[str, Any], *, model: str | Path | None, data: str | Path | None
) -> tuple[dict[str, Any], Path | None, Path | None]:
    """Tell what is already in S3 from what is to be uploaded.

    Parameters
    ----------
    content
        Keys of an input that were given; they stay.
    model, data
        A folder here, or ``s3://bucket/folder``.

    Returns
    -------
    tuple
        The input, which now says what is in S3, and the folders of model and data to upload.

    Raises
    ------
    InvalidInput
        If an address has no bucket or no folder, or is not the bucket that the input names.
    """
    found = dict(content)
    folders: list[Path | None] = []
    for source, bucket_key, folder_key in (
        (model, "bucket", "S3_object_name"),
        (data, "data_bucket", "data_prefix"),
    ):
        if not isinstance(source, str) or not source.startswith("s3://"):
            folders.append(None if source is None else Path(source))
            continue
        folders.append(None)
        bucket, _, key = source.removeprefix("s3://").partition("/")
        if not bucket or not key.strip("/"):
            raise InvalidInput(f"{source}: expected s3://BUCKET/FOLDER")
        if found.get(bucket_key, bucket) != bucket:
            raise InvalidInput(
                f"{source} is not in the bucket that the input names: key {bucket_key!r} is "
                f"{found[bucket_key]!r}"
            )
        found |= {bucket_key: bucket, folder_key: key.strip("/")}
    return found, folders[0], folders[1]


def _slug(folder: Path) -> str:
    """Return the name of a folder as a step of an S3 key."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip(".-") or "files"


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]


def _digest_of_contents(model: Path) -> str:
    found = []
    for path in bundle_files(model):
        with path.open("rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return _digest(found)


def _partitions_there(connection: Connection | None, content: Mapping[str, Any]) -> int:
    """Return how many partitions the data's folder holds, at least 1."""
    if connection is None:
        return 1  # an empty cloud: the partitions come by --data
    listing = connection.store(content["data_bucket"]).list(
        folder(str(content["data_prefix"])), recursive=False
    )
    return max(1, sum(is_partition(item.key) for item in listing))


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """Split KEY=VALUE texts.

    Raises
    ------
    InvalidInput
        Naming the option, if a text has no equals sign or no key.
    """
    result = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidInput(f"{option} expects KEY=VALUE, found {text!r}")
        result[key] = value
    return result


def _text(source: str) -> str:
    return sys.stdin.read() if source == "-" else Path(source).read_text()


def _value(text: str) -> Any:
    """Read a value as JSON where it is, as plain text where it is not."""
    try:
        return load_json(text)
    except ValueError:
        return text
