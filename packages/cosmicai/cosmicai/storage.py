"""S3 through boto3: JSON objects, listing, conditional writes; botocore errors become ours.

The endpoint and the credentials come from the environment (``AWS_ENDPOINT_URL`` points to the
local cloud), so the same code runs in both worlds.
"""

from __future__ import annotations

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from cosmicai.errors import (
    CosmicAIError,
    InvalidInput,
    ObjectNotFound,
    PreconditionFailed,
    StorageDenied,
    TransientStorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT = 5
READ_TIMEOUT = 60
ATTEMPTS = 5
PARALLEL_READS = 32
_CHUNK_BYTES = 1024 * 1024

_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_DENIED = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_LOST = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing: its key, size in bytes, and ETag without quotes."""

    key: str
    size: int
    etag: str


@functools.cache
def client() -> S3Client:
    """Return the process's S3 client, with time-outs and bounded retries.

    Made at the first call, not at import, and kept for the life of the sandbox.
    """
    import boto3
    import botocore.session
    from botocore.config import Config

    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(
        timestamp_parser=_timestamp
    )
    return boto3.Session(botocore_session=session).client(
        "s3",
        config=Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            max_pool_connections=PARALLEL_READS,
        ),
    )


def _timestamp(value: Any) -> datetime:
    """Parse a time. botocore's own parser takes four fifths of listing many objects."""
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)  # the other formats, in a few headers


