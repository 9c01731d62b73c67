"""A run as a catalogue that astronomers open: Parquet, FITS or CSV."""

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, get_args

import cosmicai
import numpy as np
from cosmicai.columns import COLUMNS
from cosmicai.errors import InvalidInput
from cosmicai.tables import to_arrow, to_pandas, to_table

from cosmicai_workbench.data.catalogue import catalogue_path, read_catalogue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmicai_workbench.results.run_folder import Run

Format = Literal["parquet", "fits", "csv"]


def columns(run: "Run", data: Path | None = None) -> "dict[str, NDArray[Any]]":
    """Return the catalogue's columns (``cosmicai.columns``), one entry per galaxy.

    Parameters
    ----------
    data
        Folder with the ``N.catalogue.csv`` files of the partitions, where there are any.

    Raises
    ------
    InvalidInput
        If a catalogue cannot be read, or names an index that its partition does not have.
    """
    found = run.predictions
    size = found.index.size
    paths = np.array(found.data_paths or ("",), dtype=object)[found.partition]
    names = [f"{PurePosixPath(path).stem}#{i}" for path, i in zip(paths, found.index, strict=True)]
    object_id = np.array(names, dtype=object)
    ra, dec = np.full(size, np.nan), np.full(size, np.nan)
    for position, path in enumerate(found.data_paths):
        partition = (data or Path()) / PurePosixPath(path).name
        if data is None or not catalogue_path(partition).is_file():
            continue
        here = np.flatnonzero(found.partition == position)
        row_of = dict(zip(found.index[here].tolist(), here.tolist(), strict=True))
        for entry in read_catalogue(partition):
            if entry.index in row_of:  # a failed rank's galaxies have no row
                row = row_of[entry.index]
                object_id[row], ra[row], dec[row] = entry.object_id, entry.ra, entry.dec
    values = {
        "object_id": object_id,
        "partition": paths,
        "ra": ra,
        "dec": dec,
        "rank": found.rank,
        **found.stored,
    }
    return {name: values[name] for name in COLUMNS}


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
    """Write the catalogue and return its number of galaxies.

    Provenance lies in the metadata: the FITS header, the Parquet schema, and for CSV, which has
    no place for it, a JSON file beside it.

    Raises
    ------
    InvalidInput
        If the output exists, the format is unknown, or a catalogue cannot be read.
    """
    if form not in get_args(Format):
        raise InvalidInput(f"--to: expected one of {', '.join(get_args(Format))}, found {form!r}")
    if output.exists() and not overwrite:
        raise InvalidInput(f"{output}: exists already; add --overwrite, or choose another --output")
    if data is not None and not data.is_dir():
        raise InvalidInput(f"--data {data}: no such folder")
    table = columns(run, data)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.partial")
    writers = {"fits": _write_fits, "parquet": _write_parquet, "csv": _write_csv}
    writers[form](unfinished, table, provenance(run))
    if form == "csv":
        beside = output.with_name(f"{output.name}.provenance.json")
        beside.write_text(json.dumps(provenance(run), indent=2) + "\n", encoding="utf-8")
    unfinished.replace(output)
    return int(table["index"].size)


def _write_fits(path: Path, table: "dict[str, NDArray[Any]]", meta: dict[str, str]) -> None:
    from astropy.io import fits

    hdu = fits.table_to_hdu(to_table(table, meta))
    # Where TOPCAT looks for them; astropy would write a block of YAML that only astropy reads.
    for number, name in enumerate(table, start=1):
        hdu.header[f"TCOMM{number}"] = COLUMNS[name].description
        hdu.header[f"TUCD{number}"] = COLUMNS[name].ucd
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)


def _write_parquet(path: Path, table: "dict[str, NDArray[Any]]", meta: dict[str, str]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(to_arrow(table, meta), path)


def _write_csv(path: Path, table: "dict[str, NDArray[Any]]", _: dict[str, str]) -> None:
    to_pandas(table).to_csv(path, index=False)
