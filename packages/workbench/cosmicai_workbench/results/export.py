"""A run as a catalogue that astronomers open: Parquet, FITS or CSV."""

import json
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, get_args

import cosmicai
import numpy as np
from cosmicai.columns import COLUMNS, Column, StoredColumn
from cosmicai.errors import InvalidInput
from cosmicai.partition.catalogue import REASON, Catalogue, concatenate, named
from cosmicai.partition.reader import open_partition
from cosmicai.tables import to_arrow, to_pandas, to_table
from cosmicai.whole_files import whole_file

from cosmicai_workbench.data.catalogue import spreadsheet_safe
from cosmicai_workbench.data.files import file_errors, whole_text_file
from cosmicai_workbench.data.uploading import etag_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cosmicai_workbench.results.run_folder import Predictions, Run

Format = Literal["parquet", "fits", "csv"]

UNPREDICTABLE = "no prediction: a pixel or a magnitude is missing"
FAILED = "its rank failed"


@dataclass(frozen=True)
class CatalogueTable:
    """The catalogue of a run, one row per object.

    Attributes
    ----------
    columns
        Name → declaration: the catalogue's own, then those that the partitions carry.
    values
        Name → masked array (N,).
    """

    columns: dict[str, Column]
    values: "dict[str, np.ma.MaskedArray[Any, Any]]"

    def __len__(self) -> int:
        return int(self.values["index"].size)


def catalogue_of(run: "Run", data: Path | None = None) -> CatalogueTable:
    """Return the catalogue: predicted galaxies, then rejected objects, then those of failed ranks.

    Parameters
    ----------
    run
        A finished run.
    data
        Folder with the partitions of failed ranks, whose predictions do not tell their objects.
        Files that are not what the run was to read are passed over; see `unlisted_partitions`.

    Raises
    ------
    InvalidInput
        The predictions cannot be read.
    PartitionNotFound, CorruptPartition, UnsafePickle
        A failed rank's partition cannot be read.
    """
    found = run.predictions
    failed = [*_failed(run, data)]
    carried = concatenate([found.catalogue, found.rejected, *(part for _, part in failed)])
    paths = np.array(found.data_paths or ("",), dtype=object)[found.partition].tolist()
    paths += [""] * len(found.rejected)
    for key, part in failed:
        paths += [key] * len(part)
    known = {
        "partition": paths,
        "rank": found.rank,
        "reason": _reasons(found, sum(len(part) for _, part in failed)),
        **found.stored,
    }
    columns = {
        name: column
        for name, column in COLUMNS.items()
        if name in known or not isinstance(column, StoredColumn)
    }
    values = {name: _value(name, known, carried) for name in columns}
    for name, own in carried.columns.items():
        if name == REASON.name:
            continue
        declared = COLUMNS.get(name) if name not in known else None
        label = name if declared or name not in COLUMNS else f"{name}_input"
        columns[label] = Column(
            name=label,
            dtype=own.info.dtype,
            description=own.info.description or (declared.description if declared else ""),
            ucd=declared.ucd if declared else "",
            unit=own.info.unit,
        )
        values[label] = own.masked()
    return CatalogueTable(columns, values)


def _value(
    name: str, known: "Mapping[str, Any]", carried: Catalogue
) -> "np.ma.MaskedArray[Any, Any]":
    """Return the values of a declared column, missing where nothing says them."""
    column = COLUMNS[name]
    if name not in known and name in carried.columns:
        return carried.columns[name].masked()
    dtype = np.dtype(object if column.dtype == "str" else column.dtype)
    found = np.array(known.get(name, ()), dtype)
    padding = np.full(len(carried) - len(found), "" if dtype.kind == "O" else 0, dtype)
    if dtype.kind == "f":
        padding[:] = np.nan
    missing = np.arange(len(carried)) >= len(found)
    return np.ma.MaskedArray(np.concatenate((found, padding)), missing)


def unlisted_partitions(run: "Run", data: Path | None = None) -> list[str]:
    """Return the partitions of failed ranks whose objects the catalogue cannot list."""
    return [key for key, etag in _failed_keys(run) if data is None or not _find(data, key, etag)]


def _reasons(found: "Predictions", failed: int) -> list[str]:
    predicted = np.where(np.isnan(found.redshift), UNPREDICTABLE, "").tolist()
    rejected = found.rejected.columns.get(REASON.name)
    why = [] if rejected is None else [str(reason) for reason in rejected.values]
    return [*predicted, *why, *[FAILED] * failed]


def _failed_keys(run: "Run") -> "Iterator[tuple[str, str | None]]":
    """Yield the partitions of failed ranks, with their ETags where the run knows them."""
    for rank in run.summary.failed_ranks:
        paths, etags = (
            [value] if isinstance(value, str) else value or []
            for value in (rank.data_path, rank.data_etag)
        )
        yield from zip_longest(paths, etags)


