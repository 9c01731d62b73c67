"""One data set into partitions of a given size."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import ARCHIVE_BYTES, GALAXY_BYTES, MB, galaxies_in
from cosmicai.partition.catalogue import Catalogue
from cosmicai.partition.imaging import GalaxyShape, Imaging
from cosmicai.partition.reader import Batch, PartitionReader, open_partition
from numpy.typing import NDArray

from cosmicai_workbench.data.bands import check_side, choose_bands, middle
from cosmicai_workbench.data.catalogue import write_text_catalogue
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.files import file_errors, replace_files, staging_folder

REJECTS_NAME = "rejects.csv"
REPORT_NAME = "from-fits.json"
_MADE = re.compile(
    rf"[1-9][0-9]*\.(pt|catalogue\.csv)|{re.escape(REJECTS_NAME)}|{re.escape(REPORT_NAME)}"
)
"""Names that a run writes into its folder, and a later run with ``overwrite`` replaces."""


def galaxies_per_partition(megabytes: float, galaxy_bytes: int = GALAXY_BYTES) -> int:
    """Return how many galaxies fit into a partition: 5,113 into 100 MB, as the reference has it.

    Raises
    ------
    InvalidInput
        Not even one fits.
    """
    count = galaxies_in(megabytes, galaxy_bytes)
    if count < 1:
        raise InvalidInput(
            "partition size: room for one galaxy expected, "
            f"{(galaxy_bytes + ARCHIVE_BYTES) / MB:.3f} MB, found {megabytes} MB"
        )
    return count


def split_dataset(
    source: Path,
    folder: Path,
    galaxies: int,
    *,
    objects: Path | None = None,
    keep: Sequence[str] = (),
    bands: Sequence[str] = (),
    side: int | None = None,
    overwrite: bool = False,
    on_galaxies: Callable[[int], None] = lambda _: None,
) -> list[Path]:
    """Split a data set into partitions 1.pt, 2.pt, …, its catalogue with it.

    Of the images, only a few megabytes are in memory at once, whatever the sizes.

    Parameters
    ----------
    source
        Any ``.pt`` file of a TensorDataset of image, magnitude and redshift, of any bands and side.
    folder
        Receives the partitions.
    galaxies
        Galaxies in a partition; the last one holds what is left.
    objects
        Table with a row for each galaxy, in the same order, in place of the catalogue that
        ``source`` may hold.
    keep
        Its columns to carry along, besides the object's name and position.
    bands, side
        What to take of the images, and of magnitudes in the same bands; see :func:`cut_of`.
    overwrite
        Remove the numbered partitions that ``folder`` already has.
    on_galaxies
        Called with the number of galaxies in each batch copied.

    Returns
    -------
    list of Path
        The partitions, in order.

    Raises
    ------
    InvalidInput
        ``galaxies`` is not positive, ``folder`` already holds partitions or cannot be written, the
        data set is empty or is among the partitions it would make, or its catalogue has another
        length.
    PartitionNotFound, CorruptPartition, UnsafePickle
        ``source`` cannot be read.
    """
    if galaxies < 1:
        raise InvalidInput(f"galaxies per partition: a positive number expected, found {galaxies}")
    with (
        open_partition(source) as reader,
        staged_partitions(folder, overwrite=overwrite, keep=source) as staging,
    ):
        total = reader.num_samples
        if not total:
            raise InvalidInput(f"{source} holds no galaxies, so there is nothing to split")
        batches = Rebatched(iter(reader))
        cut = cut_of(reader, bands, side)
        metadata = (reader.metadata or {"split_from": source.name}) | cut.imaging.to_metadata()
        catalogue = _catalogue(reader, objects, keep)
        rejected = reader.rejected()
        names: list[str] = []
        for first in range(0, total, galaxies):
            count = min(galaxies, total - first)
            path = staging / f"{len(names) + 1}.pt"
            place = {"first_galaxy": first, "partition_galaxies": count}
            with PartitionWriter(
                path, count, metadata | place, shape=cut.shape, rejected=rejected
            ) as writer:
                for batch in batches.take(count):
                    writer.write(cut.images(batch), cut.magnitudes(batch), batch.redshift)
                    on_galaxies(len(batch))
                if catalogue is not None:
                    writer.write_catalogue(catalogue[first : first + count])
            if catalogue is not None:
                write_text_catalogue(path, catalogue[first : first + count])
            rejected = None  # one partition of the set holds them
            names.append(path.name)
    return [folder / name for name in names]


@dataclass(frozen=True)
class Cut:
    """What is taken of each galaxy of a partition."""

    shape: GalaxyShape
    imaging: Imaging
    channels: tuple[int, ...]
    magnitude_channels: tuple[int, ...] | None
    """None: all magnitudes."""

    def images(self, batch: Batch) -> NDArray[np.float32]:
        """Return the images of a batch."""
        image = middle(batch.image, self.shape.side)
        return image if self.channels == tuple(range(image.shape[1])) else image[:, self.channels]

    def magnitudes(self, batch: Batch) -> NDArray[np.float32]:
        """Return the magnitudes of a batch."""
        if self.magnitude_channels is None:
            return batch.magnitude
        return batch.magnitude[:, self.magnitude_channels]


def cut_of(reader: PartitionReader, bands: Sequence[str] = (), side: int | None = None) -> Cut:
    """Return what to take of a partition.

    Parameters
    ----------
    bands
        See :func:`~.bands.choose_bands`; by default all. Magnitudes in the same bands follow.
    side
        Pixels on a side to cut out of the middle; by default all.

    Raises
    ------
    InvalidInput
        The partition has no such bands, or is smaller.
    """
    shape, imaging = reader.shape, reader.imaging
    side = shape.side if side is None else side
    check_side(side, shape.side, shape.side, reader.name)
    if not bands:
        kept = imaging if imaging.stated else Imaging()
        return Cut(replace(shape, side=side), kept, tuple(range(shape.bands)), None)
    if not imaging.stated and len(bands) == shape.bands:
        imaging = Imaging()  # the user says what nobody had said
    choice = choose_bands(imaging.bands, shape.bands, bands, reader.name)
    wanted = [choice.names[channel] for channel in choice.channels]
    of_magnitudes = imaging.magnitude_bands
    if of_magnitudes is None and shape.magnitudes == shape.bands:
        of_magnitudes = choice.names
    picked = None
    if of_magnitudes is not None and set(wanted) <= set(of_magnitudes):
        picked = tuple(of_magnitudes.index(name) for name in wanted)
        of_magnitudes = choice.bands
    return Cut(
        GalaxyShape(len(choice.bands), side, shape.magnitudes if picked is None else len(picked)),
        replace(imaging, bands=choice.bands, magnitude_bands=of_magnitudes),
        choice.channels,
        picked,
    )


@contextmanager
def staged_partitions(folder: Path, *, overwrite: bool, keep: Path | None = None) -> Iterator[Path]:
    """Give a folder to write partitions into, and move them to ``folder`` when all are there.

    After an error ``folder`` is as it was. So it always holds one run's partitions and no other's.

    Parameters
    ----------
    folder
        Made if it is absent; may be a link or a mounted volume.
    overwrite
        Replace the numbered partitions that it already has.
    keep
        A file that must not be among those.

    Raises
    ------
    InvalidInput
        It holds partitions and ``overwrite`` is not set, ``keep`` is one of them, or the folder
        cannot be written.
    """
    with file_errors(folder), staging_folder(folder) as staging:
        there = [path for path in folder.glob("*") if _MADE.fullmatch(path.name)]
        if keep is not None and any(path.samefile(keep) for path in there):
            raise InvalidInput(f"{keep} is in {folder}, where its partitions would replace it")
        if there and not overwrite:
            raise InvalidInput(
                f"{folder} already holds {_named(there)}; choose an empty folder or pass "
                "--overwrite"
            )
        yield staging
        replace_files(staging, folder, there)


def _named(files: Sequence[Path]) -> str:
    """Count the partitions among files of an earlier run; without any, name one of the files."""
    partitions = sorted(path.name for path in files if path.suffix == ".pt")
    if not partitions:
        return min(path.name for path in files)
    noun = "partition" if len(partitions) == 1 else "partitions"
    return f"{len(partitions)} {noun}, such as {partitions[0]}"


class _Cuttable(Protocol):
    """Consecutive galaxies."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Self: ...


T = TypeVar("T", bound=_Cuttable)


class Rebatched(Generic[T]):
    """Batches divided again at the borders of partitions."""

    def __init__(self, batches: Iterator[T]) -> None:
        self._batches = batches
        self._left: T | None = None

    def take(self, count: int) -> Iterator[T]:
        """Yield the next ``count`` galaxies."""
        while count:
            batch = self._left or next(self._batches)
            head, self._left = batch[:count], batch[count:]
            count -= len(head)
            yield head


def _catalogue(
    reader: PartitionReader, objects: Path | None, keep: Sequence[str]
) -> Catalogue | None:
    """Return the catalogue of the whole data set: the user's table, or the file's own."""
    if objects is None:
        if keep:
            raise InvalidInput("columns to keep: a catalogue that has them expected, found none")
        return reader.catalogue()
    from cosmicai_workbench.data.fits.objects import carried_columns
    from cosmicai_workbench.data.fits.tables import read_table

    table = read_table(objects)
    if len(table) != reader.num_samples:
        raise InvalidInput(
            f"{objects}: a row for each of {reader.num_samples} galaxies expected, found "
            f"{len(table)} rows"
        )
    return carried_columns(table, keep)
