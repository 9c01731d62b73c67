"""Files into S3, resuming where an earlier attempt stopped; no state is kept on this machine.

What is already there is recognized by S3's own ETags: the MD5 of an object or of a part, and for an
object of several parts the MD5 of their MD5s. Parts have 8 MiB, as boto3 and the AWS command line
have them, so objects that those wrote are recognised, too. Where the bucket encrypts with its own
KMS key, ETags are not MD5s: then files are sent again, never wrongly skipped.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Literal

from cosmicai.errors import CosmicAIError, InvalidInput, ObjectNotFound, StorageDenied
from cosmicai.facts import MB
from cosmicai.sharing import is_partition, partition_files
from cosmicai.storage import Store, StoredObject, make_client

from cosmicai_workbench.data.catalogue import catalogue_path, is_catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_BYTES = 8 * MB
MAX_PARTS = 10_000
PARALLEL_FILES = 4
PARALLEL_PARTS = 4

Others = Literal["refuse", "remove", "keep"]


@dataclass(frozen=True)
class Upload:
    """What became of one file.

    Attributes
    ----------
    key
        Where it is now.
    bytes
        Its size.
    sent
        Bytes that went over the network: none where it was there, fewer where it was resumed.
    """

    key: str
    bytes: int
    sent: int


def parse_s3_url(url: str) -> tuple[str, str]:
    """Split ``s3://bucket/prefix`` into bucket and prefix, the latter ending in a slash or empty.

    Raises
    ------
    InvalidInput
        If it is not such an address.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise InvalidInput(f"target: s3://BUCKET/PREFIX expected, found {url!r}")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def find_files(source: Path) -> list[Path]:
    """Return the partitions in a folder (or the one file) and their catalogues.

    Raises
    ------
    InvalidInput
        If there are none.
    """
    partitions = [source] if source.is_file() else partition_files(source)
    if not partitions:
        raise InvalidInput(f"{source}: a .pt file or a folder of them expected, found none")
    catalogues = [catalogue_path(path) for path in partitions]
    return partitions + [path for path in catalogues if path.is_file()]


def s3_client(
    *, endpoint: str | None = None, profile: str | None = None, region: str | None = None
) -> S3Client:
    """Return a client of any S3.

    Raises
    ------
    InvalidInput
        The profile or the endpoint cannot be used.
    """
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return make_client(
            boto3.Session(profile_name=profile, region_name=region), endpoint=endpoint
        )
    except (BotoCoreError, ValueError) as error:
        raise InvalidInput(f"S3 cannot be reached as asked: {error}") from error


def upload_files(
    s3: S3Client,
    files: Mapping[tuple[str, str], Path],
    on_bytes: Callable[[int], None] = lambda _: None,
    *,
    others: Others = "refuse",
) -> list[Upload]:
    """Upload files in parallel, the large ones in parts; what is there already is not sent.

    Partitions in one folder are one data set, and an execution predicts all of them. So what lies
    there of another set is refused, or removed once all files are there.

    Parameters
    ----------
    s3
        Client of the service.
    files
        Bucket and key → file.
    on_bytes
        Called with bytes that are there now, sent or found.
    others
        What to do about other partitions and catalogues in the folders that get partitions.

    Returns
    -------
    list of Upload
        In the order of ``files``.

    Raises
    ------
    InvalidInput
        A file cannot be read, or changed meanwhile; or a folder holds another data set.
    ObjectNotFound, StorageDenied, TransientStorageError, CosmicAIError
        S3 refuses or fails. Parts that arrived stay there; the same call continues from them.
    """
    strangers = [] if others == "keep" else _strangers(s3, files)
    if strangers and others == "refuse":
        bucket, key = strangers[0]
        raise InvalidInput(
            f"{len(strangers)} files of another data set are in the folder already, e.g. "
            f"s3://{bucket}/{key}, and would be predicted together with this one; upload to "
            "another folder, or replace what is there (data upload --replace, run --replace-data)"
        )
    stop = Event()

    def put(item: tuple[tuple[str, str], Path]) -> Upload:
        (bucket, key), path = item
        try:
            return _Uploader(Store(s3, bucket), key, path, on_bytes, stop).run()
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error

    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        futures = [pool.submit(put, item) for item in files.items()]
        try:
            uploads = [future.result() for future in futures]
        finally:
            stop.set()  # after an error or Ctrl-C, no further part is begun
            for future in futures:
                future.cancel()
    for bucket in {bucket for bucket, _ in strangers}:
        Store(s3, bucket).delete(key for other, key in strangers if other == bucket)
    return uploads


def _strangers(s3: S3Client, files: Mapping[tuple[str, str], Path]) -> list[tuple[str, str]]:
    """Return bucket and key of what is not part of the set, in the folders that get partitions."""
    folders = {
        (bucket, key.removesuffix(path.name))
        for (bucket, key), path in files.items()
        if is_partition(key)
    }
    return [
        (bucket, item.key)
        for bucket, folder in sorted(folders)
        for item in Store(s3, bucket).list(folder, recursive=False)
        if (bucket, item.key) not in files and (is_partition(item.key) or is_catalogue(item.key))
    ]


