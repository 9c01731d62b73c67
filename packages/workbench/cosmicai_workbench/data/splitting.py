"""One data set into partitions of a given size."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from cosmicai.errors import InvalidInput
from cosmicai.facts import ARCHIVE_BYTES, GALAXY_BYTES, MB, galaxies_in
from cosmicai.partition.catalogue import Catalogue
from cosmicai.partition.reader import PartitionReader, open_partition

from cosmicai_workbench.data.catalogue import write_text_catalogue
from cosmicai_workbench.data.files import file_errors, replace_files, staging_folder
from cosmicai_workbench.data.partition_writer import PartitionWriter

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
        data set is empty or lies among the partitions it would make, or its catalogue has another
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
        metadata = reader.metadata or {"split_from": source.name}
        catalogue = _catalogue(reader, objects, keep)
        rejected = reader.rejected()
        names: list[str] = []
        for first in range(0, total, galaxies):
            count = min(galaxies, total - first)
            path = staging / f"{len(names) + 1}.pt"
            place = {"first_galaxy": first, "partition_galaxies": count}
            with PartitionWriter(
                path, count, metadata | place, shape=reader.shape, rejected=rejected
            ) as writer:
                for batch in batches.take(count):
                    writer.write(batch.image, batch.magnitude, batch.redshift)
                    on_galaxies(len(batch))
                if catalogue is not None:
                    writer.write_catalogue(catalogue[first : first + count])
            if catalogue is not None:
                write_text_catalogue(path, catalogue[first : first + count])
            rejected = None  # one partition of the set holds them
            names.append(path.name)
    return [folder / name for name in names]


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
    with file_errors(folder):
        there = [path for path in folder.glob("*") if _MADE.fullmatch(path.name)]
        if keep is not None and any(path.samefile(keep) for path in there):
            raise InvalidInput(f"{keep} is in {folder}, where its partitions would replace it")
        if there and not overwrite:
            raise InvalidInput(
                f"{folder} already holds {len(there)} partition files, such as {there[0].name}; "
                "choose an empty folder or pass --overwrite"
            )
        with staging_folder(folder) as staging:
            yield staging
            replace_files(staging, folder, there)


class _Cuttable(Protocol):
    """Consecutive galaxies."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Self: ...


T = TypeVar("T", bound=_Cuttable)


class Rebatched(Generic[T]):
    """Batches cut anew at the borders of partitions."""

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
