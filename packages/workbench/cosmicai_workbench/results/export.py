"""A run as a catalogue in a file that astronomers open."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from cosmicai.errors import InvalidInput
from cosmicai.whole_files import whole_file, whole_folder

from cosmicai_workbench.files import file_errors
from cosmicai_workbench.results.catalogue import CatalogueTable, RunCatalogue
from cosmicai_workbench.results.euclid import EuclidCatalogue
from cosmicai_workbench.results.formats import csv, fits, hats, parquet, qp, votable
from cosmicai_workbench.results.provenance import provenance_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cosmicai_workbench.results.catalogue import Source
    from cosmicai_workbench.results.provenance import Provenance
    from cosmicai_workbench.results.run_folder import Run

Format = Literal["parquet", "fits", "csv", "votable", "qp", "hats"]
Columns = Literal["all", "euclid"]


@dataclass(frozen=True)
class Writer:
    """How a format is written."""

    write: Callable[[Path, Source, Provenance], int]
    endings: tuple[str, ...]
    """Of its files' names, the usual one first."""
    library: str
    """An optional one, that it needs."""
    is_folder: bool = False

    @property
    def file(self) -> str:
        """What it is called where no name is given."""
        return f"catalogue{self.endings[0]}"


WRITERS: Final[dict[Format, Writer]] = {
    "parquet": Writer(parquet.write, (".parquet", ".pq"), "pyarrow"),
    "fits": Writer(fits.write, (".fits", ".fit", ".fts"), "astropy"),
    "csv": Writer(csv.write, (".csv",), "pandas"),
    "votable": Writer(votable.write, (".vot", ".votable", ".xml"), "astropy"),
    "qp": Writer(qp.write, (".qp.hdf5", ".hdf5", ".h5"), "h5py"),
    "hats": Writer(hats.write, (".hats",), "pyarrow", is_folder=True),
}


@dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes
    ----------
    path, form
        The file or folder, and its format.
    rows
        Objects in it.
    left_out
        Objects of the run that the format cannot hold: without a position in ``hats``, without a
        prediction in ``qp``.
    unlisted
        Partitions of failed ranks whose objects nobody could list.
    unflagged
        Objects without flags, since an earlier release predicted them.
    """

    path: Path
    form: Format
    rows: int
    left_out: int
    unlisted: list[str]
    unflagged: int


def catalogue_of(run: Run, data: Path | None = None) -> CatalogueTable:
    """Return the catalogue of a run, all of it in memory; see :class:`RunCatalogue`.

    Raises
    ------
    InvalidInput
        If the run failed and nobody knows its objects.

    Warns
    -----
    UserWarning
        If objects of failed ranks are missing, since their partitions could not be read.
    """
    catalogue = RunCatalogue(run, data)
    if run.summary.status == "FAILED" and not catalogue.num_rows:
        raise _left_nothing(run)
    if catalogue.unlisted:
        count, first = len(catalogue.unlisted), catalogue.unlisted[0]
        warnings.warn(
            f"the catalogue lacks the objects of {count} partitions of failed ranks, such as "
            f"{first}: give data=, a folder with good copies of them",
            stacklevel=3,
        )
    return catalogue.table()


def _left_nothing(run: Run) -> InvalidInput:
    why = run.summary.failure.message if run.summary.failure else "no reason was recorded"
    return InvalidInput(f"{run.path}: the run failed, and left nothing to export: {why:.300}")


def as_format(name: str) -> Format:
    """Return the format of that name, having made sure that it can be written here.

    Raises
    ------
    InvalidInput
        If there is no such format.
    ModuleNotFoundError
        If its library is not installed.
    """
    if name not in get_args(Format):
        raise InvalidInput(f"--to: expected one of {', '.join(get_args(Format))}, found {name!r}")
    form = cast("Format", name)
    if find_spec(WRITERS[form].library) is None:
        raise ModuleNotFoundError(name=WRITERS[form].library)
    return form


def fitting_format(output: Path | None, name: str | None) -> Format:
    """Return the format of that name, by default the one that the output's ending says.

    Raises
    ------
    InvalidInput
        If there is no such format, or the ending says another one, or none.
    ModuleNotFoundError
        If its library is not installed.
    """
    if output is None:
        return as_format(name or "parquet")
    written = [
        form for form, writer in WRITERS.items() if output.name.lower().endswith(writer.endings)
    ]
    if name is None and not written:
        endings = ", ".join(writer.endings[0] for writer in WRITERS.values())
        raise InvalidInput(
            f"--output {output}: an ending that says the format expected ({endings}); or add --to"
        )
    form = as_format(name or written[0])
    if written and form not in written:
        raise InvalidInput(
            f"--output {output}: {written[0]} by its ending, and --to says {form}; leave out one"
        )
    return form


def export(
    run: Run,
    output: Path,
    form: Format,
    *,
    data: Path | None = None,
    overwrite: bool = False,
    columns: Columns = "all",
) -> int:
    """Write the catalogue and return its number of rows; see :func:`export_catalogue`."""
    return export_catalogue(run, output, form, data=data, overwrite=overwrite, columns=columns).rows


def export_catalogue(
    run: Run,
    output: Path | None,
    form: str | None,
    *,
    data: Path | None = None,
    overwrite: bool = False,
    columns: Columns = "all",
) -> Exported:
    """Write the catalogue.

    Provenance is stored in the metadata: the FITS header, the schema of Parquet, the INFO elements
    of a VOTable, the attributes of HDF5, and for CSV, which has no place for it, a JSON file beside
    it.

    Parameters
    ----------
    output
        File or folder to write; by default in the run folder.
    form
        Format, by default the one that the output's ending says, or Parquet.
    data
        Folder with the partitions of failed ranks; see :class:`RunCatalogue`.
    overwrite
        Replace what is there.
    columns
        ``all``, or ``euclid``: names and definitions of Euclid's photometric redshifts.

    Raises
    ------
    InvalidInput
        If the output exists or cannot be written, the format is unknown or does not suit the run
        or the output's ending, the predictions cannot be read, or the run failed and predicted
        nothing.
    PartitionNotFound, CorruptPartition, UnsafePickle
        A failed rank's partition cannot be read.
    """
    form = fitting_format(output, form)
    if columns not in get_args(Columns):
        raise InvalidInput(
            f"--columns: expected one of {', '.join(get_args(Columns))}, found {columns!r}"
        )
    if form == "qp" and columns != "all":
        raise InvalidInput(
            "--columns: qp has names of its own; leave it out, or choose another --to"
        )
    writer = WRITERS[form]
    path = output or run.path / writer.file
    if path.exists() and not overwrite:
        raise InvalidInput(f"{path}: exists already; add --overwrite, or choose another --output")
    if path.is_dir() and not (writer.is_folder and hats.is_catalogue(path)):
        raise InvalidInput(
            f"{path}: a folder that is not a catalogue is not replaced; move it away"
        )
    if data is not None and not data.is_dir():
        raise InvalidInput(f"--data {data}: no such folder")
    needs_distributions = form == "qp" or columns == "euclid"
    if run.summary.status == "FAILED" and not run.records:
        raise _left_nothing(run)
    catalogue = RunCatalogue(run, data, distributions=needs_distributions)
    source: Source = EuclidCatalogue(catalogue) if columns == "euclid" else catalogue
    provenance = provenance_of(run)
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = whole_folder if writer.is_folder else whole_file
        with whole(path, replace=overwrite) as unfinished:
            rows = writer.write(unfinished, source, provenance)
        if form == "csv":
            csv.write_beside(path.with_name(f"{path.name}.provenance.json"), provenance)
    left_out = catalogue.num_rows - rows
    return Exported(path, form, rows, left_out, catalogue.unlisted, catalogue.unflagged)
