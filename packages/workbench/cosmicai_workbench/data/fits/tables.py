"""Tables as users have them: CSV, FITS, VOTable, ECSV, Parquet, recognised by their content.

Types are kept: whole numbers stay whole, and text stays text, leading zeros included.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import re
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.partition.catalogue import CatalogueError, Column, ColumnInfo, column_of

from cosmicai_workbench.files import file_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_FORMATS = (
    (re.compile(rb"SIMPLE  ="), "fits"),
    (re.compile(rb"\s*<(\?xml|VOTABLE)"), "votable"),
    (re.compile(rb"# %ECSV"), "ascii.ecsv"),
    (re.compile(rb"PAR1"), "parquet"),
)
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)([.]0*)?")
"""Whole numbers, perhaps as a column of real numbers writes them; ``+7`` and ``1e5`` are names."""
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_NO_TEXT = frozenset(("", "null"))
_NO_NUMBER = frozenset((*_NO_TEXT, "nan", "none", "na", "n/a", "--", "\\n"))
"""What programs write where a cell has no value, in lower case."""
_LARGEST_EXACT = 2.0**53


@dataclass(frozen=True)
class Field:
    """One column as it was read.

    Attributes
    ----------
    name
        As in the file.
    values
        Masked array (N,) or (N, k) of numbers, booleans or text (``<U…``).
    unit
        As in the file; empty where it has none.
    cells
        The values as written in a text file; None for other files.
    """

    name: str
    values: np.ma.MaskedArray[Any, Any]
    unit: str = ""
    cells: tuple[str, ...] | None = None

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Which values are missing; NaN counts as missing."""
        mask = np.ma.getmaskarray(self.values)
        if self.values.dtype.kind == "f":
            mask = mask | np.isnan(self.values.data)
        return np.asarray(mask, dtype=bool)

    @property
    def is_text(self) -> bool:
        """Whether the values are text."""
        return bool(self.values.dtype.kind == "U")


class UserTable:
    """A table of the user's.

    Parameters
    ----------
    path
        Where it was read from, for messages.
    fields
        Its columns.
    """

    def __init__(self, path: Path, fields: Sequence[Field]) -> None:
        self.path = path
        self.fields = {field.name: field for field in fields}
        self._by_name: dict[str, list[str]] = {}
        for field in fields:
            self._by_name.setdefault(field.name.strip().lower(), []).append(field.name)

    def __len__(self) -> int:
        return next((len(field.values) for field in self.fields.values()), 0)

    def find(self, candidates: Sequence[str]) -> Field | None:
        """Return the first column that has one of these names, in any case.

        Raises
        ------
        InvalidInput
            Several columns have such a name.
        """
        for name in candidates:
            found = self._by_name.get(name.lower(), [])
            if len(found) > 1:
                raise InvalidInput(f"{self.path}: one column {name} expected, found {found}")
            if found:
                return self.fields[found[0]]
        return None

    def numbers(self, field: Field) -> NDArray[np.float64]:
        """Return a column as float64 (N,) or (N, k), NaN where missing.

        Raises
        ------
        InvalidInput
            It is not numbers.
        """
        try:
            values = np.ma.filled(field.values.astype(np.float64), np.nan)
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                f"{self.path}: column {field.name} is not numbers: {error}"
            ) from error
        return np.array(values, dtype=np.float64)

    def carried(self, field: Field, name: str | None = None) -> Column:
        """Return a column as partitions carry it, its type kept.

        Parameters
        ----------
        field
            The column.
        name
            The name it gets; its own by default.

        Raises
        ------
        InvalidInput
            It holds vectors, or text that is too long.
        """
        values = field.values
        if values.ndim != 1:
            raise InvalidInput(
                f"{self.path}: column {field.name}: one value per row expected, found "
                f"{values.shape[1:]}"
            )
        kinds = {"i": "int64", "u": "uint64", "b": "bool", "U": "str"}
        single = values.dtype.kind == "f" and values.dtype.itemsize <= 4
        dtype = kinds.get(values.dtype.kind, "float32" if single else "float64")
        own = name or field.name.strip()
        source = "" if own == field.name else f"column {field.name} of "
        try:
            info = ColumnInfo(own, dtype, field.unit, f"{source}{self.path.name}"[-256:])
            pairs = zip(values.data.tolist(), field.missing.tolist(), strict=True)
            return column_of(info, (None if missing else value for value, missing in pairs))
        except CatalogueError as error:
            raise InvalidInput(f"{self.path}: {error}") from error

    def identifiers(self, field: Field) -> Column:
        """Return the column of object names, which may be missing but not repeated.

        Raises
        ------
        InvalidInput
            Two objects have one name, or the names are numbers that were rounded.
        """
        values, missing = field.values, field.missing
        there = values.data[~missing]
        if values.dtype.kind == "f" and there.size and np.abs(there).max() >= _LARGEST_EXACT:
            raise InvalidInput(
                f"{self.path}: column {field.name} holds floating-point numbers such as "
                f"{np.abs(there).max():.15g}, which cannot tell such long names apart; write "
                "it as whole numbers or text"
            )
        if field.cells is not None and not all(
            no or _PLAIN_NUMBER.fullmatch(cell)
            for cell, no in zip(field.cells, missing, strict=True)
        ):
            field = Field(field.name, np.ma.MaskedArray(np.array(field.cells, np.str_), missing))
        elif values.dtype.kind == "f" and (there == np.rint(there)).all():
            whole = np.where(missing, 0, values.data).astype(np.int64)
            field = Field(field.name, np.ma.MaskedArray(whole, missing))
        column = self.carried(field, "object_id")
        names = column.values[~column.missing]
        found, counts = np.unique(names, return_counts=True)
        if len(found) < len(names):
            first = found[counts > 1][0]
            raise InvalidInput(
                f"{self.path}: column {field.name}: a name of its own for every object expected, "
                f"found {str(first)!r} twice; names repeated: {len(names) - len(found):,}"
            )
        return column