def _failed(run: "Run", data: Path | None) -> "Iterator[tuple[str, Catalogue]]":
    """Yield the partitions of failed ranks that lie in ``data``, with their catalogues."""
    for key, etag in _failed_keys(run):
        path = _find(data, key, etag) if data is not None else None
        if path is None:
            continue
        with open_partition(path, batch_size=1) as reader:
            names = [f"{PurePosixPath(key).stem}#{index}" for index in range(reader.num_samples)]
            yield key, reader.catalogue() or named(names)


def _find(data: Path, key: str, etag: str | None) -> Path | None:
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


def provenance(run: "Run") -> dict[str, str]:
    """Return where the catalogue comes from; keys fit a FITS header."""
    summary = run.summary
    return {
        "RUNID": summary.execution.name,
        "EXECARN": summary.execution.id,
        "RUNDATE": summary.execution.start_time.isoformat(),
        "STATUS": summary.status,
        "MODELDIG": summary.model_digest or "unknown",
        "ENGINE": summary.engine or "unknown",
        "CODEVERS": f"cosmicai {cosmicai.__version__}",
        "NFAILED": str(summary.num_failed_ranks),
    }


def export(
    run: "Run", output: Path, form: Format, *, data: Path | None = None, overwrite: bool = False
) -> int:
    """Write the catalogue and return its number of rows.

    Provenance is stored in the metadata: the FITS header, the Parquet schema, and for CSV, which
    has no place for it, a JSON file beside it.

    Parameters
    ----------
    data
        Folder with the partitions of failed ranks; see :func:`catalogue_of`.

    Raises
    ------
    InvalidInput
        If the output exists or cannot be written, the format is unknown, or the predictions cannot
        be read.
    PartitionNotFound, CorruptPartition, UnsafePickle
        A failed rank's partition cannot be read.
    """
    if form not in get_args(Format):
        raise InvalidInput(f"--to: expected one of {', '.join(get_args(Format))}, found {form!r}")
    if output.exists() and not overwrite:
        raise InvalidInput(f"{output}: exists already; add --overwrite, or choose another --output")
    if data is not None and not data.is_dir():
        raise InvalidInput(f"--data {data}: no such folder")
    table = catalogue_of(run, data)
    writers = {"fits": _write_fits, "parquet": _write_parquet, "csv": _write_csv}
    with file_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as unfinished:
            writers[form](unfinished, table, provenance(run))
            if form == "csv":
                beside = output.with_name(f"{output.name}.provenance.json")
                with whole_text_file(beside) as file:
                    file.write(json.dumps(provenance(run), indent=2) + "\n")
    return len(table)


def _write_fits(path: Path, table: CatalogueTable, meta: dict[str, str]) -> None:
    from astropy.io import fits

    comments = {name: column.description for name, column in table.columns.items()}
    values = dict(table.values)
    for name, column in table.columns.items():
        if column.dtype == "str":
            values[name], changed = _ascii(values[name])
            if changed:
                comments[name] += " (characters outside ASCII as \\x, \\u)"
        elif column.dtype == "bool" and np.ma.is_masked(values[name]):
            # astropy writes no missing logical values.
            values[name] = np.ma.MaskedArray(values[name], dtype=np.int16)
        if values[name].dtype.kind in "iu":
            # What stands for a missing number: no identifier is that low, or that high.
            limits = np.iinfo(values[name].dtype)
            unsigned = values[name].dtype.kind == "u"
            values[name].fill_value = limits.max if unsigned else limits.min
    hdu = fits.table_to_hdu(to_table(values, meta, table.columns))
    # Where TOPCAT looks for them; astropy would write a block of YAML that only astropy reads.
    for number, (name, column) in enumerate(table.columns.items(), start=1):
        hdu.header[f"TCOMM{number}"] = _ascii_text(comments[name])
        if column.ucd:
            hdu.header[f"TUCD{number}"] = column.ucd
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)


def _ascii(
    values: "np.ma.MaskedArray[Any, Any]",
) -> "tuple[np.ma.MaskedArray[Any, Any], bool]":
    """Return text as FITS tables may hold it, and whether anything had to be escaped."""
    texts = [str(text) for text in np.ma.filled(values.astype(object), "")]
    escaped = [_ascii_text(text) for text in texts]
    return np.ma.MaskedArray(np.array(escaped, dtype=np.str_)), escaped != texts


def _ascii_text(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _write_parquet(path: Path, table: CatalogueTable, meta: dict[str, str]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(to_arrow(table.values, meta, table.columns), path)


def _write_csv(path: Path, table: CatalogueTable, _: dict[str, str]) -> None:
    values = {
        name: np.ma.MaskedArray(
            np.array([spreadsheet_safe(str(text)) for text in found.data], dtype=object),
            np.ma.getmaskarray(found),
        )
        if table.columns[name].dtype == "str"
        else found
        for name, found in table.values.items()
    }
    header = [spreadsheet_safe(name) for name in values]
    to_pandas(values).to_csv(path, index=False, header=header)
