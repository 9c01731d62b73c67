"""Batches of a partition, from a local file or streamed from S3, without torch.

A partition is a ``.pt`` file of ``torch.save(TensorDataset(image, magnitude, redshift))``, of any
bands and side, with or without magnitudes and redshifts. Its tensors are read straight from the
bytes that the zip archive stores, in blocks, by a few threads that read ahead: the first batch is
out before the last byte has come, and memory is bounded by a few blocks, whatever the partition's
size.
"""

from __future__ import annotations

import math
import time
import zlib
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cosmicai.errors import (
    CorruptPartition,
    InvalidInput,
    PartitionMismatch,
    UnsafePickle,
)
from cosmicai.facts import GALAXY_BYTES, MB, PART_BYTES
from cosmicai.partition import catalogue
from cosmicai.partition.archive import (
    ByteSource,
    CorruptArchive,
    TensorRef,
    TorchArchive,
    check_crc,
)
from cosmicai.partition.contents import contents_of, is_by_galaxy
from cosmicai.partition.imaging import CATALOGUE_RECORD
from cosmicai.partition.sources import FileSource, RequestStatistics, S3Object, S3Source

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from cosmicai.model.interface import Inputs
    from cosmicai.partition.catalogue import Catalogue

_BLOCK_BYTES: Final = 4 * MB  # of images; a batch that is larger is its own block
_BATCH_BYTES: Final = 64 * MB  # of images larger than SDSS's; a few batches are held
_SMALL_BLOCK_BYTES: Final = MB  # of magnitudes and redshifts
_AHEAD_BYTES: Final = 16 * MB
_THREADS: Final = 4


