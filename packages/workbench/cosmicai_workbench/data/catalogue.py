"""The catalogue of a partition as a text file, for people and spreadsheets.

``N.catalogue.csv`` is beside ``N.pt`` and repeats the catalogue that the partition itself holds
(:mod:`cosmicai.partition.catalogue`), one row per galaxy. Nothing here reads it.
"""

import csv
from pathlib import Path
from typing import Any

from cosmicai.partition.catalogue import Catalogue

from cosmicai_workbench.files import whole_text_file

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def catalogue_path(partition: Path) -> Path:
    """Return the path of the text file that belongs to ``partition``."""
    return partition.with_suffix(".catalogue.csv")


def is_catalogue(key: str) -> bool:
    """Say whether a name is that of a partition's text file."""
    return key.endswith(".catalogue.csv")


def write_text_catalogue(partition: Path, catalogue: Catalogue) -> None:
    """Write the text file of ``partition``; whole or not at all."""
    index = range(len(catalogue))
    columns = [index, *(column.plain() for column in catalogue.columns.values())]
    write_rows(catalogue_path(partition), ("index", *catalogue.columns), zip(*columns, strict=True))


def write_rows(path: Path, header: Any, rows: Any) -> None:
    """Write a CSV file that a spreadsheet opens without running anything in it."""
    with whole_text_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in (header, *rows):
            writer.writerow([spreadsheet_safe(value) for value in row])


def spreadsheet_safe(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula.

    Text that begins like one gets an apostrophe in front; numbers are left alone, also those that
    are written as text.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA_STARTS):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
