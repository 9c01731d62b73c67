"""The catalogue beside a partition: which object on the sky each galaxy is.

``N.catalogue.csv`` lies beside ``N.pt``, one row a galaxy: index, object_id, ra, dec (degrees,
ICRS).
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from cosmicai.errors import InvalidInput

from cosmicai_workbench.data.files import whole_text_file

COLUMNS = ("index", "object_id", "ra", "dec")


@dataclass(frozen=True)
class CatalogueRow:
    """One galaxy of a partition: its index there, its name and its place on the sky."""

    index: int
    object_id: str
    ra: float
    dec: float


def catalogue_path(partition: Path) -> Path:
    """Return the path of the catalogue that belongs to ``partition``."""
    return partition.with_suffix(".catalogue.csv")


def write_catalogue(partition: Path, rows: Iterable[CatalogueRow]) -> None:
    """Write the catalogue of ``partition``; whole or not at all."""
    with whole_text_file(catalogue_path(partition)) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(row) for row in rows)


def read_catalogue(partition: Path) -> Iterator[CatalogueRow]:
    """Yield the rows of the catalogue of ``partition``, in its order.

    Raises
    ------
    InvalidInput
        The file has other columns, or a row cannot be read.
    """
    path = catalogue_path(partition)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        header = tuple(next(reader, ()))
        if header != COLUMNS:
            raise InvalidInput(f"{path}: columns {', '.join(COLUMNS)} expected, found {header}")
        for position, row in enumerate(reader):
            try:
                index, object_id, ra, dec = row
                yield CatalogueRow(int(index), object_id, float(ra), float(dec))
            except ValueError as error:
                raise InvalidInput(f"{path}, row {position + 1}: {row}: {error}") from error
