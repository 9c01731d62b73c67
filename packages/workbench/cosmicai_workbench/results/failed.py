"""The objects of failed ranks: their partitions still say which they are.

They are looked up when the results are fetched, and stored in the run folder, so that a catalogue
has as many rows as its input without any other file.
"""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from cosmicai.errors import CosmicAIError, InvalidInput, load_json
from cosmicai.partition.catalogue import Catalogue, CatalogueError, from_arrays, named
from cosmicai.partition.reader import open_partition
from cosmicai.partition.sources import S3Object
from cosmicai.prediction import npz_bytes, npz_columns
from cosmicai.schema import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmicai.schema import FailedRank, RankRecord
    from mypy_boto3_s3 import S3Client
    from numpy.typing import NDArray


class Listed(NamedTuple):
    """The objects of one partition that was not predicted."""

    partition: str
    objects: Catalogue
    rejected: Catalogue


class Stored(NamedTuple):
    """What the run folder knows of a failed rank's partitions."""

    listed: list[Listed]
    unread: frozenset[str]
    """Those that could not be read when the results were fetched."""


def partitions_of(rank: FailedRank | RankRecord) -> Iterator[tuple[str, str | None]]:
    """Yield the partitions of a rank, with their ETags where the run knows them."""
    yield from zip_longest(listed(rank.data_path), listed(rank.data_etag))


def list_partition(name: str, source: Path | S3Object) -> Listed:
    """Read which objects a partition holds; its images are not read.

    Raises
    ------
    PartitionNotFound, CorruptPartition, UnsafePickle, TransientStorageError
        It cannot be read.
    """
    with open_partition(source, batch_size=1) as reader:
        names = (f"{PurePosixPath(name).stem}#{index}" for index in range(reader.num_samples))
        objects = reader.catalogue() or named(list(names))
        return Listed(name, objects, reader.rejected() or Catalogue(()))


def store_failed(folder: Path, rank: FailedRank, bucket: str, client: S3Client) -> None:
    """Write ``failed/<rank>.npz``: the objects of a failed rank, read from the bucket.

    Partitions that cannot be read are named in it with the reason: the rank may have failed for
    the same one.
    """
    arrays: dict[str, NDArray[Any]] = {}
    read: list[str] = []
    unread: dict[str, str] = {}
    for key, etag in partitions_of(rank):
        try:
            found = list_partition(key, S3Object(bucket, key, client, etag))
        except CosmicAIError as error:
            unread[key] = str(error)
            continue
        arrays |= found.objects.to_arrays(f"objects{len(read)}")
        arrays |= found.rejected.to_arrays(f"rejected{len(read)}")
        read.append(key)
    arrays["partitions"] = np.array(json.dumps({"listed": read, "unread": unread}))
    path = _path(folder, rank.rank)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(npz_bytes(arrays))


def stored_failed(folder: Path, rank: FailedRank) -> Stored:
    """Return what :func:`store_failed` found; nothing where it was not called.

    Raises
    ------
    InvalidInput
        The file is damaged.
    """
    path = _path(folder, rank.rank)
    try:
        arrays = npz_columns(path.read_bytes())
        partitions = load_json(str(arrays["partitions"]))
        listed = [
            Listed(
                key,
                from_arrays(arrays, f"objects{number}") or Catalogue(()),
                from_arrays(arrays, f"rejected{number}") or Catalogue(()),
            )
            for number, key in enumerate(partitions["listed"])
        ]
        return Stored(listed, frozenset(partitions["unread"]))
    except FileNotFoundError:
        return Stored([], frozenset())
    except (OSError, ValueError, LookupError, TypeError, CatalogueError) as error:
        raise InvalidInput(f"{path}: not a list of objects ({error})") from None


def _path(folder: Path, rank: int) -> Path:
    return folder / "failed" / f"{rank}.npz"
