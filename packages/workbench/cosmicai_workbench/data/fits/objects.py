"""The user's catalogue: which objects to cut out, and what to carry along."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import BAND_NAMES as BANDS
from cosmicai.partition.catalogue import (
    DEC,
    RA,
    Catalogue,
    Column,
    ColumnInfo,
    column_of,
)
from numpy.typing import NDArray

from cosmicai_workbench.data.fits.tables import Field, UserTable, read_table

RA_NAMES = ("ra", "ra_deg", "raj2000", "_raj2000", "ra_icrs", "alpha_j2000", "target_ra")
DEC_NAMES = (
    "dec", "dec_deg", "dej2000", "decj2000", "_dej2000", "de_icrs", "delta_j2000", "target_dec",
)  # fmt: skip
ID_NAMES = ("object_id", "objid", "id", "name", "source_id", "targetid", "specobjid")
REDSHIFT_NAMES = ("redshift", "z_spec", "zspec", "specz", "spec_z", "zsp")
MAGNITUDE_NAMES = ("mag_{}", "magnitude_{}", "dered_{}", "{}_mag", "{}")
_EXTINCTION_NAMES = ("extinction_{}", "a_{}")
_FAINTEST = 50.0

_HOURS = frozenset(("h", "hr", "hour", "hours", "hourangle", "hms", "h:m:s"))
_DEGREES = frozenset(("", "deg", "degree", "degrees", "dms", "d:m:s"))
_FACTORS = {"deg": 1.0, "hourangle": 15.0}
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Objects:
    """N objects to cut out.

    Attributes
    ----------
    catalogue
        Names, positions and further columns, as partitions carry them.
    redshift
        float64 (N,), NaN where unknown.
    magnitude
        float64 (N, 5), AB, NaN where missing; None where the catalogue has no magnitudes.
    extinction
        float64 (N, 5), Galactic, magnitudes; None where the catalogue has none.
    """

    catalogue: Catalogue
    redshift: NDArray[np.float64]
    magnitude: NDArray[np.float64] | None
    extinction: NDArray[np.float64] | None

    @property
    def ra(self) -> NDArray[np.float64]:
        """Right ascensions (N,), degrees, ICRS; NaN where missing."""
        return self.catalogue.columns["ra"].values

    @property
    def dec(self) -> NDArray[np.float64]:
        """Declinations (N,), degrees, ICRS; NaN where missing."""
        return self.catalogue.columns["dec"].values

    def __len__(self) -> int:
        return len(self.catalogue)


def read_objects(path: Path, keep: Sequence[str] = ()) -> Objects:
    """Read a catalogue.

    Columns are found by name, whatever the case: ``ra`` and ``dec``; optionally ``object_id``,
    ``redshift``, magnitudes (``mag_u`` … or ``u`` …) and extinctions (``extinction_u`` …). A column
    ``z`` is the redshift, unless there are u, g, r and i beside it.

    Parameters
    ----------
    path
        CSV, FITS, VOTable, ECSV or Parquet; see :func:`~.tables.read_table`.
    keep
        Further columns to carry along.

    Raises
    ------
    InvalidInput
        It cannot be read, has no rows, lacks a column, has some bands only, names an object twice,
        or gives positions in a unit that is not one of angle.
    """
    table = read_table(path)
    carried = carried_columns(table, keep)
    if "ra" not in carried.columns or "dec" not in carried.columns:
        raise InvalidInput(
            f"{path}: columns ra and dec (degrees) expected, found {', '.join(table.fields)}"
        )
    magnitude = magnitudes(table, BANDS)
    redshift = table.find(REDSHIFT_NAMES)
    if redshift is None and not _has_bare_bands(table):
        redshift = table.find(("z",))
    return Objects(
        catalogue=carried,
        redshift=redshifts(table, redshift),
        magnitude=magnitude,
        extinction=_banded(table, _EXTINCTION_NAMES, "extinction", BANDS, lowest=-1),
    )


def redshifts(table: UserTable, field: Field | None) -> NDArray[np.float64]:
    """Return the redshifts in a column, NaN where unknown, or where there is no column."""
    if field is None:
        return np.full(len(table), np.nan)
    z = _single(table, field)
    return np.where(z > 0, z, np.nan)  # surveys write -9999 or 0 for "none"


def magnitudes(table: UserTable, bands: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the magnitudes (N, bands) of a table, NaN where missing; None where it has none.

    Raises
    ------
    InvalidInput
        It has them in some of the bands only.
    """
    return _banded(table, MAGNITUDE_NAMES, "magnitude", bands, lowest=0)


def plausible(values: NDArray[np.float64], lowest: float = 0) -> NDArray[np.float64]:
    """Return magnitudes with NaN in place of -9999, 99 and the like."""
    values[(values <= lowest) | (values >= _FAINTEST)] = np.nan
    return values


