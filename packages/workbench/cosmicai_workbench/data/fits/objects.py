"""The user's catalogue: which objects to cut out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import BAND_NAMES
from numpy.typing import NDArray

_NAMES = {
    "ra": ("ra", "ra_deg", "raj2000", "ra_icrs", "alpha_j2000"),
    "dec": ("dec", "dec_deg", "dej2000", "decj2000", "de_icrs", "delta_j2000"),
    "object_id": ("object_id", "objid", "id", "name", "source_id"),
    "redshift": ("redshift", "z_spec", "zspec", "specz", "spec_z"),
}
_MAGNITUDE_NAMES = ("mag_{}", "magnitude_{}", "dered_{}", "{}_mag", "{}")
_EXTINCTION_NAMES = ("extinction_{}", "a_{}")
_FAINTEST = 50.0


@dataclass(frozen=True)
class Objects:
    """N objects to cut out.

    Attributes
    ----------
    object_id
        N names.
    ra, dec
        float64 (N,), degrees, ICRS.
    redshift
        float64 (N,), NaN where unknown.
    magnitude
        float64 (N, 5), AB, NaN where missing; None where the catalogue has no magnitudes.
    extinction
        float64 (N, 5), Galactic, magnitudes; None where the catalogue has none.
    """

    object_id: tuple[str, ...]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    redshift: NDArray[np.float64]
    magnitude: NDArray[np.float64] | None
    extinction: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.object_id)


def read_objects(path: Path) -> Objects:
    """Read a catalogue.

    Columns are found by name, whatever the case: ``ra`` and ``dec`` in degrees; optionally
    ``object_id``, ``redshift``, magnitudes (``mag_u`` … or ``u`` …) and extinctions
    (``extinction_u`` …). A column ``z`` is the redshift, unless u, g, r and i stand beside it.

    Parameters
    ----------
    path
        CSV, or a FITS table.

    Raises
    ------
    InvalidInput
        It cannot be read, has no rows, lacks a column, has some bands only, or names an object
        twice.
    """
    table = _read_table(path)
    names = {name.lower(): name for name in table.colnames}

    def column(candidates: Sequence[str]) -> str | None:
        return next((names[name] for name in candidates if name in names), None)

    ra, dec = column(_NAMES["ra"]), column(_NAMES["dec"])
    if ra is None or dec is None:
        raise InvalidInput(
            f"{path}: columns ra and dec (degrees) expected, found {', '.join(table.colnames)}"
        )
    magnitudes = _five(path, names, _MAGNITUDE_NAMES, "magnitude")
    redshift = column(_NAMES["redshift"])
    if redshift is None and "z" in names and names["z"] not in (magnitudes or ()):
        redshift = names["z"]
    identifier = column(_NAMES["object_id"])
    identifiers = (
        tuple(_text(value) for value in table[identifier])
        if identifier
        else tuple(str(row) for row in range(len(table)))
    )
    repeated = len(identifiers) - len(set(identifiers))
    if repeated:
        raise InvalidInput(f"{path}: column {identifier} names {repeated} objects twice")
    z = _numbers(path, table, redshift) if redshift else np.full(len(table), np.nan)
    return Objects(
        object_id=identifiers,
        ra=_numbers(path, table, ra),
        dec=_numbers(path, table, dec),
        redshift=np.where(z > 0, z, np.nan),  # surveys write -9999 or 0 for "none"
        magnitude=_five_columns(path, table, magnitudes, lowest=0),
        extinction=_five_columns(
            path, table, _five(path, names, _EXTINCTION_NAMES, "extinction"), lowest=-1
        ),
    )


def _read_table(path: Path) -> Any:
    from astropy.table import Table

    is_fits = path.name.lower().split(".", 1)[-1].startswith("fit")
    try:
        table = Table.read(path, format="fits" if is_fits else "ascii.csv")
    except FileNotFoundError:
        raise InvalidInput(f"{path}: a catalogue expected, found no file") from None
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise InvalidInput(f"{path} cannot be read as a catalogue: {error}") from error
    if not len(table):
        raise InvalidInput(f"{path}: at least one object expected, found none")
    return table


def _five(
    path: Path, names: dict[str, str], patterns: Sequence[str], what: str
) -> tuple[str, ...] | None:
    """Return the names of five columns of one pattern; some bands without the others are an error.

    A lone ``z`` is no sign of magnitudes: it is a redshift.
    """
    for pattern in patterns:
        wanted = [pattern.format(band) for band in BAND_NAMES]
        found = [name for name in wanted if name in names]
        if len(found) == len(BAND_NAMES):
            return tuple(names[name] for name in wanted)
        if found and found != ["z"]:
            missing = sorted(set(wanted) - set(found))
            raise InvalidInput(
                f"{path}: {what} columns {', '.join(wanted)} expected, {', '.join(missing)} missing"
            )
    return None


def _five_columns(
    path: Path, table: Any, columns: tuple[str, ...] | None, *, lowest: float
) -> NDArray[np.float64] | None:
    if columns is None:
        return None
    values = np.stack([_numbers(path, table, name) for name in columns], axis=1)
    values[(values <= lowest) | (values >= _FAINTEST)] = np.nan  # -9999, 99 and the like
    return values


def _numbers(path: Path, table: Any, name: str) -> NDArray[np.float64]:
    """Return a column as float64, NaN where it is empty."""
    column = table[name]
    try:
        filled = column.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{path}: column {name} is not numbers: {error}") from error
    values: NDArray[np.float64] = np.asarray(np.ma.filled(filled, np.nan), dtype=np.float64)
    if values.ndim != 1:
        raise InvalidInput(f"{path}: column {name} has {values.ndim} dimensions, expected 1")
    return values.copy()


def _text(value: Any) -> str:
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()
