"""The catalogue of a run: one row per object of its data set, put together block by block."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from cosmicai.columns import Column, StoredColumn, columns_of, columns_with
from cosmicai.errors import CorruptPartition, UnsafePickle
from cosmicai.flags import DUPLICATE, FAILED_RANK, NO_PREDICTION
from cosmicai.partition.catalogue import REASON, Catalogue, concatenate

from cosmicai_workbench.data.object_keys import object_keys, repeated
from cosmicai_workbench.data.uploading import etag_of
from cosmicai_workbench.results.failed import Listed, list_partition, partitions_of, stored_failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cosmicai.model.interface import Distribution
    from cosmicai.schema import FailedRank, RankRecord
    from numpy.typing import NDArray

    from cosmicai_workbench.results.run_folder import Predictions, Run

    Masked = np.ma.MaskedArray[Any, Any]

UNPREDICTABLE: Final = "no prediction: a pixel or a magnitude is missing"
FAILED: Final = "its rank failed"
_DAMAGED: Final = (CorruptPartition.__name__, UnsafePickle.__name__)
"""Errors of a rank after which what could not be read was damaged: no good copy has its content."""
BLOCK_ROWS: Final = 65_536
"""Ranks are read together until they have about this many galaxies."""
HEALPIX_ORDER: Final = 29
"""Of the column ``healpix``: the finest order that fits 64 bits, and that of HATS."""


@dataclass(frozen=True)
class CatalogueTable:
    """Rows of a catalogue.

    Attributes
    ----------
    columns
        Name → declaration: the catalogue's own, then those that the partitions carry.
    values
        Name → masked array (N,), or (N, k) for vectors.
    raw
        (N, n) values of the distributions, as ``output`` of the catalogue describes them; NaN where
        there is none. None of a model without distributions.
    """

    columns: dict[str, Column]
    values: dict[str, Masked]
    raw: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))

    @property
    def distributions(self) -> NDArray[Any]:
        """What ``raw`` is, of a catalogue that was asked for it."""
        if self.raw is None:
            raise RuntimeError("distributions were not asked for")
        return self.raw

    def __getitem__(self, rows: slice | NDArray[Any]) -> CatalogueTable:
        """Return some of the rows."""
        values = {name: found[rows] for name, found in self.values.items()}
        return CatalogueTable(self.columns, values, None if self.raw is None else self.raw[rows])


@dataclass(frozen=True)
class _Rows:
    """Rows before they are brought to the catalogue's columns."""

    carried: Catalogue
    known: Mapping[str, NDArray[Any]]
    """Name → values of what the run knows of them."""
    nameless: NDArray[np.bool_] | None = None
    """Whose ``object_id`` was made up, since no catalogue names them."""
    raw: NDArray[Any] | None = None

    def columns(self) -> Iterator[tuple[str, NDArray[Any], int]]:
        """Yield a key for each column, its values, and how many of them are missing."""
        for name, column in self.carried.columns.items():
            yield name, column.values, int(column.missing.sum())
        for name, values in self.known.items():
            yield f"known {name}", values, int(np.sum(np.ma.getmask(values)))

    def named(self) -> NDArray[np.bool_]:
        """Say of each row whether its object has an identifier of its own."""
        own = self.carried.columns.get("object_id")
        if own is None:
            return np.zeros(len(self.carried), bool)
        return ~own.missing if self.nameless is None else ~(own.missing | self.nameless)

    def ids(self) -> NDArray[Any]:
        """Return the identifiers of the objects that have one."""
        own = self.carried.columns.get("object_id")
        return np.empty(0, np.int64) if own is None else own.values[self.named()]


class Source(Protocol):
    """What a catalogue is written from."""

    @property
    def columns(self) -> dict[str, Column]:
        """Name → declaration of each column."""

    @property
    def num_rows(self) -> int:
        """Objects in it."""

    @property
    def incomplete(self) -> set[str]:
        """Columns that lack values in some rows."""

    @property
    def widths(self) -> dict[str, int]:
        """Text column → characters of its longest value in ASCII."""

    @property
    def escaped(self) -> set[str]:
        """Text columns with characters outside ASCII."""

    @property
    def positions(self) -> tuple[str, str, str]:
        """Columns of right ascension, declination and HEALPix index."""

    @property
    def output(self) -> Distribution | None:
        """What ``raw`` of the blocks means, if they have any."""

    def blocks(self) -> Iterator[CatalogueTable]:
        """Yield the rows, in order, some at a time."""

    def empty(self) -> CatalogueTable:
        """Return no rows, in the columns that :meth:`blocks` have."""


