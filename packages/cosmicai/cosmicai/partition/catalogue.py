"""The catalogue inside a partition: which object each galaxy is, and what its owner wants back.

A ``.pt`` file of ours holds a record ``extra/catalogue.jsonl`` beside its tensors, which torch
leaves alone: one JSON object that describes the columns, then one JSON array per galaxy. The
columns ``object_id``, ``ra`` and ``dec`` are known by these names; any others belong to the user
and are carried as they are. A record ``extra/rejected.jsonl`` lists in the same way the objects of
the data set that are in no partition, with the reason in a column ``rejected_because``.

Predictions carry these columns on, so that results need no other file to identify their galaxies.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cosmicai.errors import CosmicAIError, load_json
from cosmicai.partition.imaging import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

REJECTED_RECORD: Final = "extra/rejected.jsonl"

MAX_BYTES: Final = 256 * 1024 * 1024
MAX_COLUMNS: Final = 64
MAX_TEXT: Final = 256
"""Characters of a text value, a column's name or its description."""
_CHUNK_ROWS: Final = 4096
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "int64": (int,),
    "uint64": (int,),
    "float64": (int, float),
    "float32": (int, float),
    "bool": (bool,),
    "str": (str,),
}
DTYPES: Final = tuple(_KINDS)


class CatalogueError(CosmicAIError):
    """A catalogue record is damaged, too large, or not of the documented form."""


@dataclass(frozen=True)
class ColumnInfo:
    """What a column of a catalogue holds.

    Attributes
    ----------
    name
        Its name; ``object_id``, ``ra`` and ``dec`` have the usual meaning.
    dtype
        One of ``int64``, ``uint64``, ``float64``, ``float32``, ``bool``, ``str``.
    unit
        As in the FITS standard, such as ``deg``; empty where it has none.
    description
        For people.
    """

    name: str
    dtype: str
    unit: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        """Check the values, which may come from a file.

        Raises
        ------
        CatalogueError
            One of them is out of range.
        """
        if self.dtype not in _KINDS:
            raise CatalogueError(
                f"column {self.name!r:.80}: dtype {', '.join(DTYPES)} expected, "
                f"found {self.dtype!r:.80}"
            )
        texts = (self.name, self.unit, self.description)
        if any(type(text) is not str or len(text) > MAX_TEXT for text in texts) or not self.name:
            raise CatalogueError(
                f"a column's name, unit and description: text of at most {MAX_TEXT} characters "
                f"expected, found {self.name!r:.80}"
            )


RA: Final = ColumnInfo("ra", "float64", "deg", "right ascension (ICRS)")
REASON: Final = ColumnInfo("rejected_because", "str", "", "why the object is in no partition")
DEC: Final = ColumnInfo("dec", "float64", "deg", "declination (ICRS)")


@dataclass(frozen=True)
class Column:
    """The values of one column, one per galaxy.

    Attributes
    ----------
    info
        Name, type, unit and description.
    values
        (N,), of ``info.dtype`` (text as ``<U…``); any value, NaN for floats, where missing.
    missing
        bool (N,).
    """

    info: ColumnInfo
    values: NDArray[Any]
    missing: NDArray[np.bool_]

    def __getitem__(self, rows: Any) -> Column:
        """Return the same column of some rows."""
        return replace(self, values=self.values[rows], missing=self.missing[rows])

    def masked(self) -> np.ma.MaskedArray[Any, Any]:
        """Return the values as a masked array."""
        return np.ma.MaskedArray(self.values, self.missing)

    def plain(self) -> list[Any]:
        """Return plain Python values, None where missing."""
        pairs = zip(self.values.tolist(), self.missing.tolist(), strict=True)
        return [None if missing else value for value, missing in pairs]


