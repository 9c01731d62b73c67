"""Predict partitions: batches from a reader through an engine, added up into columns."""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cosmicai.columns import PredictedBatch, stored_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from cosmicai.engines.base import Engine
    from cosmicai.partition.catalogue import Catalogue
    from cosmicai.partition.reader import Batch, PartitionReader
    from cosmicai.partition.sources import RequestStatistics, S3Object
    from cosmicai.schema import ManifestItem


@dataclass
class Totals:
    """What a rank adds up over its batches and partitions."""

    num_samples: int = 0
    num_bytes: int = 0
    num_batches: int = 0
    input_bytes: int = 0
    predict_seconds: float = 0.0
    wait_seconds: float = 0.0
    nonfinite_pixels: int = 0
    nonfinite_magnitudes: int = 0
    s3: list[RequestStatistics] = field(default_factory=list)
    columns: dict[str, list[NDArray[Any]]] = field(
        default_factory=lambda: {name: [] for name in ("partition", *stored_columns())}
    )
    catalogues: list[Catalogue] = field(default_factory=list)
    """One per partition: which object each galaxy is."""
    rejected: list[Catalogue] = field(default_factory=list)
    """Objects of the data set that are in no partition."""


def opened_for(
    item: ManifestItem, sources: Sequence[Path | S3Object]
) -> AbstractContextManager[Iterator[PartitionReader]]:
    """Open a rank's partitions, to be read in as many galaxies at once as its engine wants.

    Raises
    ------
    PartitionNotFound, CorruptPartition, UnsafePickle, TransientStorageError
        When the readers are asked for.
    """
    from cosmicai.engines.registry import galaxies_at_once
    from cosmicai.partition.reader import opened_ahead

    return opened_ahead(sources, batch_size=galaxies_at_once(item.ENGINE, item.BATCH_SIZE))


def predict_partition(
    reader: PartitionReader, position: int, engine: Engine, totals: Totals, batch_size: int
) -> None:
    """Predict one partition, batch by batch, and add it to ``totals``.

    Parameters
    ----------
    reader
        The opened partition.
    position
        Which of the rank's partitions it is.
    batch_size
        Galaxies of a batch as it is counted; the engine may get several at once.

    Raises
    ------
    CorruptPartition, TransientStorageError
        From reading it.
    """
    import numpy as np

    from cosmicai.partition.catalogue import Catalogue

    for batch in reader:
        redshift = _predict(batch, engine, totals)
        count = len(redshift)
        totals.num_batches += math.ceil(count / batch_size)
        predicted = PredictedBatch(
            partition=position,
            start=batch.start,
            image=batch.image,
            magnitude=batch.magnitude,
            true_redshift=batch.redshift,
            redshift=redshift,
        )
        totals.columns["partition"].append(np.full(count, position, np.int32))
        for name, column in stored_columns().items():
            # Copied, because a view would keep the whole batch in memory.
            totals.columns[name].append(np.array(column.value(predicted), column.dtype))
    totals.catalogues.append(reader.catalogue() or Catalogue((), reader.num_samples))
    if rejected := reader.rejected():
        totals.rejected.append(rejected)
    totals.num_samples += reader.num_samples
    totals.num_bytes += reader.nbytes
    totals.wait_seconds += reader.wait_seconds
    if reader.s3 is not None:
        totals.s3.append(reader.s3)


def _predict(batch: Batch, engine: Engine, totals: Totals) -> NDArray[np.float32]:
    """Predict a batch; galaxies with NaN or infinite input are counted and predicted as NaN.

    An engine may turn a NaN into a plausible number (a maximum with NaN, say), so such galaxies
    are blanked before and after it.
    """
    import numpy as np

    started = time.perf_counter()
    image, magnitude = batch.image, batch.magnitude
    # A sum is finite only if every term is: one cheap pass instead of a mask of all pixels.
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = ~np.isfinite(image.sum(axis=(1, 2, 3)) + magnitude.sum(axis=1))
    bad = np.zeros(len(image), bool)
    if suspect.any():
        pixels = ~np.isfinite(image[suspect])
        magnitudes = ~np.isfinite(magnitude[suspect])
        totals.nonfinite_pixels += int(pixels.sum())
        totals.nonfinite_magnitudes += int(magnitudes.sum())
        bad[suspect] = pixels.any(axis=(1, 2, 3)) | magnitudes.any(axis=1)
        image, magnitude = image.copy(), magnitude.copy()
        image[bad], magnitude[bad] = 0, 0
    redshift = engine.predict(image, magnitude)
    redshift = np.where(bad | ~np.isfinite(redshift), np.float32(np.nan), redshift)
    totals.predict_seconds += time.perf_counter() - started
    totals.input_bytes += image.nbytes + magnitude.nbytes
    return redshift


def columns_of(item: ManifestItem, totals: Totals) -> dict[str, NDArray[Any]]:
    """Return the arrays of the predictions file.

    The columns that the partitions carry are under ``catalogue`` and ``rejected``, as
    :meth:`~cosmicai.partition.catalogue.Catalogue.to_arrays` writes them.
    """
    import numpy as np

    from cosmicai.partition.catalogue import concatenate

    dtypes = {"partition": "int32"} | {n: column.dtype for n, column in stored_columns().items()}
    columns: dict[str, NDArray[Any]] = {
        name: np.concatenate(parts) if parts else np.empty(0, dtypes[name])
        for name, parts in totals.columns.items()
    }
    columns["data_paths"] = np.array(item.data_paths, dtype=np.str_)
    for name, parts in (("catalogue", totals.catalogues), ("rejected", totals.rejected)):
        carried = concatenate(parts)
        if carried.columns:
            columns |= carried.to_arrays(name)
    return columns


def npz_bytes(columns: dict[str, NDArray[Any]]) -> bytes:
    """Write the arrays as an .npz file; the same arrays give the same bytes."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **columns)
    return buffer.getvalue()