def joined(catalogue: Source) -> CatalogueTable:
    """Return all rows of a catalogue at once."""
    blocks = [block.values for block in (catalogue.empty(), *catalogue.blocks())]
    return CatalogueTable(
        catalogue.columns,
        {name: _concatenated([block[name] for block in blocks]) for name in catalogue.columns},
    )


def _concatenated(parts: Sequence[Masked]) -> Masked:
    return np.ma.MaskedArray(
        np.concatenate([np.ma.getdata(part) for part in parts]),
        np.concatenate([np.ma.getmaskarray(part) for part in parts]),
    )


class RunCatalogue:
    """The catalogue of a run: predicted galaxies, then rejected objects, then failed ranks'.

    Making one reads the run once, for its columns, its length, and objects that come twice;
    :meth:`blocks` reads it again. Memory holds one block, and eight bytes per object.

    Parameters
    ----------
    run
        A finished run.
    data
        Folder with the partitions of failed ranks, for runs whose folder does not name their
        objects. Files that are not what the run was to read are passed over.
    distributions
        Whether blocks have ``raw``.

    Attributes
    ----------
    num_rows
        Objects in it.
    columns
        Name → declaration of each column.
    incomplete
        Columns that lack values in some rows.
    widths
        Text column → characters of its longest value in ASCII (:func:`ascii_text`).
    escaped
        Text columns with characters outside ASCII.
    output
        What ``raw`` of the blocks means; None of a model without distributions.
    unlisted
        Partitions of failed ranks whose objects cannot be listed.

    Raises
    ------
    InvalidInput
        The predictions cannot be read.
    PartitionNotFound, CorruptPartition, UnsafePickle
        A failed rank's partition in ``data`` cannot be read.
    """

    positions = ("ra", "dec", "healpix")

    def __init__(self, run: Run, data: Path | None = None, *, distributions: bool = False) -> None:
        self.run = run
        self._data = data
        self._distributions = False  # only the second reading needs them
        self.output: Distribution | None = None
        self._groups = _groups(run.records)
        self._empty = Catalogue(())
        self.num_rows = 0
        self.unlisted: list[str] = []
        self.unflagged = 0
        filled: Counter[str] = Counter()
        widths: Counter[str] = Counter()
        escaped: set[str] = set()
        stored = dict[str, None].fromkeys(columns_of(None))  # also where every rank failed
        numbers: list[NDArray[Any]] = []
        hashes: list[NDArray[np.int64]] = []
        for rows in self._rows():
            self.num_rows += len(rows.carried)
            self._empty = concatenate([self._empty, rows.carried[:0]])
            stored |= dict.fromkeys(rows.known)
            for key, values, missing in rows.columns():
                filled[key] += len(values) - missing
                self.unflagged += missing if key == "known flags" else 0
                widths[key] = max(widths[key], _width(values))
                escaped |= set() if _is_ascii(values) else {key}
            ids = rows.ids()
            if ids.dtype.kind in "iu":
                numbers.append(ids)
            else:
                hashes.append(object_keys(ids))
        if hashes:  # numbers beside text become text
            numbers = [part.astype(str) for part in numbers]
        self._duplicates = np.unique(repeated([*map(object_keys, numbers), *hashes]))
        known = columns_with(stored)
        self._labels = _labels([*self._empty.columns], {*known})
        self.columns = self._declared(stored, known)
        keys = {name: self._carried.get(name, f"known {name}") for name in self.columns}
        texts = [name for name, column in self.columns.items() if column.dtype == "str"]
        self.incomplete = {name for name in self.columns if filled[keys[name]] < self.num_rows}
        self.widths = {name: widths[keys[name]] for name in texts}
        self.escaped = {name for name in texts if keys[name] in escaped}
        self._distributions = distributions and self.output is not None

    def blocks(self) -> Iterator[CatalogueTable]:
        """Yield the rows, in order, some at a time."""
        for rows in self._rows():
            if len(rows.carried):
                yield self._block(rows)

    def empty(self) -> CatalogueTable:
        """Return no rows, in the columns that :meth:`blocks` have."""
        return self._block(_Rows(self._empty, {}))

    def table(self) -> CatalogueTable:
        """Return all rows at once."""
        return joined(self)

    @cached_property
    def _carried(self) -> dict[str, str]:
        """Label → name of the columns that the partitions carry."""
        return {label: name for name, label in self._labels.items()}

    def _declared(
        self, stored: Mapping[str, None], known: Mapping[str, Column]
    ) -> dict[str, Column]:
        columns = {
            name: column
            for name, column in known.items()
            if name in stored or not isinstance(column, StoredColumn)
        }
        for name, label in self._labels.items():
            info, declared = self._empty.columns[name].info, known.get(label)
            columns[label] = Column(
                name=label,
                dtype=info.dtype,
                description=info.description or (declared.description if declared else ""),
                ucd=declared.ucd if declared else "",
                unit=info.unit,
            )
        return columns

    def _rows(self) -> Iterator[_Rows]:
        rejected = []
        for ranks in self._groups:
            found = self.run.predictions_of(ranks, distributions=self._distributions)
            self.output = self.output or found.output
            rejected.append(found.rejected)
            yield _predicted(found)
        yield _rejected(concatenate(rejected))
        self.unlisted = []
        for rank in self.run.summary.failed_ranks:
            for listed in self._listed(rank):
                yield _failed(listed, rank)
                yield _rejected(listed.rejected)

    def _listed(self, rank: FailedRank) -> Iterator[Listed]:
        stored = stored_failed(self.run.path, rank)
        there = {listed.partition: listed for listed in stored.listed}
        for key, etag in partitions_of(rank):
            damaged = rank.error in _DAMAGED and key in stored.unread
            if key in there:
                yield there[key]
            elif path := self._given(key, etag, damaged=damaged):
                yield list_partition(key, path)
            else:
                self.unlisted.append(key)

    def _given(self, key: str, etag: str | None, *, damaged: bool) -> Path | None:
        """Return the partition in ``data``: what was planned, else a copy of a damaged one."""
        if self._data is None:
            return None
        planned = find_partition(self._data, key, etag)
        return planned or (find_partition(self._data, key, None) if damaged else None)

    def _block(self, rows: _Rows) -> CatalogueTable:
        carried = concatenate([self._empty, rows.carried])
        values: dict[str, Masked] = {}
        for label, column in self.columns.items():
            if label in self._carried:
                values[label] = carried.columns[self._carried[label]].masked()
            else:
                values[label] = _known(column, rows.known.get(label), len(carried))
        values["flags"] = self._with_duplicates(values["flags"], rows, carried)
        values["healpix"] = healpix(values["ra"], values["dec"])
        raw = rows.raw
        if raw is None and self.output and self._distributions:
            raw = np.full((len(carried), self.output.values), np.nan, np.float32)
        return CatalogueTable(self.columns, values, raw)

    def _with_duplicates(self, flags: Masked, rows: _Rows, carried: Catalogue) -> Masked:
        named = rows.named()
        if not len(self._duplicates) or not named.any():
            return flags
        twice = named & np.isin(object_keys(carried.columns["object_id"].values), self._duplicates)
        found = np.ma.getdata(flags) | np.where(twice, DUPLICATE.value, 0).astype(np.int32)
        return np.ma.MaskedArray(found, np.ma.getmaskarray(flags) & ~twice)