@dataclass(frozen=True)
class Batch:
    """Consecutive galaxies of a partition.

    The arrays stay valid after the next batch is taken.
    """

    start: int
    """Index in the partition of the first galaxy."""
    image: NDArray[np.float32]
    """(b, bands, side, side), C-contiguous."""
    magnitude: NDArray[np.float32]
    """(b, magnitudes), C-contiguous; (b, 0) without any."""
    redshift: NDArray[np.float32]
    """(b,), NaN where unknown."""
    scalars: NDArray[np.float32]
    """(b, s), the columns that a model takes besides, NaN where missing; (b, 0) without any."""

    def __len__(self) -> int:
        return len(self.redshift)

    def values(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return what a model takes beside the image, (b, m + s): magnitudes, then scalars."""
        given = [self.magnitude] if inputs.magnitude else []
        given += [self.scalars] if inputs.scalars else []
        if len(given) == 1:
            return given[0]
        return np.concatenate(given, axis=1) if given else _nothing(len(self))

    def __getitem__(self, rows: slice) -> Batch:
        """Return some of the galaxies, consecutive ones."""
        start = self.start + rows.indices(len(self))[0]
        values = (self.image, self.magnitude, self.redshift, self.scalars)
        return Batch(start, *(each[rows] for each in values))


def open_partition(
    source: Path | S3Object, *, batch_size: int | None = None, inputs: Inputs | None = None
) -> PartitionReader:
    """Open a partition and check everything about it but the values.

    Parameters
    ----------
    source
        A local file or an object in S3.
    batch_size
        Galaxies per batch; the last one has what is left. By default as many as fit 4 MB. Of images
        larger than 5 × 32 × 32, a batch has at most 64 MB.
    inputs
        What a model takes; the partition must have it.

    Returns
    -------
    PartitionReader
        A context manager that iterates over :class:`Batch` es.

    Raises
    ------
    PartitionNotFound
        There is no such file or object, or it may not be read.
    CorruptPartition
        It is not a whole ``.pt`` file of galaxies; the message says what was expected and found.
    PartitionMismatch
        It is not what the model takes.
    UnsafePickle
        Its pickle asks for anything but tensors; nothing of it was executed.
    TransientStorageError
        S3 kept failing.
    InvalidInput
        The batch size is not positive.
    """
    if batch_size is not None and batch_size < 1:
        raise InvalidInput(f"batch size: a positive number expected, found {batch_size}")
    started = time.perf_counter()
    opened = S3Source(source) if isinstance(source, S3Object) else FileSource(Path(source))
    try:
        reader = PartitionReader(opened, str(source), batch_size, inputs)
    except BaseException:
        opened.close()
        raise
    reader.wait_seconds = time.perf_counter() - started
    return reader


@contextmanager
def opened_ahead(
    sources: Iterable[Path | S3Object], *, batch_size: int
) -> Iterator[Iterator[PartitionReader]]:
    """Open several partitions in turn, each while the one before it is read.

    The first is opened, and its first block read, as soon as the context is entered: what the
    caller does before it asks for the first reader (loading the model) hides that. Readers are
    closed as the iteration goes on.

    Yields
    ------
    Iterator[PartitionReader]
        Readers in the order of ``sources``; asking for one raises what :func:`open_partition` does.
    """
    pending = deque(sources)
    upcoming: deque[Future[PartitionReader]] = deque()

    def open_next(before: PartitionReader | None) -> None:
        if pending:
            source = pending.popleft()
            upcoming.append(opener.submit(_open_after, before, source, batch_size))

    def readers() -> Generator[PartitionReader]:
        while upcoming:
            started = time.perf_counter()
            with upcoming[0].result() as reader:
                upcoming.popleft()
                reader.wait_seconds = time.perf_counter() - started
                open_next(reader)
                yield reader

    with ThreadPoolExecutor(1, thread_name_prefix="partition-open") as opener:
        open_next(None)
        with closing(readers()) as opened:
            try:
                yield opened
            finally:
                opened.close()  # the reader in use first, which the opening of the next waits for
                for future in upcoming:
                    if not future.cancel() and future.exception() is None:
                        future.result().close()


def _open_after(
    before: PartitionReader | None, source: Path | S3Object, batch_size: int
) -> PartitionReader:
    if before is not None:
        before.wait_for_first_block()  # or this would take a share of the bandwidth from it
    reader = open_partition(source, batch_size=batch_size)
    reader.prefetch()
    return reader


class PartitionReader:
    """An opened partition; see :func:`open_partition`.

    Attributes
    ----------
    num_samples
        Galaxies in it.
    shape
        Bands, side and magnitudes of a galaxy.
    imaging
        Names of the bands, pixel scale and photometric system, as far as the file says them.
    metadata
        All that its metadata record says; None where it has none of ours.
    nbytes
        Size of the file in bytes.
    batch_size
        Galaxies per batch.
    name
        Path or S3 address.
    s3
        Statistics of the requests; None for a local file.
    wait_seconds
        How long the consumer has waited so far, for the opening and for data: the reading that
        was not hidden.
    """

    def __init__(
        self,
        source: FileSource | S3Source,
        name: str,
        batch_size: int | None,
        inputs: Inputs | None = None,
    ) -> None:
        self.name = name
        self.nbytes = source.size
        self.wait_seconds = 0.0
        self._source = source
        try:
            self._archive = TorchArchive(source)
            self._contents = contents = contents_of(self._archive)
        except CorruptArchive as error:
            raise CorruptPartition(f"{name}: {error}") from error
        except UnsafePickle as error:
            raise UnsafePickle(f"{name}: {error}") from error
        self.tensors, self.num_samples = contents.tensors, contents.num_samples
        self.shape, self.imaging = contents.shape, contents.imaging
        self.metadata = contents.metadata
        self.batch_size = batch_size or max(1, _BLOCK_BYTES // self.shape.nbytes)
        if self.shape.nbytes > GALAXY_BYTES:
            self.batch_size = min(self.batch_size, max(1, _BATCH_BYTES // self.shape.nbytes))
        self._scalars: NDArray[np.float32] | None = None
        if inputs is not None:
            self.require(inputs)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="partition")
        self._columns: dict[str, _Column] = {}  # of the iteration to come, or the last one
        self._begun = False

    @property
    def s3(self) -> RequestStatistics | None:
        """Statistics of the S3 requests so far."""
        return self._source.statistics

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the images' channels; where unknown, ``band1``, ``band2``, …."""
        return self.imaging.bands or tuple(f"band{n}" for n in range(1, self.shape.bands + 1))

    @property
    def side(self) -> int:
        """Pixels on a side of an image."""
        return self.shape.side

    @property
    def num_magnitudes(self) -> int:
        """Magnitudes of a galaxy; 0 without any."""
        return self.shape.magnitudes

    @property
    def num_batches(self) -> int:
        """How many batches an iteration yields."""
        return math.ceil(self.num_samples / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches in order, from the first.

        A storage's checksum is compared when its last block has come, so a damaged image ends the
        iteration with CorruptPartition before its last batch.
        """
        try:
            if self._begun:
                self._columns = {}
            self.prefetch()
            self._begun = True
            columns = self._columns
            for start in range(0, self.num_samples, self.batch_size):
                stop = min(start + self.batch_size, self.num_samples)
                started = time.perf_counter()
                count = stop - start
                image = columns["image"].take(start, stop)
                magnitude = redshift = scalars = None
                if "magnitude" in columns:
                    magnitude = columns["magnitude"].take(start, stop)
                if "redshift" in columns:
                    redshift = columns["redshift"].take(start, stop).reshape(count)
                if self._scalars is not None:
                    scalars = self._scalars[start:stop]
                if stop == self.num_samples:
                    self._source.check_unchanged()
                self.wait_seconds += time.perf_counter() - started
                yield Batch(
                    start,
                    image,
                    _nothing(count) if magnitude is None else magnitude,
                    np.full(count, np.nan, np.float32) if redshift is None else redshift,
                    _nothing(count) if scalars is None else scalars,
                )
        except CorruptArchive as error:
            raise CorruptPartition(f"{self.name}: {error}") from error

    def catalogue(self) -> Catalogue | None:
        """Read which object each galaxy is; None where the file does not say.

        Raises
        ------
        CorruptPartition
            The record is damaged, or has another number of rows than there are galaxies.
        """
        return self._catalogue

    @cached_property  # a model's scalars are in it, too
    def _catalogue(self) -> Catalogue | None:
        found = self._record(CATALOGUE_RECORD)
        if found is not None and len(found) != self.num_samples:
            raise CorruptPartition(
                f"{self.name}: a catalogue of {self.num_samples} rows expected, found {len(found)}"
            )
        return found

    def rejected(self) -> Catalogue | None:
        """Read which objects of the data set are in no partition, and why; None without any.

        Raises
        ------
        CorruptPartition
            The record is damaged.
        """
        return self._record(catalogue.REJECTED_RECORD)

    def _record(self, name: str) -> Catalogue | None:
        try:
            record = self._archive.read_record(name, catalogue.MAX_BYTES)
            return None if record is None else catalogue.parse(record)
        except (CorruptArchive, catalogue.CatalogueError) as error:
            raise CorruptPartition(f"{self.name}: {name}: {error}") from error

    def require(self, inputs: Inputs) -> None:
        """Check that the partition has what a model takes, and look up its scalars.

        Raises
        ------
        PartitionMismatch
            It has not.
        CorruptPartition
            Its catalogue, which the scalars are in, is damaged.
        """
        try:
            self._contents.require(inputs)
        except PartitionMismatch as error:
            raise PartitionMismatch(f"{self.name}: {error}") from error
        except CorruptArchive as error:
            raise CorruptPartition(f"{self.name}: {error}") from error
        if inputs.scalars and (found := self.catalogue()) is not None:
            columns = found.columns
            scalars = np.empty((self.num_samples, len(inputs.scalars)), np.float32)
            for index, scalar in enumerate(inputs.scalars):
                column = columns[scalar.name]
                with np.errstate(over="ignore"):  # as of tensors: inf, and counted
                    scalars[:, index] = column.values
                scalars[column.missing, index] = np.nan
            self._scalars = scalars

    def prefetch(self) -> None:
        """Begin to read the first block, before an iteration asks for it."""
        self._columns = self._columns or {
            name: _Column(tensor, self.batch_size, self._source, self._pool, small=name != "image")
            for name, tensor in self.tensors.items()
        }

    def wait_for_first_block(self) -> None:
        """Wait until what :meth:`prefetch` began has come, failed, or was given up."""
        with suppress(CancelledError):
            for column in self._columns.values():
                for part in column.first_block:
                    part.exception()  # waits, and raises nothing but CancelledError

    def close(self) -> None:
        """Stop reading ahead and let go of the file."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._source.close()

    def __enter__(self) -> PartitionReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


# -- reading ahead ------------------------------------------------------------------------------


@dataclass
class _Block:
    """Rows ``start`` to ``stop`` of one tensor, under way or there."""

    start: int
    stop: int
    raw: NDArray[np.uint8]
    parts: list[Future[None]]


class _Column:
    """One tensor, read in blocks of whole batches, some blocks ahead of the consumer."""

    def __init__(
        self,
        tensor: TensorRef,
        batch_size: int,
        source: ByteSource,
        pool: ThreadPoolExecutor,
        *,
        small: bool,
    ) -> None:
        self._tensor = tensor
        self._source = source
        self._pool = pool
        rows = tensor.shape[0]
        row_bytes = math.prod(tensor.shape[1:]) * tensor.storage.itemsize
        if tensor.numel and is_by_galaxy(tensor):
            target = _SMALL_BLOCK_BYTES if small else _BLOCK_BYTES
            span = max(row_bytes, tensor.stride[0] * tensor.storage.itemsize)
            self._rows = batch_size * max(1, target // (batch_size * span))
            self._ahead = max(2, min(8, _AHEAD_BYTES // (self._rows * span)))
        else:
            self._rows = max(rows, 1)  # one block, whose size was checked
            self._ahead = 1
        self._next = 0
        self._blocks: deque[_Block] = deque()
        self._crc: int | None = 0 if tensor.covers_storage else None
        self._start = self._stop = 0
        self._values: NDArray[np.float32] = np.empty(0, np.float32)
        # The first block alone, or those behind it would take a share of the bandwidth from it.
        self._read_ahead(1)
        self.first_block = self._blocks[0].parts if self._blocks else []

    def take(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows ``start`` to ``stop``; calls go forward through the tensor."""
        while stop > self._stop:
            block = self._blocks.popleft()
            if block.start:
                self._read_ahead(self._ahead)
            for part in block.parts:
                part.result()
            self._read_ahead(self._ahead)
            self._verify(block)
            self._start, self._stop = block.start, block.stop
            rows = block.stop - block.start
            view = self._tensor.view(block.raw.data, rows)
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and is counted
                self._values = np.ascontiguousarray(view, dtype=np.float32)
        return self._values[start - self._start : stop - self._start]

    def _read_ahead(self, blocks: int) -> None:
        rows = self._tensor.shape[0]
        while len(self._blocks) < blocks and self._next < rows:
            start, stop = self._next, min(self._next + self._rows, rows)
            offset, length = self._tensor.row_bytes(start, stop)
            raw: NDArray[np.uint8] = np.empty(length, np.uint8)
            buffer = memoryview(raw.data)
            parts = [
                self._pool.submit(self._source.readinto, offset + at, buffer[at : at + PART_BYTES])
                for at in range(0, length, PART_BYTES)
            ]
            self._blocks.append(_Block(start, stop, raw, parts))
            self._next = stop

    def _verify(self, block: _Block) -> None:
        if self._crc is None:
            return
        self._crc = zlib.crc32(block.raw.data, self._crc)
        if block.stop == self._tensor.shape[0]:
            check_crc(self._tensor.storage, self._crc)


def _nothing(count: int) -> NDArray[np.float32]:
    """Return no value for each of ``count`` galaxies."""
    return np.empty((count, 0), np.float32)


def describe(path: Path) -> dict[str, Any]:
    """Describe a local partition without reading its values, for ``cosmicai data inspect``."""
    with open_partition(path, batch_size=1) as reader:
        return {
            "path": str(path),
            "bytes": reader.nbytes,
            "galaxies": reader.num_samples,
            "tensors": {
                name: {
                    "shape": list(tensor.shape),
                    "dtype": tensor.dtype,
                    "contiguous": tensor.is_contiguous,
                    "checksum": tensor.storage.crc is not None and tensor.covers_storage,
                }
                for name, tensor in reader.tensors.items()
            },
        }