def part_size(size: int) -> int:
    """Return the bytes of a part of a file of ``size`` bytes: 8 MiB, or more for over 10,000."""
    parts = -(-size // PART_BYTES)
    return PART_BYTES * -(-parts // MAX_PARTS)


def etag_of(path: Path) -> str:
    """Return the ETag that S3 gives the file when it is uploaded from here."""
    size = path.stat().st_size
    return _etag(_digests(path, size), size)


def _digests(path: Path, size: int) -> list[bytes]:
    """Return the MD5 of each part; an empty file has one empty part."""
    step = part_size(max(size, 1))
    with path.open("rb") as file:
        return [_md5(file.read(step)) for _ in range(0, max(size, 1), step)]


def _etag(digests: list[bytes], size: int) -> str:
    in_parts = size >= PART_BYTES
    return f"{_md5(b''.join(digests)).hex()}-{len(digests)}" if in_parts else digests[0].hex()


class _Uploader:
    """The upload of one file."""

    def __init__(
        self,
        store: Store,
        key: str,
        path: Path,
        on_bytes: Callable[[int], None],
        stop: Event,
    ) -> None:
        self._store, self._key, self._path = store, key, path
        self._on_bytes, self._stop = on_bytes, stop
        self._size = path.stat().st_size
        self._sent = 0
        self._lock = Lock()

    def run(self) -> Upload:
        digests = _digests(self._path, self._size)
        etag = _etag(digests, self._size)
        if self._store.find(self._key) == StoredObject(self._key, self._size, etag):
            self._on_bytes(self._size)
        elif self._size >= PART_BYTES:
            self._send_parts(digests, part_size(self._size))
        else:
            body = self._read(0, self._size, digests[0])
            self._store.write(self._key, body)
            self._count(self._size)
        return Upload(self._key, self._size, self._sent)

    def _send_parts(self, digests: list[bytes], step: int) -> None:
        """Send the parts that are not there yet, and put them together."""
        upload, there = _unfinished(self._store, self._key)
        if upload is None:
            upload = self._store.request("create_multipart_upload", self._key)["UploadId"]

        def send(number: int) -> CompletedPartTypeDef:
            if self._stop.is_set():
                raise CosmicAIError(f"{self._path}: stopped; upload again to go on")
            digest, first = digests[number - 1], (number - 1) * step
            length = min(step, self._size - first)
            if there.get(number) == (length, digest.hex()):
                self._on_bytes(length)
                return {"PartNumber": number, "ETag": digest.hex()}
            etag = self._store.request(
                "upload_part",
                self._key,
                UploadId=upload,
                PartNumber=number,
                Body=self._read(first, length, digest),
            )["ETag"]
            self._count(length)
            # As S3 says it: where a KMS key encrypts, it is not the MD5.
            return {"PartNumber": number, "ETag": etag}

        with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
            parts = list(pool.map(send, range(1, len(digests) + 1)))
        try:
            self._store.request(
                "complete_multipart_upload",
                self._key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except ObjectNotFound:  # an attempt whose answer was lost may have completed it
            if self._store.head(self._key).size != self._size:
                raise

    def _read(self, first: int, length: int, digest: bytes) -> bytes:
        with self._path.open("rb") as file:
            file.seek(first)
            body = file.read(length)
        if _md5(body) != digest:
            raise InvalidInput(f"{self._path} changed while it was uploaded; upload it again")
        return body

    def _count(self, sent: int) -> None:
        with self._lock:
            self._sent += sent
        self._on_bytes(sent)


def _unfinished(store: Store, key: str) -> tuple[str | None, dict[int, tuple[int, str]]]:
    """Return the newest unfinished upload of a key, and its parts: number → (size, ETag)."""
    try:
        uploads = [
            upload
            for page in _pages(store, "list_multipart_uploads", Prefix=key)
            for upload in page.get("Uploads", [])
            if upload["Key"] == key
        ]
        if not uploads:
            return None, {}
        newest = max(uploads, key=lambda upload: upload["Initiated"])["UploadId"]
        return newest, {
            part["PartNumber"]: (part["Size"], part["ETag"].strip('"'))
            for page in _pages(store, "list_parts", key, UploadId=newest)
            for part in page.get("Parts", [])
        }
    except StorageDenied:
        return None, {}  # who may write but not list cannot resume, yet can upload


def _pages(store: Store, method: str, key: str | None = None, **options: Any) -> Iterator[Any]:
    """Yield the pages of a listing of multipart uploads, or of the parts of one."""
    while True:
        page = store.request(method, key, **options)
        yield page
        if not page.get("IsTruncated"):
            return
        for marker in ("KeyMarker", "UploadIdMarker", "PartNumberMarker"):
            if f"Next{marker}" in page:
                options[marker] = page[f"Next{marker}"]


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