def column_of(info: ColumnInfo, values: Iterable[Any]) -> Column:
    """Make a column of plain values; None and values that are not finite count as missing.

    Raises
    ------
    CatalogueError
        A value is of another type, out of the type's range, or too long.
    """
    kinds = _KINDS[info.dtype]
    plain = list(values)
    for value in plain:
        if value is not None and type(value) not in kinds:
            raise CatalogueError(
                f"column {info.name!r}: {info.dtype} expected, found {type(value).__name__}"
            )
        if type(value) is str and (len(value) > MAX_TEXT or "\0" in value):
            raise CatalogueError(
                f"column {info.name!r}: text of at most {MAX_TEXT} characters, without NUL, "
                f"expected, found {len(value)} characters"
            )
    filler = _filler(info.dtype)
    filled = [filler if value is None else value for value in plain]
    try:
        with np.errstate(over="ignore"):
            array = np.array(filled, dtype=np.str_ if info.dtype == "str" else info.dtype)
    except (OverflowError, ValueError) as error:
        raise CatalogueError(f"column {info.name!r}: {info.dtype} expected: {error}") from error
    missing = np.array([value is None for value in plain], dtype=bool)
    if info.dtype.startswith("float"):
        missing |= ~np.isfinite(array)
        array[missing] = np.nan
    return Column(info, array, missing)