def _predicted(found: Predictions) -> _Rows:
    paths = np.array(found.data_paths or ("",), dtype=object)[found.partition]
    known = {
        "partition": paths,
        "rank": found.rank,
        "reason": np.where(np.isnan(found.redshift), UNPREDICTABLE, "").astype(object),
        **found.stored,
    }
    if found.unflagged.any():
        known["flags"] = np.ma.MaskedArray(found.stored["flags"], found.unflagged)
    return _Rows(found.catalogue, known, found.nameless, found.raw)


def _rejected(objects: Catalogue) -> _Rows:
    why = objects.columns.get(REASON.name)
    texts = [""] * len(objects) if why is None else [str(text) for text in why.values]
    return _Rows(objects, {"reason": _texts(texts), "flags": _flags(objects, NO_PREDICTION.value)})


def _failed(listed: Listed, rank: FailedRank) -> _Rows:
    count = len(listed.objects)
    known = {
        "partition": _texts([listed.partition] * count),
        "index": np.arange(count, dtype=np.int32),
        "rank": np.full(count, rank.rank, np.int32),
        "reason": _texts([f"{FAILED}: {rank.error}"] * count),
        "flags": _flags(listed.objects, FAILED_RANK.value),
    }
    return _Rows(listed.objects, known)


def _flags(objects: Catalogue, value: int) -> NDArray[np.int32]:
    return np.full(len(objects), value, np.int32)


