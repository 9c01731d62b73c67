"""Calibrated images: which files belong together, their units, their coordinates.

A field is one patch of the sky in all five bands. SDSS frames
(``frame-r-002583-2-0136.fits.bz2``) and single-band cutouts (``object7_r.fits``) are the same
thing here: files whose names differ only in the band.
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
from cosmicai.facts import BAND_NAMES, ZERO_POINT
from numpy.typing import NDArray

_SUFFIX = re.compile(r"\.(fits|fit|fts)(\.(gz|bz2|fz))?$", re.IGNORECASE)
_BAND_IN_NAME = re.compile(r"(?<![A-Za-z0-9])([ugriz])(?![A-Za-z0-9])")
_BAND_IN_WORD = re.compile(r"[ugriz]")
_NO_IMAGE = re.compile(
    r"(?<![A-Za-z])(mask|flags?|dq|weights?|wht|wt|err|error|unc|rms|var|variance|ivar|invvar|psf)"
    r"(?![A-Za-z])",
    re.IGNORECASE,
)
"""Words in the names of files and planes that describe an image's quality instead of the sky."""
_SCALE_CARDS = ("CD1_1", "CD1_2", "CD2_1", "CD2_2", "CDELT1", "CDELT2")
_PER_PIXEL = re.compile(r"\s*/\s*pix(el)?$", re.IGNORECASE)
_UNIT_NAMES = {
    "jy": "Jy",
    "nanomaggies": "nmgy",
    "nanomaggie": "nmgy",
    "maggies": "mgy",
    "maggy": "mgy",
}
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
        If there are none, a name does not contain its band, or a field lacks a band.
    """
    files = _fits_files(images)
    grouped = _complete(files, _BAND_IN_NAME)
    # A band glued to a word, as in sdssr_cut.fits, shows only by what its sisters are called.
    left = [path for path in files if not any(path in set(g.values()) for g in grouped.values())]
    grouped |= _complete([path for path in left if not _words(path)], _BAND_IN_WORD)
    for path in left:
        for name, band in _patterns(path, _BAND_IN_NAME):
            other = grouped.get(name, {}).get(band)
            if other is not None:
                raise InvalidInput(f"{other} and {path} are both the {band} band of one field")
    taken = {path for group in grouped.values() for path in group.values()}
    for path in left:
        if path not in taken and _words(path):
            raise _incomplete(path, left)
    if not grouped:
        raise _none_found(images, files)
    return [
        FieldFiles(name, tuple(group[band] for band in BAND_NAMES))
        for name, group in sorted(grouped.items())
    ]


def _stem(path: Path) -> str:
    return _SUFFIX.sub("", path.name)


def _words(path: Path) -> list[str]:
    """Return the bands that are separate words of a file's name."""
    return _BAND_IN_NAME.findall(_stem(path))


def _patterns(path: Path, band: re.Pattern[str]) -> list[tuple[str, str]]:
    """Return what a file's field may be called, with the band that it would then be."""
    stem = _stem(path)
    return [
        (str(path.parent / f"{stem[: found.start()]}*{stem[found.end() :]}"), found[0])
        for found in band.finditer(stem)
    ]


def _complete(files: list[Path], band: re.Pattern[str]) -> dict[str, dict[str, Path]]:
    """Return the fields of which all five bands are there.

    Raises
    ------
    InvalidInput
        A file would belong to two of them.
    """
    groups: dict[str, dict[str, Path]] = {}
    for path in files:
        for name, letter in _patterns(path, band):
            groups.setdefault(name, {}).setdefault(letter, path)
    whole = {name: group for name, group in groups.items() if len(group) == len(BAND_NAMES)}
    owner: dict[Path, str] = {}
    for name, group in whole.items():
        for path in group.values():
            if owner.setdefault(path, name) != name:
                raise InvalidInput(
                    f"{path}: a name with one band expected, found one that belongs to both "
                    f"{owner[path]} and {name}"
                )
    return whole


def _incomplete(path: Path, files: list[Path]) -> InvalidInput:
    """Say what is missing of the field that a file belongs to."""
    found = _patterns(path, _BAND_IN_NAME)
    if len(found) != 1:
        return InvalidInput(
            f"{path}: a name with the band as one word of its own expected, such as "
            f"frame-r-002583-2-0136.fits or object7_r.fits; found {len(found)} such words"
        )
    name = found[0][0]
    there = {band for other in files for n, band in _patterns(other, _BAND_IN_NAME) if n == name}
    missing = [band for band in BAND_NAMES if band not in there]
    return InvalidInput(
        f"{name}: images in u, g, r, i and z expected, none found in {', '.join(missing)}"
    )


def _none_found(images: Iterable[Path], files: list[Path]) -> InvalidInput:
    if not files:
        return InvalidInput(
            "no FITS files (.fits, .fit or .fts, optionally with .gz, .bz2 or .fz) in "
            f"{_listed(images)}"
        )
    return InvalidInput(
        f"{len(files)} FITS files in {_listed(images)}, such as {files[0].name}, but no five whose "
        "names differ only in the band (u, g, r, i, z), such as object7_r.fits"
    )