def read_table(path: Path) -> UserTable:
    """Read a table of any of the formats, also inside ``.gz`` or ``.bz2``.

    Raises
    ------
    InvalidInput
        If there is no such file, it cannot be read, or it has no rows.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: a catalogue expected, found no file")
    try:
        with file_errors(path):
            content = path.read_bytes()
        for magic, unpack in ((b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress)):
            if content.startswith(magic):
                content = unpack(content)
        form = next((name for start, name in _FORMATS if start.match(content)), None)
        found = _text_fields(path, content) if form is None else _fields(content, form)
        fields = list(found)
    except (OSError, EOFError, ValueError, TypeError, IndexError, KeyError) as error:
        raise InvalidInput(f"{path} cannot be read as a catalogue: {error}") from error
    table = UserTable(path, fields)
    if not len(table):
        raise InvalidInput(f"{path}: at least one object expected, found none")
    return table


def _fields(content: bytes, form: str) -> Iterator[Field]:
    from astropy.table import Table

    table = Table.read(BytesIO(content), format=form)
    for name in table.colnames:
        column = table[name]
        values = np.ma.MaskedArray(column)
        if values.dtype.kind in "SO":
            values = _decoded(values)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]  # as IDL writes columns of single values
        if values.dtype.kind == "U":
            values = np.ma.MaskedArray(np.char.strip(values.data), np.ma.getmaskarray(values))
        yield Field(str(name), values, str(column.unit or ""))


def _decoded(values: np.ma.MaskedArray[Any, Any]) -> np.ma.MaskedArray[Any, Any]:
    """Return text in place of bytes and of Python objects, None as missing."""
    none = [value is None for value in values.data.flat]
    mask = np.ma.getmaskarray(values) | np.array(none, bool).reshape(values.shape)
    plain = [
        value.decode() if isinstance(value, bytes) else str(value) for value in values.data.flat
    ]
    text = np.array(plain, dtype=np.str_).reshape(values.shape)
    return np.ma.MaskedArray(text, mask)


def _text_fields(path: Path, content: bytes) -> Iterator[Field]:
    """Read comma-separated text; lines that begin with ``#`` before the header are comments."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path}: CSV in UTF-8, FITS, VOTable, ECSV or Parquet expected; byte {error.start} is "
            "none of them"
        ) from error
    lines = text.splitlines()
    comments = 0
    while comments < len(lines) and (not lines[comments].strip() or lines[comments][0] == "#"):
        comments += 1
    rows = [
        row
        for row in csv.reader(StringIO("\n".join(lines[comments:])), skipinitialspace=True)
        if row
    ]
    header = [name.strip() for name in rows[0]] if rows else []
    if len(set(header)) != len(header):
        raise InvalidInput(f"{path}: columns with different names expected, found {header}")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise InvalidInput(
                f"{path}: row {number} has {len(row)} values, and the header {len(header)}"
            )
    for name, *cells in zip(*rows, strict=True) if len(rows) > 1 else ():
        texts = tuple(cell.strip() for cell in cells)
        yield Field(name.strip(), _typed(texts), cells=texts)


def _typed(cells: tuple[str, ...]) -> np.ma.MaskedArray[Any, Any]:
    """Return the cells of a column as whole numbers, numbers or text: the first that fits all."""
    low = [cell.lower() for cell in cells]
    missing = np.array([cell in _NO_NUMBER for cell in low])
    there = [cell for cell, no in zip(cells, missing, strict=True) if not no]
    try:
        if there and all(map(_WHOLE.fullmatch, there)):
            whole = [0 if no else int(cell) for cell, no in zip(cells, missing, strict=True)]
            large = max(whole) > np.iinfo(np.int64).max
            return np.ma.MaskedArray(np.array(whole, np.uint64 if large else np.int64), missing)
        if not any(_is_no_number(cell) for cell in there):
            floats = [float("nan") if no else float(cell) for cell, no in zip(cells, missing)]  # noqa: B905
            return np.ma.MaskedArray(np.array(floats), missing)
    except (ValueError, OverflowError):
        pass
    return np.ma.MaskedArray(np.array(cells, np.str_), [cell in _NO_TEXT for cell in low])


def _is_no_number(cell: str) -> bool:
    """Tell ``000123`` and ``1_000``, which are names, from ``0.5`` and ``00.5``, numbers."""
    leading_zero = cell.isdigit() and cell[0] == "0" and len(cell) > 1
    return leading_zero or "_" in cell or not cell.isascii()