def _texts(values: Sequence[str]) -> NDArray[Any]:
    return np.array([*values], dtype=object)


def find_partition(data: Path, key: str, etag: str | None) -> Path | None:
    """Return the file of a partition's key: the one whose path agrees with it the furthest.

    With an ETag, the file must have the content that was planned: another data set may have
    partitions of the same names.
    """
    parts = PurePosixPath(key).parts
    for first in range(len(parts)):
        path = data.joinpath(*parts[first:])
        if path.is_file() and etag in (None, etag_of(path)):
            return path
    return None


def healpix(ra: Masked, dec: Masked) -> Masked:
    """Return the nested HEALPix index at order 29 of positions in degrees; masked without one."""
    longitude, latitude = (np.ma.filled(values.astype(float), np.nan) for values in (ra, dec))
    known = np.isfinite(longitude) & (np.abs(latitude) <= 90)
    pixels = np.zeros(len(ra), np.int64)
    if known.any():  # else astropy, which takes half a second, need not be imported
        from astropy import units
        from astropy_healpix import lonlat_to_healpix

        pixels[known] = lonlat_to_healpix(
            longitude[known] * units.deg,
            latitude[known] * units.deg,
            2**HEALPIX_ORDER,
            order="nested",
        )
    return np.ma.MaskedArray(pixels, ~known)


def _groups(records: Sequence[RankRecord]) -> list[list[int]]:
    """Return the ranks that are read together."""
    groups: list[list[int]] = []
    rows = BLOCK_ROWS
    for record in records:
        if rows >= BLOCK_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(record.rank)
        rows += record.num_samples
    return groups


def _labels(carried: Sequence[str], computed: set[str]) -> dict[str, str]:
    """Return name → label of carried columns; one that is called like ours is set apart."""
    labels: dict[str, str] = {}
    for name in carried:
        if name == REASON.name:
            continue
        label = name
        if name in computed and name not in ("object_id", "ra", "dec"):
            label = f"{name}_input"
            while label in carried or label in computed:
                label += "_"
        labels[name] = label
    return labels


def _known(column: Column, values: NDArray[Any] | None, count: int) -> Masked:
    """Return the values of one of our columns, missing where the run does not know them."""
    if values is not None:
        return np.ma.MaskedArray(np.ma.getdata(values), np.ma.getmaskarray(values))
    dtype = np.dtype(object if column.dtype == "str" else column.dtype)
    filler: Any = "" if dtype.kind == "O" else np.nan if dtype.kind == "f" else 0
    # A real number that is missing is NaN everywhere, as where a galaxy could not be predicted.
    return np.ma.MaskedArray(np.full(count, filler, dtype), np.full(count, dtype.kind != "f"))


def _width(values: NDArray[Any]) -> int:
    """Return the characters of the longest value, in ASCII."""
    if not len(values):
        return 0
    if values.dtype.kind == "U" and _is_ascii(values):
        return int(np.char.str_len(values).max())
    if values.dtype.kind in "UO":
        return max(len(ascii_text(str(text))) for text in set(values.tolist()))
    return 32  # a number, which becomes text where other partitions have text


def _is_ascii(values: NDArray[Any]) -> bool:
    if values.dtype.kind == "U":
        return bool((np.ascontiguousarray(values).view(np.uint32) < 128).all())
    return values.dtype.kind != "O" or all(str(text).isascii() for text in set(values.tolist()))


def ascii_text(text: str) -> str:
    r"""Return a text in ASCII, other characters escaped as ``\x`` and ``\u``."""
    return text.encode("ascii", "backslashreplace").decode()