def translated(call: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that botocore's errors leave it as ours.

    The first two positional arguments of the function are a bucket and a key or prefix, which
    the message names.
    """

    @functools.wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call(*args, **kwargs)
        except (BotoCoreError, ClientError) as error:
            raise_ours(error, f"s3://{args[0]}/{args[1]}")

    return wrapper


def raise_ours(error: Exception, where: str) -> NoReturn:
    """Raise the named error that a botocore error stands for, naming the object.

    Raises
    ------
    ObjectNotFound, StorageDenied, PreconditionFailed
        Where a retry cannot help.
    TransientStorageError
        For time-outs, throttling, and failures of the server or the network.
    """
    response = getattr(error, "response", None) or {}  # None in errors of the HTTP library
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _MISSING:
        kind: type[CosmicAIError] = ObjectNotFound
        message = f"{where} does not exist ({code})"
    elif code in _DENIED:
        kind, message = StorageDenied, f"access to {where} is denied ({code}): {error}"
    elif code in _LOST:
        kind, message = PreconditionFailed, f"{where} changed meanwhile ({code})"
    elif response and 400 <= status < 500 and status != 429 and code != "RequestTimeout":
        kind, message = CosmicAIError, f"S3 refuses the request for {where}: {error}"
    elif type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError"}:
        kind, message = StorageDenied, f"no credentials for {where}: {error}"
    else:
        kind, message = TransientStorageError, f"S3 failed for {where}: {error}"
    raise kind(message) from error


@translated
def get_bytes(
    bucket: str, key: str, *, if_match: str | None = None, span: tuple[int, int] | None = None
) -> bytes:
    """Read an object, whole or its bytes from ``span[0]`` up to, without, ``span[1]``.

    Raises
    ------
    ObjectNotFound
        If there is no such object.
    PreconditionFailed
        If its ETag is not ``if_match``.
    """
    options: dict[str, Any] = {"IfMatch": if_match} if if_match else {}
    if span:
        options["Range"] = f"bytes={span[0]}-{span[1] - 1}"
    return client().get_object(Bucket=bucket, Key=key, **options)["Body"].read()


@translated
def download(bucket: str, key: str, path: Path, *, if_match: str | None = None) -> None:
    """Write an object to a local file, in bounded memory; see :func:`get_bytes` for the errors."""
    condition: dict[str, Any] = {"IfMatch": if_match} if if_match else {}
    body = client().get_object(Bucket=bucket, Key=key, **condition)["Body"]
    with path.open("wb") as file:
        for chunk in body.iter_chunks(_CHUNK_BYTES):
            file.write(chunk)


def get_json(bucket: str, key: str) -> Any:
    """Read a JSON object; see :func:`get_bytes` for the errors.

    Raises
    ------
    InvalidInput
        If the object is not JSON.
    """
    return _json(get_bytes(bucket, key), f"s3://{bucket}/{key}")


@translated
def get_json_and_etag(bucket: str, key: str) -> tuple[Any, str]:
    """Read a JSON object together with its ETag, for a later conditional write."""
    response = client().get_object(Bucket=bucket, Key=key)
    return _json(response["Body"].read(), f"s3://{bucket}/{key}"), response["ETag"].strip('"')


@translated
def put_bytes(
    bucket: str,
    key: str,
    body: bytes,
    *,
    content_type: str = "application/octet-stream",
    if_none_match: bool = False,
    if_match: str | None = None,
) -> str:
    """Write an object, whole or not at all, and return its ETag.

    Parameters
    ----------
    if_none_match
        Write only if there is no such object yet.
    if_match
        Write only over the version with this ETag.

    Raises
    ------
    PreconditionFailed
        If the condition does not hold.
    """
    condition: dict[str, Any] = {}
    if if_none_match:
        condition["IfNoneMatch"] = "*"
    if if_match:
        condition["IfMatch"] = if_match
    response = client().put_object(
        Bucket=bucket, Key=key, Body=body, ContentType=content_type, **condition
    )
    return response["ETag"].strip('"')


def put_json(
    bucket: str, key: str, value: Any, *, if_none_match: bool = False, if_match: str | None = None
) -> str:
    """Write ``value`` as JSON; NaN is refused, since it is not JSON. See :func:`put_bytes`."""
    body = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return put_bytes(
        bucket,
        key,
        body,
        content_type="application/json",
        if_none_match=if_none_match,
        if_match=if_match,
    )


@translated
def head(bucket: str, key: str) -> StoredObject:
    """Look an object up without reading it.

    Raises
    ------
    ObjectNotFound
        If there is no such object.
    """
    response = client().head_object(Bucket=bucket, Key=key)
    return StoredObject(key, response["ContentLength"], response["ETag"].strip('"'))


def list_objects(bucket: str, prefix: str, *, recursive: bool = True) -> Iterator[StoredObject]:
    """Yield every object under a prefix, page by page, in S3's (byte) order.

    Parameters
    ----------
    recursive
        False leaves out what lies in sub-folders of the prefix.

    Raises
    ------
    ObjectNotFound
        If there is no such bucket.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    options: dict[str, Any] = {} if recursive else {"Delimiter": "/"}
    pages = (
        client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **options)
    )
    try:
        for page in pages:
            for item in page.get("Contents", []):
                yield StoredObject(item["Key"], item["Size"], item["ETag"].strip('"'))
    except (BotoCoreError, ClientError) as error:
        raise_ours(error, f"s3://{bucket}/{prefix}")


def get_many(bucket: str, keys: Iterable[str]) -> Iterator[bytes]:
    """Read objects in parallel; yield them in the order of ``keys``."""
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        yield from pool.map(functools.partial(get_bytes, bucket), keys)


def delete_many(bucket: str, keys: Iterable[str]) -> int:
    """Delete objects, up to 1,000 a request, and return how many.

    Raises
    ------
    StorageDenied, TransientStorageError
        If S3 reports that some could not be deleted.
    """
    pending = list(keys)
    for start in range(0, len(pending), 1000):
        _delete(bucket, pending[start], pending[start : start + 1000])
    return len(pending)


@translated
def _delete(bucket: str, first: str, keys: list[str]) -> None:
    response = client().delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
    )
    if errors := response.get("Errors"):
        kind = StorageDenied if errors[0].get("Code") in _DENIED else TransientStorageError
        raise kind(
            f"{len(errors)} objects beside s3://{bucket}/{first} could not be deleted: {errors[0]}"
        )


def _json(body: bytes, where: str) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise InvalidInput(f"{where} is not valid JSON: {error}") from error