def read_band(path: Path, zero_point: float | None = None) -> BandImage:
    """Read one image: the first HDU with pixels.

    Parameters
    ----------
    path
        FITS file, possibly compressed.
    zero_point
        AB magnitude of one unit, for images whose header does not name a unit of flux.

    Raises
    ------
    InvalidInput
        The file cannot be read, has no pixels, no celestial WCS, or no unit of flux.
    """
    from astropy.io import fits

    try:
        with fits.open(_decompressed(path), memmap=False) as hdus:
            hdu = _sky(hdus)
            if hdu is None:
                raise InvalidInput(f"{path}: an image of two dimensions expected, found none")
            pixels, header = np.asarray(hdu.data), hdu.header
            primary = hdus[0].header
    except (OSError, EOFError, TypeError, ValueError, zlib.error) as error:
        raise InvalidInput(
            f"{path} is not a whole FITS file: {str(error).split('. ')[0]}"
        ) from error
    # Some programs describe the image in the primary header, and put its pixels behind it.
    wcs = _coordinates(path, header if "CTYPE1" in header else primary)
    scale = _nanomaggies_per_unit(path, header if "BUNIT" in header else primary, zero_point)
    return BandImage(path, (pixels * scale).astype(np.float32), wcs)


def _coordinates(path: Path, header: Any) -> Any:
    """Return the celestial WCS of a header."""
    from astropy.wcs import WCS, FITSFixedWarning
    from astropy.wcs.utils import proj_plane_pixel_area
    from astropy.wcs.wcs import WcsError

    absent = [card for card in ("CTYPE1", "CTYPE2") if not str(header.get(card, "")).strip()]
    if absent:
        raise InvalidInput(
            f"{path}: a celestial WCS expected in the header, found no {' and no '.join(absent)}"
        )
    if not any(card in header for card in _SCALE_CARDS):
        raise InvalidInput(
            f"{path}: a pixel scale expected in the header, found neither CD1_1 … CD2_2 nor CDELT1 "
            "and CDELT2"
        )
    try:
        with warnings.catch_warnings():
            # Old SDSS headers use deprecated keywords, which astropy repairs.
            warnings.simplefilter("ignore", FITSFixedWarning)
            wcs = WCS(header).celestial
        if not wcs.has_celestial or wcs.naxis != 2:
            raise InvalidInput(
                f"{path}: a celestial WCS expected in the header, found CTYPE1 "
                f"{header['CTYPE1']!r} and CTYPE2 {header['CTYPE2']!r}"
            )
        area = float(proj_plane_pixel_area(wcs))
    except (WcsError, ValueError, np.linalg.LinAlgError) as error:
        raise InvalidInput(f"{path}: its coordinates cannot be read: {error}") from error
    if not (np.isfinite(area) and area > 0):
        raise InvalidInput(f"{path}: a pixel scale above 0 expected in the header, found {area}")
    return wcs


def _decompressed(path: Path) -> BytesIO:
    """Return a file's content, decompressed once; astropy seeks, and so would do it twice.

    Its first bytes say how it is compressed: browsers decompress files and keep their names.
    """
    content = path.read_bytes()
    if content.startswith(b"BZh"):
        content = bz2.decompress(content)
    elif content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    return BytesIO(content)


def _sky(hdus: Any) -> Any:
    """Return the HDU with the image: the first of two dimensions that is not a mask or the like."""
    images = [
        hdu
        for hdu in hdus
        if hdu.is_image and hdu.header.get("NAXIS") == 2 and hdu.data is not None
    ]
    return next((hdu for hdu in images if not _NO_IMAGE.search(hdu.name)), None)


def _nanomaggies_per_unit(path: Path, header: Any, zero_point: float | None) -> float:
    """Return the factor to nanomaggies, from the header's unit or the zero point given."""
    from astropy import units

    if zero_point is not None:
        return float(10 ** (0.4 * (ZERO_POINT - zero_point)))
    name = str(header.get("BUNIT", "")).strip()
    plain = _PER_PIXEL.sub("", name)
    try:
        unit = units.Unit(_UNIT_NAMES.get(plain.lower(), plain))
        if isinstance(unit, units.LogUnit) or unit in (units.mag, units.dex, units.dB):
            raise InvalidInput(
                f"{path}: pixels in a linear unit of flux expected, such as nanomaggy or Jy, found "
                f"BUNIT {name!r}: magnitudes do not add up"
            )
        equivalence = units.zero_point_flux(_AB_ZERO_JANSKY * units.Jy)
        return float(unit.to(units.nmgy, equivalencies=equivalence))
    except (units.UnitConversionError, ValueError, TypeError) as error:
        raise InvalidInput(
            f"{path}: a unit of flux expected in BUNIT, such as nanomaggy or Jy, found "
            f"{name or 'none'!r}; for counts, pass the AB magnitude of one count as --zero-point"
        ) from error


def _fits_files(images: Iterable[Path]) -> list[Path]:
    """Return the FITS files, without hidden ones and those of masks, weights and the like."""
    files: list[Path] = []
    for path in images:
        if path.is_dir():
            files += [inner for inner in path.iterdir() if _may_be_image(inner)]
        elif path.is_file():
            files.append(path)
        else:
            raise InvalidInput(f"{path}: a FITS file or a folder of them expected, found none")
    return sorted(set(files))


def _may_be_image(path: Path) -> bool:
    hidden = path.name.startswith(".")  # such as the ._object_r.fits that macOS writes
    return bool(not hidden and _SUFFIX.search(path.name) and not _NO_IMAGE.search(_stem(path)))


def _listed(images: Iterable[Path]) -> str:
    return ", ".join(str(path) for path in images)