class Catalogue:
    """Columns of equal length, one row per galaxy.

    Parameters
    ----------
    columns
        In order; names may not repeat.
    rows
        How many galaxies, for a catalogue without columns.

    Raises
    ------
    CatalogueError
        Names repeat, lengths differ, or there are more than 64 columns.
    """

    def __init__(self, columns: Iterable[Column], rows: int | None = None) -> None:
        found = tuple(columns)
        self.columns: Mapping[str, Column] = {column.info.name: column for column in found}
        lengths = {len(column.values) for column in found} | ({rows} - {None})
        if len(self.columns) != len(found) or len(lengths) > 1 or len(found) > MAX_COLUMNS:
            raise CatalogueError(
                f"at most {MAX_COLUMNS} columns of one length and with different names expected"
            )
        self._rows: int = next(iter(lengths), 0) or 0

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, rows: slice | NDArray[Any]) -> Catalogue:
        """Return the catalogue of some rows."""
        count = len(np.empty(self._rows, np.bool_)[rows])
        return Catalogue((column[rows] for column in self.columns.values()), count)

    def to_arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return arrays for an ``.npz`` file, without objects in them.

        ``<prefix>`` describes the columns as JSON; ``<prefix>.<n>`` holds the values of the n-th
        and ``<prefix>.<n>.missing``, where there are any, which of them are missing.
        """
        infos = [asdict(column.info) for column in self.columns.values()]
        arrays: dict[str, NDArray[Any]] = {
            prefix: np.array(json.dumps({"rows": len(self), "columns": infos}))
        }
        for number, column in enumerate(self.columns.values()):
            arrays[f"{prefix}.{number}"] = column.values
            if column.missing.any():
                arrays[f"{prefix}.{number}.missing"] = column.missing
        return arrays


def named(names: Sequence[str]) -> Catalogue:
    """Return a catalogue that says nothing but what its objects are called."""
    return Catalogue([column_of(ColumnInfo("object_id", "str"), names)], len(names))


def from_arrays(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Catalogue | None:
    """Read what :meth:`Catalogue.to_arrays` gave; None where there is none.

    Raises
    ------
    CatalogueError
        The arrays are not of that form.
    """
    if prefix not in arrays:
        return None
    rows, infos = _header(str(arrays[prefix]))
    columns = []
    for number, info in enumerate(infos):
        values = arrays.get(f"{prefix}.{number}")
        missing = arrays.get(f"{prefix}.{number}.missing", np.zeros(rows, bool))
        if values is None or values.shape != (rows,) or missing.shape != (rows,):
            raise CatalogueError(f"column {info.name!r}: {rows} values expected")
        expected = np.dtype(np.str_ if info.dtype == "str" else info.dtype)
        if values.dtype.kind != expected.kind or missing.dtype != bool:
            raise CatalogueError(f"column {info.name!r}: {info.dtype} expected")
        columns.append(Column(info, values, missing))
    return Catalogue(columns, rows)


def concatenate(catalogues: Sequence[Catalogue]) -> Catalogue:
    """Join catalogues, one after the other.

    A column that one of them lacks is missing there; one that has several types becomes float64 if
    all are floats, or else text, so that no value is rounded.
    """
    infos: dict[str, ColumnInfo] = {}
    for catalogue in catalogues:
        for name, column in catalogue.columns.items():
            known = infos.setdefault(name, column.info)
            if known.dtype != column.info.dtype:
                floats = {known.dtype, column.info.dtype} == {"float32", "float64"}
                infos[name] = replace(known, dtype="float64" if floats else "str")
    return Catalogue(
        (_joined(info, catalogues) for info in infos.values()), sum(map(len, catalogues))
    )


def _joined(info: ColumnInfo, catalogues: Sequence[Catalogue]) -> Column:
    values: list[NDArray[Any]] = []
    missing: list[NDArray[np.bool_]] = []
    dtype = np.str_ if info.dtype == "str" else info.dtype
    for catalogue in catalogues:
        column = catalogue.columns.get(info.name)
        if column is None:
            values.append(np.full(len(catalogue), _filler(info.dtype), dtype))
            missing.append(np.ones(len(catalogue), bool))
        else:
            values.append(column.values.astype(dtype, copy=False))
            missing.append(column.missing)
    if not values:
        return Column(info, np.empty(0, dtype), np.empty(0, bool))
    return Column(info, np.concatenate(values), np.concatenate(missing))


def lines(catalogue: Catalogue) -> Iterator[bytes]:
    """Yield the rows as the lines of a record, without the header."""
    for first in range(0, len(catalogue), _CHUNK_ROWS):
        part = catalogue[first : first + _CHUNK_ROWS]
        columns = [column.plain() for column in part.columns.values()]
        for row in zip(*columns, strict=True) if columns else [()] * len(part):
            yield json.dumps(row, ensure_ascii=False).encode() + b"\n"


def header_line(columns: Iterable[ColumnInfo], rows: int) -> bytes:
    """Return the first line of a record."""
    header = {"rows": rows, "columns": [asdict(info) for info in columns]}
    return json.dumps(header, ensure_ascii=False).encode() + b"\n"


def parse(record: bytes) -> Catalogue:
    """Read a record.

    Work and memory are linear in its length.

    Raises
    ------
    CatalogueError
        It is not of the documented form; the message says what was expected.
    """
    at = record.find(b"\n") + 1
    if not at:
        raise CatalogueError("a line that describes the columns expected, found none")
    rows, infos = _header(_decoded(record[: at - 1]))
    parts: list[Catalogue] = []
    chunk: list[list[Any]] = []
    found = 0
    while at < len(record):
        end = record.find(b"\n", at, at + MAX_LINE)
        if end < 0:
            raise CatalogueError(f"row {found}: a line of at most {MAX_LINE} bytes expected")
        row = _json(_decoded(record[at:end]))
        if not isinstance(row, list) or len(row) != len(infos):
            raise CatalogueError(f"row {found}: a list of {len(infos)} values expected")
        chunk.append(row)
        found += 1
        at = end + 1
        if len(chunk) == _CHUNK_ROWS:
            parts.append(_rows_to_catalogue(infos, chunk))
            chunk = []
    if found != rows:
        raise CatalogueError(f"{rows} rows expected, found {found}")
    parts.append(_rows_to_catalogue(infos, chunk))
    return concatenate(parts)


def _rows_to_catalogue(infos: tuple[ColumnInfo, ...], rows: list[list[Any]]) -> Catalogue:
    columns = zip(*rows, strict=True) if rows else ((),) * len(infos)
    return Catalogue(
        (column_of(info, values) for info, values in zip(infos, columns, strict=True)), len(rows)
    )


def _header(text: str) -> tuple[int, tuple[ColumnInfo, ...]]:
    header = _json(text) if len(text) <= MAX_LINE else None
    rows = header.get("rows") if isinstance(header, dict) else None
    columns = header.get("columns") if isinstance(header, dict) else None
    if type(rows) is not int or rows < 0 or not isinstance(columns, list):
        raise CatalogueError('a header {"rows": …, "columns": […]} expected')
    if len(columns) > MAX_COLUMNS:
        raise CatalogueError(f"at most {MAX_COLUMNS} columns expected, found {len(columns)}")
    try:
        return rows, tuple(ColumnInfo(**column) for column in columns)
    except TypeError:
        raise CatalogueError("columns with name, dtype, unit and description expected") from None


def _json(text: str) -> Any:
    try:
        return load_json(text)
    except ValueError as error:
        raise CatalogueError(f"JSON expected: {error}") from error


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise CatalogueError("UTF-8 expected") from error


def _filler(dtype: str) -> Any:
    """Return the placeholder of a missing value."""
    if dtype == "str":
        return ""
    return float("nan") if dtype.startswith("float") else 0