def carried_columns(table: UserTable, keep: Sequence[str]) -> Catalogue:
    """Return the columns of a table that partitions carry: name, position, and those to keep.

    An object without a column of names is called by its row number, from 0.

    Raises
    ------
    InvalidInput
        A column to keep is missing, or one of them cannot be used.
    """
    columns: list[Column] = []
    identifier = table.find(ID_NAMES)
    if identifier is not None:
        columns.append(table.identifiers(identifier))
    else:
        info = ColumnInfo("object_id", "int64", "", f"row of {table.path.name}"[:256])
        columns.append(column_of(info, range(len(table))))
    for info, names in ((RA, RA_NAMES), (DEC, DEC_NAMES)):
        field = table.find(names)
        if field is not None:
            columns.append(column_of(info, _degrees(table, field, info).tolist()))
    taken = {column.info.name for column in columns}
    for name in keep:
        field = table.find((name.strip(),))
        if field is None:
            raise InvalidInput(
                f"{table.path}: column {name!r} to keep expected, found {', '.join(table.fields)}"
            )
        column = table.carried(field)
        if column.info.name not in taken:
            taken.add(column.info.name)
            columns.append(column)
    return Catalogue(columns, len(table))


def _degrees(table: UserTable, field: Field, info: ColumnInfo) -> NDArray[np.float64]:
    """Return a column of angles in degrees, NaN where missing."""
    where = f"{table.path}: column {field.name}"
    unit = _angle_unit(where, field.unit)
    if field.is_text:
        there = [str(text) for text in field.values.data[~field.missing]]
        if not all(map(_DECIMAL.fullmatch, there)):
            hours = unit == "hourangle" or (not field.unit and info is RA)
            return _sexagesimal(where, field, "hourangle" if hours else "deg")
    values = _single(table, field)
    if unit in _FACTORS:
        return values * _FACTORS[unit]
    from astropy import units

    degrees: NDArray[np.float64] = (values * units.Unit(unit)).to_value("deg")
    return degrees


def _angle_unit(where: str, name: str) -> str:
    """Return astropy's name of a column's unit of angle; no unit means degrees."""
    low = name.strip().lower()
    if low in _HOURS:
        return "hourangle"
    if low in _DEGREES:
        return "deg"
    from astropy import units

    try:
        unit = units.Unit(name)
        unit.to(units.deg)
    except (ValueError, TypeError, units.UnitConversionError) as error:
        raise InvalidInput(
            f"{where}: a unit of angle expected, such as deg, h or rad, found {name!r}"
        ) from error
    return str(unit)


def _sexagesimal(where: str, field: Field, unit: str) -> NDArray[np.float64]:
    """Read angles such as ``10:00:00.0``, ``10h00m00s`` or ``+02 00 00``; RA is in hours."""
    from astropy.coordinates import Angle

    degrees = np.full(len(field.values), np.nan)
    for row in np.flatnonzero(~field.missing).tolist():
        text = str(field.values.data[row]).strip()
        try:
            # A plain number among sexagesimal ones could be meant in either unit.
            degrees[row] = Angle("" if _DECIMAL.fullmatch(text) else text, unit=unit).deg
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                f"{where} is not numbers, and row {row} is not a sexagesimal angle: {text!r:.60}: "
                f"{error}"
            ) from error
    return degrees


def _single(table: UserTable, field: Field) -> NDArray[np.float64]:
    values = table.numbers(field)
    if values.ndim != 1:
        raise InvalidInput(
            f"{table.path}: column {field.name}: one number per row expected, found "
            f"{values.shape[1:]}"
        )
    return values


def _has_bare_bands(table: UserTable) -> bool:
    return all(_is_scalar(table, band) for band in BANDS)


def _is_scalar(table: UserTable, name: str) -> bool:
    field = table.find((name,))
    return field is not None and field.values.ndim == 1


def _banded(
    table: UserTable, patterns: Sequence[str], what: str, bands: Sequence[str], *, lowest: float
) -> NDArray[np.float64] | None:
    """Return the values of one column per band, or of one column of as many values.

    Some bands without the others are an error, but a lone ``z`` is a redshift, and ``u`` beside
    ``q`` is a Stokes parameter.
    """
    for pattern in patterns:
        wanted = [pattern.format(band) for band in bands]
        found = [name for name in wanted if _is_scalar(table, name)]
        if len(found) == len(bands):
            fields = [table.find((name,)) for name in wanted]
            return plausible(
                np.stack([_single(table, field) for field in fields if field], axis=1), lowest
            )
        vector = table.find((pattern.format("").strip("_"),)) if pattern != "{}" else None
        if vector is not None and vector.values.shape[1:] == (len(bands),):
            return plausible(table.numbers(vector), lowest)
        others = {"z", "u"} if table.find(("q",)) is not None else {"z"}
        if not others.issuperset(found):
            missing = sorted(set(wanted) - set(found))
            raise InvalidInput(
                f"{table.path}: {what} columns {', '.join(wanted)} expected, "
                f"{', '.join(missing)} missing"
            )
    return None
