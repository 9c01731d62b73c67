"""S3 through boto3: one :class:`Store` per bucket, for the functions and the workbench alike.

Here, and nowhere else, a request is retried and botocore's errors become ours. botocore's own
retries are off: it does not retry a body that is cut short, and two layers would multiply.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import json
import random
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from cosmicai.errors import (
    CosmicAIError,
    InvalidInput,
    ObjectNotFound,
    PreconditionFailed,
    StorageDenied,
    TransientStorageError,
    load_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import boto3
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT = 5
READ_TIMEOUT = 60
PARALLEL_REQUESTS = 32
MOST_DELETED = 1000
"""Objects that one request can delete."""
ATTEMPTS = 5
PATIENCE_SECONDS = 60.0
"""No further attempt begins after this time."""
BACKOFF_SECONDS = (0.1, 5.0)
"""Upper bounds of the first wait, which doubles from attempt to attempt, and of any wait."""
_CHUNK_BYTES = 1024 * 1024
MOST_READ_BYTES = 512 * 1024 * 1024
"""Of an object that is read whole, unless the caller says otherwise: 20 times the largest that
an execution of 10,000 ranks writes."""
_OWNER = "execution"  # in the metadata of an object

_MISSING = {"NoSuchKey", "NoSuchBucket", "NoSuchUpload", "404", "NotFound"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "403", "Forbidden"}
_BAD_CREDENTIALS = {
    "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
    "NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError",
    "SSOTokenLoadError", "UnauthorizedSSOTokenError", "CredentialRetrievalError",
}  # fmt: skip
_LOST = {"PreconditionFailed", "412"}
_TRANSIENT = {
    "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "RequestTimeTooSkewed",
    "BadDigest", "IncompleteBody",
}  # fmt: skip
"""Codes of status 400 to 499 that another attempt may change, beside 429."""

_OBJECT_PERMISSIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "ListParts": "s3:ListMultipartUploadParts",
    "DeleteObjects": "s3:DeleteObject",
}
_BUCKET_PERMISSIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "HeadBucket": "s3:ListBucket",
}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object: its key, size in bytes, and ETag without quotes."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Content:
    """What an object holds, its ETag, and which execution wrote it (empty if none says so)."""

    body: bytes
    etag: str
    owner: str


def make_client(
    session: boto3.Session | None = None,
    *,
    endpoint: str | None = None,
    connections: int = PARALLEL_REQUESTS,
) -> S3Client:
    """Return a client of any S3-compatible service, with time-outs and without retries.

    Parameters
    ----------
    session
        Credentials and region; by default those of the environment.
    endpoint
        Address of the service; by default ``AWS_ENDPOINT_URL``, or else AWS.
    connections
        How many requests may be under way at once.
    """
    import boto3
    from botocore.config import Config

    return (session or boto3.Session()).client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=connections,
        ),
    )


@functools.cache
def client() -> S3Client:
    """Return the process's S3 client.

    Made at the first call, not at import, and kept for the life of the sandbox.
    """
    import boto3
    import botocore.session

    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(
        timestamp_parser=_timestamp
    )
    return make_client(boto3.Session(botocore_session=session))


def _timestamp(value: Any) -> datetime:
    """Parse a time. botocore's own parser takes four fifths of listing many objects."""
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)  # the other formats, in a few headers


def store(bucket: str) -> Store:
    """Return a bucket, reached by the process's client."""
    return Store(client(), bucket)


