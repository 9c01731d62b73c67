"""Calibrated images: which files belong together, their units, their coordinates.

A field is one patch of the sky in all five bands. SDSS frames
(``frame-r-002583-2-0136.fits.bz2``) and single-band cutouts (``object7_r.fits``) are the same
thing here: files whose names differ in the band alone.
"""

import bz2
import gzip
import re
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import BAND_NAMES
from numpy.typing import NDArray

_SUFFIXES = (".fits", ".fit", ".fits.gz", ".fits.bz2", ".fit.gz", ".fit.bz2")
_BAND_IN_NAME = re.compile(r"(?<![A-Za-z0-9])([ugriz])(?![A-Za-z0-9])")
_UNIT_NAMES = {"nanomaggies": "nmgy", "nanomaggie": "nmgy", "maggies": "mgy", "maggy": "mgy"}
_AB_ZERO_JANSKY = 3631.0


@dataclass(frozen=True)
class BandImage:
    """One band of a field.

    Attributes
    ----------
    path
        File it was read from.
    pixels
        float32 (ny, nx), nanomaggies a pixel; NaN where masked.
    wcs
        astropy's celestial WCS of the pixels.
    """

    path: Path
    pixels: NDArray[np.float32]
    wcs: Any

    @property
    def pixel_scale(self) -> float:
        """Arcseconds on a side of a pixel, at the reference point."""
        from astropy.wcs.utils import proj_plane_pixel_area

        return 3600 * float(np.sqrt(proj_plane_pixel_area(self.wcs)))


@dataclass(frozen=True)
class Field:
    """The five images of one patch of the sky, in the order of ``BAND_NAMES``."""

    name: str
    bands: tuple[BandImage, ...]


@dataclass(frozen=True)
class FieldFiles:
    """The five files of one field, not read yet, in the order of ``BAND_NAMES``."""

    name: str
    paths: tuple[Path, ...]

    def read(self, zero_point: float | None = None) -> Field:
        """Read the images; see :func:`read_band`."""
        return Field(self.name, tuple(read_band(path, zero_point) for path in self.paths))


def find_fields(images: Iterable[Path]) -> list[FieldFiles]:
    """Group image files into fields by their names.

    Parameters
    ----------
    images
        FITS files, and folders of them.

    Raises
    ------
    InvalidInput
        There are none, a name does not tell the band, or a field lacks a band.
    """
    fields: dict[str, dict[str, Path]] = {}
    for path in _fits_files(images):
        tokens = _BAND_IN_NAME.findall(path.name.split(".")[0])
        if len(tokens) != 1:
            raise InvalidInput(
                f"{path}: a name with the band as one word of its own expected, such as "
                f"frame-r-002583-2-0136.fits or object7_r.fits; found {len(tokens)} such words"
            )
        band = tokens[0]
        name = str(path.parent / _BAND_IN_NAME.sub("*", path.name.split(".")[0]))
        other = fields.setdefault(name, {}).setdefault(band, path)
        if other != path:
            raise InvalidInput(f"{other} and {path} are both the {band} band of one field")
    if not fields:
        raise InvalidInput(f"no FITS files ({', '.join(_SUFFIXES[:4])}) in {_listed(images)}")
    for name, paths in fields.items():
        missing = [band for band in BAND_NAMES if band not in paths]
        if missing:
            raise InvalidInput(
                f"{name}: images in u, g, r, i and z expected, none found in {', '.join(missing)}"
            )
    return [
        FieldFiles(name, tuple(paths[band] for band in BAND_NAMES))
        for name, paths in sorted(fields.items())
    ]


def read_band(path: Path, zero_point: float | None = None) -> BandImage:
    """Read one image: the first HDU with pixels.

    Parameters
    ----------
    path
        FITS file, maybe compressed.
    zero_point
        AB magnitude of one unit, for images whose header does not name a unit of flux.

    Raises
    ------
    InvalidInput
        The file cannot be read, has no pixels, no celestial WCS, or no unit of flux.
    """
    from astropy.io import fits
    from astropy.wcs import WCS, FITSFixedWarning
    from astropy.wcs.wcs import WcsError

    try:
        with fits.open(_decompressed(path), memmap=False) as hdus:
            hdu = next((hdu for hdu in hdus if _has_pixels(hdu)), None)
            if hdu is None:
                raise InvalidInput(f"{path}: an image of two dimensions expected, found none")
            pixels, header = np.asarray(hdu.data), hdu.header
    except (OSError, EOFError, TypeError, ValueError, zlib.error) as error:
        raise InvalidInput(f"{path} is not a whole FITS file: {error}") from error
    try:
        with warnings.catch_warnings():
            # Old SDSS headers use deprecated keywords, which astropy mends.
            warnings.simplefilter("ignore", FITSFixedWarning)
            wcs = WCS(header).celestial
    except (WcsError, ValueError) as error:
        raise InvalidInput(f"{path}: its coordinates cannot be read: {error}") from error
    if not wcs.has_celestial or wcs.naxis != 2:
        raise InvalidInput(f"{path}: a celestial WCS expected in the header, found none")
    scale = _nanomaggies_per_unit(path, header, zero_point)
    return BandImage(path, (pixels * scale).astype(np.float32), wcs)


def _decompressed(path: Path) -> BytesIO:
    """Return a file's content, decompressed once; astropy seeks, and so would do it twice."""
    content = path.read_bytes()
    if path.suffix == ".bz2":
        content = bz2.decompress(content)
    elif path.suffix == ".gz":
        content = gzip.decompress(content)
    return BytesIO(content)


def _has_pixels(hdu: Any) -> bool:
    return bool(hdu.is_image and hdu.data is not None and hdu.data.ndim == 2)


def _nanomaggies_per_unit(path: Path, header: Any, zero_point: float | None) -> float:
    """Return the factor to nanomaggies, from the header's unit or the zero point given."""
    from astropy import units

    if zero_point is not None:
        return float(10 ** (0.4 * (22.5 - zero_point)))
    name = str(header.get("BUNIT", "")).strip()
    try:
        unit = units.Unit(_UNIT_NAMES.get(name.lower(), name))
        equivalence = units.zero_point_flux(_AB_ZERO_JANSKY * units.Jy)
        return float(unit.to(units.nmgy, equivalencies=equivalence))
    except (units.UnitConversionError, ValueError, TypeError) as error:
        raise InvalidInput(
            f"{path}: a unit of flux expected in BUNIT, such as nanomaggy or Jy, found "
            f"{name or 'none'!r}; for counts, pass the AB magnitude of one count as --zero-point"
        ) from error


def _fits_files(images: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in images:
        if path.is_dir():
            files += [inner for inner in path.iterdir() if _looks_like_image(inner)]
        elif path.is_file():
            files.append(path)
        else:
            raise InvalidInput(f"{path}: a FITS file or a folder of them expected, found none")
    return sorted(set(files))


def _looks_like_image(path: Path) -> bool:
    """Tell an image of one band from whatever else lies in the folder, such as psField files."""
    stem = path.name.split(".")[0]
    return path.name.lower().endswith(_SUFFIXES) and bool(_BAND_IN_NAME.search(stem))


def _listed(images: Iterable[Path]) -> str:
    return ", ".join(str(path) for path in images)