@dataclass(frozen=True, slots=True)
class Store:
    """One bucket.

    Every method retries what may be transient, ``ATTEMPTS`` times in all, and raises
    :class:`~cosmicai.errors.StorageDenied` where a permission is missing,
    :class:`~cosmicai.errors.TransientStorageError` where the last attempt failed as well, and
    :class:`~cosmicai.errors.CosmicAIError` where S3 refuses the request itself.
    """

    client: S3Client
    bucket: str

    def address(self, key: str = "") -> str:
        """Return ``s3://bucket/key``, for messages."""
        return f"s3://{self.bucket}/{key}"

    def read(
        self,
        key: str,
        *,
        if_match: str | None = None,
        span: tuple[int, int] | None = None,
        most: int = MOST_READ_BYTES,
    ) -> bytes:
        """Read an object, whole or its bytes from ``span[0]`` up to, without, ``span[1]``.

        Parameters
        ----------
        most
            Bytes that the object, or its part, may have; a larger one is not read.

        Raises
        ------
        ObjectNotFound
            If there is no such object.
        PreconditionFailed
            If its ETag is not ``if_match``.
        InvalidInput
            If it is larger than ``most``.
        """
        options: dict[str, Any] = {"IfMatch": if_match} if if_match else {}
        if span:
            options["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        body: bytes = self.request(
            "get_object", key, lambda answer: self._body(answer, key, most), **options
        )
        return body

    def _body(self, answer: Any, key: str, most: int) -> bytes:
        """Read the body of an answer if it is no larger than ``most`` bytes."""
        self._require_at_most(most, answer, key)
        body: bytes = answer["Body"].read()
        return body

    def _require_at_most(self, most: int | None, answer: Any, key: str) -> None:
        # The HTTP library reads no more than the header announces.
        if most is not None and answer["ContentLength"] > most:
            answer["Body"].close()
            raise InvalidInput(
                f"{self.address(key)} has {answer['ContentLength']} bytes, and at most "
                f"{most} were expected; it was not read: replace it with the right file"
            )

    def read_content(self, key: str, *, most: int = MOST_READ_BYTES) -> Content:
        """Read a whole object with its ETag and owner; see :meth:`read` for the errors."""

        def receive(answer: Any) -> Content:
            owner = unquote(answer["Metadata"].get(_OWNER, ""))
            return Content(self._body(answer, key, most), answer["ETag"].strip('"'), owner)

        content: Content = self.request("get_object", key, receive)
        return content

    def read_json(self, key: str) -> Any:
        """Read a JSON object; see :meth:`read` for the errors.

        Raises
        ------
        InvalidInput
            If the object is not JSON.
        """
        try:
            return load_json(self.read(key))
        except ValueError as error:
            raise InvalidInput(f"{self.address(key)} is not valid JSON: {error}") from error

    def read_many(self, keys: Iterable[str]) -> Iterator[bytes]:
        """Read objects in parallel, not far ahead; yield them in the order of ``keys``."""
        pending: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            try:
                for key in keys:
                    pending.append(pool.submit(self.read, key))
                    if len(pending) > 2 * PARALLEL_REQUESTS:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def download(
        self, key: str, path: Path, *, if_match: str | None = None, most: int | None = None
    ) -> None:
        """Write an object to a local file, in bounded memory; see :meth:`read` for the errors.

        Parameters
        ----------
        most
            As for :meth:`read`; None for any size.
        """

        def receive(answer: Any) -> None:
            self._require_at_most(most, answer, key)
            with path.open("wb") as file:
                for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
                    file.write(chunk)

        options: dict[str, Any] = {"IfMatch": if_match} if if_match else {}
        self.request("get_object", key, receive, **options)

    def head(self, key: str) -> StoredObject:
        """Look an object up without reading it.

        Raises
        ------
        ObjectNotFound
            If there is no such object.
        """
        answer = self.request("head_object", key)
        return StoredObject(key, answer["ContentLength"], answer["ETag"].strip('"'))

    def find(self, key: str) -> StoredObject | None:
        """Look an object up without reading it; return None if there is none."""
        try:
            return self.head(key)
        except ObjectNotFound:
            return None

    def write(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str = "application/octet-stream",
        if_none_match: bool = False,
        if_match: str | None = None,
        owner: str = "",
    ) -> str:
        """Write an object, whole or not at all, and return its ETag.

        A conditional write succeeds as well if the object holds these very bytes already: an
        earlier attempt wrote them, and its answer was lost.

        Parameters
        ----------
        if_none_match
            Write only if there is no such object yet.
        if_match
            Write only over the version with this ETag.
        owner
            Execution that writes, for :meth:`read_content`.

        Raises
        ------
        PreconditionFailed
            If the condition does not hold.
        """
        options: dict[str, Any] = {"Metadata": {_OWNER: quote(owner, safe=":/")}} if owner else {}
        if if_none_match:
            options["IfNoneMatch"] = "*"
        if if_match:
            options["IfMatch"] = if_match
        try:
            answer = self.request("put_object", key, Body=body, ContentType=content_type, **options)
        except PreconditionFailed:
            try:
                there = self.read_content(key)
            except ObjectNotFound:
                there = None  # deleted at this moment
            if there is None or (there.body, there.owner) != (body, owner):
                raise
            return there.etag
        except ObjectNotFound as error:
            if if_match and "NoSuchBucket" not in str(error):
                raise PreconditionFailed(f"{self.address(key)} was deleted meanwhile") from error
            raise
        etag: str = answer["ETag"].strip('"')
        return etag

    def write_json(
        self,
        key: str,
        value: Any,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
        owner: str = "",
    ) -> str:
        """Write ``value`` as JSON; NaN is refused, since it is not JSON. See :meth:`write`."""
        return self.write(
            key,
            json_bytes(value),
            content_type="application/json",
            if_none_match=if_none_match,
            if_match=if_match,
            owner=owner,
        )

    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[StoredObject]:
        """Yield every object under a prefix, page by page, in S3's (byte) order.

        Parameters
        ----------
        recursive
            False leaves out the sub-folders of the prefix.

        Raises
        ------
        ObjectNotFound
            If there is no such bucket.
        """
        options: dict[str, Any] = {"Prefix": prefix} | ({} if recursive else {"Delimiter": "/"})
        while True:
            page = self.request("list_objects_v2", **options)
            for item in page.get("Contents", []):
                yield StoredObject(item["Key"], item["Size"], item["ETag"].strip('"'))
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, keys: Iterable[str]) -> int:
        """Delete objects, up to 1,000 per request, and return how many."""
        pending = list(keys)

        def receive(answer: Any) -> None:
            for problem in answer.get("Errors", []):
                denied = problem.get("Code") in _DENIED
                where = self.address(problem.get("Key", ""))
                raise (StorageDenied if denied else TransientStorageError)(
                    f"{where} could not be deleted"
                    + (self._permission("DeleteObjects", problem.get("Key")) if denied else "")
                    + f": {problem.get('Code')}, {problem.get('Message')}"
                )

        for start in range(0, len(pending), MOST_DELETED):
            part = [{"Key": key} for key in pending[start : start + MOST_DELETED]]
            self.request("delete_objects", None, receive, Delete={"Objects": part, "Quiet": True})
        return len(pending)

    def request(
        self,
        method: str,
        key: str | None = None,
        receive: Callable[[Any], Any] = lambda answer: answer,
        **options: Any,
    ) -> Any:
        """Make one request, by the name of boto3's method for it, and retry it.

        Parameters
        ----------
        key
            Of the object; None for requests about the bucket.
        receive
            Takes the answer in, its body included; what it returns is returned.
        options
            boto3's further arguments.
        """
        if key is not None:
            options["Key"] = key
        call = getattr(self.client, method)
        started = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return receive(call(Bucket=self.bucket, **options))
            except failures() as error:
                failure = self.explain(error, key)
                late = time.monotonic() - started > PATIENCE_SECONDS
                if attempt == ATTEMPTS or late or not isinstance(failure, TransientStorageError):
                    raise failure from error
            time.sleep(backoff(attempt))
        raise AssertionError("unreachable")

    def explain(self, error: Exception, key: str | None = None) -> CosmicAIError:
        """Return the named error for a failed request, naming the object."""
        if isinstance(error, CosmicAIError):
            return error
        where = self.address(key or "")
        answer = getattr(error, "response", None) or {}  # None in errors of the HTTP library
        code = str(answer.get("Error", {}).get("Code", "")) or type(error).__name__
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _MISSING:
            return ObjectNotFound(f"{where} does not exist ({code})")
        if code in _BAD_CREDENTIALS:
            return StorageDenied(f"the credentials do not open {where} ({code}): {error}")
        if code in _DENIED:
            needed = self._permission(getattr(error, "operation_name", ""), key)
            return StorageDenied(f"access to {where} is denied{needed}: {error}")
        if code in _LOST:
            return PreconditionFailed(f"{where} changed meanwhile ({code})")
        if answer and 400 <= status < 500 and status != 429 and code not in _TRANSIENT:
            return CosmicAIError(f"S3 refuses the request for {where}: {error}")
        if type(error).__name__ in {"ParamValidationError", "InvalidRegionError"}:
            return CosmicAIError(f"the request for {where} is not valid: {error}")
        return TransientStorageError(f"S3 failed for {where}: {error}")

    def _permission(self, operation: str, key: str | None) -> str:
        """Say which permission an operation needs, on which resource."""
        resource = f"arn:aws:s3:::{self.bucket}"
        if operation in _BUCKET_PERMISSIONS:
            return f"; the role needs {_BUCKET_PERMISSIONS[operation]} on {resource}"
        if operation not in _OBJECT_PERMISSIONS:
            return ""
        needed = f"; the role needs {_OBJECT_PERMISSIONS[operation]} on {resource}/{key or '*'}"
        if operation in {"GetObject", "HeadObject"}:
            # Without that permission, S3 answers 403 for an object that is not there.
            needed += f" (and s3:ListBucket on {resource}, or it cannot tell that it is missing)"
        return needed


def backoff(attempt: int) -> float:
    """Return the seconds to wait after a failed attempt, counted from 1: with full jitter."""
    first, most = BACKOFF_SECONDS
    return random.uniform(0, min(most, first * 2**attempt))  # noqa: S311 - no secret


@functools.cache
def failures() -> tuple[type[Exception], ...]:
    """Return what boto3 raises when a request, or the reading of its body, fails."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return (
        BotoCoreError, ClientError, HTTPError, http.client.HTTPException, ConnectionError,
        TransientStorageError, StorageDenied,
    )  # fmt: skip


def sha256(body: bytes) -> str:
    """Return the SHA-256 digest, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def json_bytes(value: Any) -> bytes:
    """Return ``value`` as compact JSON.

    Raises
    ------
    ValueError
        If it holds NaN or an infinity, which are not JSON.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
