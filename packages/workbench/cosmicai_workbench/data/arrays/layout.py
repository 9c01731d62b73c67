"""Which array of a file holds what: images, bands, magnitudes, redshifts, names, positions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import MB
from cosmicai.partition.imaging import MAX_BANDS, GalaxyShape

from cosmicai_workbench.data.arrays.files import BLOCK_BYTES, MAX_CHUNK_BYTES
from cosmicai_workbench.data.bands import BandChoice, check_side, choose_bands, middle
from cosmicai_workbench.data.fits.objects import (
    DEC_NAMES,
    ID_NAMES,
    MAGNITUDE_NAMES,
    RA_NAMES,
    REDSHIFT_NAMES,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cosmicai_workbench.data.arrays.files import ArrayColumn, ArrayFile, Block

_IMAGE_NAMES = (
    "image_array", "image.array", "image.flux", "image", "images", "cutout", "cutouts",
)  # fmt: skip
_BAND_NAMES = ("image_band", "image.band", "bands", "band")
_SCALE_NAMES = ("image_scale", "image.scale", "pixel_scale")
_MAGNITUDE_VECTORS = ("magnitude", "magnitudes", "mag", "mags", "dered")
_SCALE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Choices:
    """What a user says of the files.

    Attributes
    ----------
    image, redshift, object_id, ra, dec
        Names of arrays, where they have none of the usual ones.
    magnitude
        One array of a number for each band, or one array per band.
    bands
        The channels to take, in order: their names, or ``NAME=NEW`` where a partition should call
        them otherwise. By default all that the file names.
    side
        Pixels on a side to cut out of the middle; by default all.
    pixel_scale
        Arcseconds of a pixel, where the file does not say it.
    """

    image: str | None = None
    magnitude: tuple[str, ...] = ()
    redshift: str | None = None
    object_id: str | None = None
    ra: str | None = None
    dec: str | None = None
    keep: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    side: int | None = None
    pixel_scale: float | None = None


@dataclass(frozen=True)
class Layout:
    """What was found in one file.

    Attributes
    ----------
    rows
        Galaxies in it.
    choice
        Channels in the file, and those taken.
    shape
        Of a galaxy in the partition.
    pixel_scale
        Arcseconds of a pixel; None where unknown.
    columns
        Name of a column as partitions and :mod:`~.fits.objects` know it → name in the file; the
        magnitudes, where the user names them, are ``magnitude 0``, ``magnitude 1``, ….
    """

    rows: int
    image: str
    band: str | None
    scale: str | None
    choice: BandChoice
    magnitudes: tuple[int, ...] | None
    """Where the magnitudes taken are in the one array that holds them; None for all of it."""
    shape: GalaxyShape
    pixel_scale: float | None
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def reads(self) -> list[str]:
        """The file's columns that are read, the images first."""
        others = (self.band, self.scale, *self.columns.values())
        return list(dict.fromkeys((self.image, *(name for name in others if name))))


class Finder:
    """Finds the layout of one file."""

    def __init__(self, file: ArrayFile, choices: Choices) -> None:
        self._file = file
        self._choices = choices
        self._by_name = {name.lower(): name for name in file.columns}

    def find(self) -> Layout:
        """Return the layout.

        Raises
        ------
        InvalidInput
            An array is missing or of another shape than it must be; the message lists what the file
            holds and the options that say what is what.
        """
        choices = self._choices
        image = self._image()
        rows = self._file.columns[image].shape[0]
        if rows < 1:
            raise InvalidInput(f"{self._file.path} holds no galaxies")
        self._check_size(image)
        band = self._first(_BAND_NAMES, rows, text=True)
        scale = None
        if choices.pixel_scale is None:
            scale = self._first(_SCALE_NAMES, rows, text=False)
        sample = self._sample([name for name in (band, scale) if name])
        choice = self._bands(image, band, sample)
        side = self._side(image, len(choice.names))
        columns = self._columns(rows, choice.bands)
        given = [name for name in columns if name.startswith("magnitude ")]
        magnitudes, picked = self._magnitudes(columns, given, choice), None
        if len(given) == 1 and magnitudes == len(choice.names):
            picked = choice.channels
            magnitudes = len(picked)
        for name in columns.values():
            self._check_size(name)
        pixel_scale = choices.pixel_scale
        if scale is not None and (value := float(np.ravel(sample[scale])[0])) > 0:
            pixel_scale = round(value, 6)
        return Layout(
            rows=rows,
            image=image,
            band=band,
            scale=scale,
            choice=choice,
            magnitudes=picked,
            shape=GalaxyShape(len(choice.bands), side, magnitudes),
            pixel_scale=pixel_scale,
            columns=columns,
        )

    def _unknown(self, what: str) -> InvalidInput:
        listed = "; ".join(f"{name} {column}" for name, column in self._file.columns.items())
        return InvalidInput(
            f"{self._file.path}: {what}. It holds: {listed or 'no array that can be used'}. Say "
            "which is which with --image, --bands, --magnitude, --redshift, --id, --ra, --dec"
        )

    def _named(self, name: str, option: str, rows: int | None = None) -> str:
        """Return the column that a user named."""
        found = name if name in self._file.columns else self._by_name.get(name.lower())
        if found is None:
            raise self._unknown(f"{option}: no array {name!r} was found")
        if rows is not None and self._file.columns[found].shape[0] != rows:
            raise self._unknown(f"{option}: {name!r} has another number of rows than {rows}")
        return found

    def _first(self, names: Sequence[str], rows: int, *, text: bool) -> str | None:
        for name in names:
            found = self._by_name.get(name)
            if found is not None:
                column = self._file.columns[found]
                fits = len(column.shape) <= 2 and column.shape[0] == rows
                if fits and (column.dtype.kind in "USOT") == text:
                    self._check_size(found)
                    return found
        return None

    def _image(self) -> str:
        if self._choices.image is not None:
            image = self._named(self._choices.image, "--image")
        else:
            usual = [self._by_name[name] for name in _IMAGE_NAMES if name in self._by_name]
            deep = [
                name
                for name, column in self._file.columns.items()
                if len(column.shape) in (3, 4) and column.dtype.kind in "iuf"
            ]
            if not usual and len(deep) != 1:
                what = "several arrays may be images" if deep else "no array of images was found"
                raise self._unknown(f"{what} (galaxies, bands, side, side)")
            image = (usual or deep)[0]
        column = self._file.columns[image]
        if column.dtype.kind not in "iuf" or len(column.shape) not in (2, 3, 4):
            raise self._unknown(
                f"images as numbers (galaxies, bands, side, side), (galaxies, side, side) or flat "
                f"expected, found {image} {column}"
            )
        return image

    def _check_size(self, name: str) -> None:
        """Refuse an array that would take all memory for a single galaxy."""
        column = self._file.columns[name]
        if not 0 < column.row_bytes <= MAX_CHUNK_BYTES:
            raise InvalidInput(
                f"{self._file.path}: {name}: at most {MAX_CHUNK_BYTES // MB} MB of each galaxy "
                f"expected, found {column}"
            )

    def _sample(self, names: list[str]) -> Block:
        if not names:
            return {}
        return next(self._file.read(names, 1))

    def _bands(self, image: str, band: str | None, sample: Block) -> BandChoice:
        asked = self._choices.bands
        count = _channels(self._file.columns[image], len(asked))
        names: tuple[str, ...] | None = None
        if band is not None:
            names = tuple(str(name).strip() for name in np.ravel(sample[band][0]))
            count = count or len(names)
            if len(names) != count:
                raise self._unknown(f"{band} names {len(names)} bands, and {image} has {count}")
        if count is not None and count > MAX_BANDS:
            raise self._unknown(f"at most {MAX_BANDS} bands expected, found {count} in {image}")
        return choose_bands(names, count, asked, f"{self._file.path}: {image}")

    def _side(self, image: str, bands: int) -> int:
        height, width = _sides(self._file.columns[image], bands)
        wanted = self._choices.side
        if wanted is None and height != width:
            raise self._unknown(
                f"square images expected, found {image} of {height} × {width} pixels; --side cuts "
                "out the middle"
            )
        side = height if wanted is None else wanted
        check_side(side, height, width, f"{self._file.path}: {image}")
        return side

    def _columns(self, rows: int, bands: Sequence[str]) -> dict[str, str]:
        choices = self._choices
        columns: dict[str, str] = {}
        for name, usual, chosen in (
            ("object_id", ID_NAMES, choices.object_id),
            ("ra", RA_NAMES, choices.ra),
            ("dec", DEC_NAMES, choices.dec),
            ("redshift", REDSHIFT_NAMES, choices.redshift),
        ):
            if chosen is not None:
                option = "--id" if name == "object_id" else f"--{name}"
                columns[name] = self._named(chosen, option, rows)
            elif (found := self._scalar(usual, rows)) is not None:
                columns[name] = found
        for index, name in enumerate(choices.magnitude):
            columns[f"magnitude {index}"] = self._named(name, "--magnitude", rows)
        if not choices.magnitude:
            vectors = [self._by_name[name] for name in _MAGNITUDE_VECTORS if name in self._by_name]
            vectors = [name for name in vectors if len(self._file.columns[name].shape) == 2]
            if vectors:
                columns["magnitude 0"] = self._named(vectors[0], "--magnitude", rows)
            else:
                columns |= self._by_band(rows, bands)
        for name in choices.keep:
            columns.setdefault(name.strip(), self._named(name.strip(), "--keep", rows))
        return columns

    def _by_band(self, rows: int, bands: Sequence[str]) -> dict[str, str]:
        """Return the columns of magnitudes, one per band, that have usual names."""
        for pattern in MAGNITUDE_NAMES:
            found = [self._scalar((pattern.format(band),), rows) for band in bands]
            named = [name for name in found if name is not None]
            if len(named) == len(bands):
                return {f"magnitude {index}": name for index, name in enumerate(named)}
        return {}

    def _scalar(self, names: Sequence[str], rows: int) -> str | None:
        for name in names:
            found = self._by_name.get(name.lower())
            if found is None or len(self._file.columns[found].shape) != 1:
                continue
            if self._file.columns[found].shape[0] != rows:  # not passed over: whose are they?
                raise self._unknown(f"{found!r} has another number of rows than {rows}")
            return found
        return None

    def _magnitudes(self, columns: dict[str, str], given: list[str], choice: BandChoice) -> int:
        shapes = [self._file.columns[columns[name]].shape[1:] for name in given]
        if len(shapes) == 1 and len(shapes[0]) == 1:
            count = int(shapes[0][0])
            if count > MAX_BANDS:
                raise self._unknown(f"--magnitude: at most {MAX_BANDS} bands expected")
            return count
        if any(shape != () for shape in shapes):
            raise self._unknown(
                "--magnitude: one array (galaxies, bands), or one per band expected"
            )
        if shapes and len(shapes) != len(choice.bands):
            raise self._unknown(
                f"--magnitude: one array for each of {', '.join(choice.bands)} expected, found "
                f"{len(shapes)}"
            )
        return len(shapes)


def _channels(column: ArrayColumn, asked: int) -> int | None:
    """Return the channels of an image; None where only the bands' names can say."""
    shape = column.shape
    if len(shape) == 4:
        return shape[3] if _last(shape) else shape[1]
    return 1 if len(shape) == 3 else asked or None


def _last(shape: tuple[int, ...]) -> bool:
    """Say whether the channels come last: (galaxies, side, side, bands)."""
    return len(shape) == 4 and shape[1] == shape[2] != shape[3]


def _sides(column: ArrayColumn, bands: int) -> tuple[int, int]:
    shape = column.shape
    if len(shape) == 4:
        return (shape[1], shape[2]) if _last(shape) else (shape[2], shape[3])
    if len(shape) == 3:
        return shape[1], shape[2]
    side = math.isqrt(shape[1] // bands)
    if side * side * bands != shape[1]:
        raise InvalidInput(
            f"flat images of {bands} bands expected, so {bands} × side × side numbers, found "
            f"{shape[1]:,}"
        )
    return side, side


def blocks(file: ArrayFile, layout: Layout) -> Iterator[tuple[int, NDArray[np.float32], Block]]:
    """Yield first row, images (b, bands, side, side) and the other columns of all galaxies.

    Raises
    ------
    InvalidInput
        The file cannot be read, or bands or pixel scale change within it.
    """
    rows = max(1, BLOCK_BYTES // sum(file.columns[name].row_bytes for name in layout.reads))
    start = 0
    for block in file.read(layout.reads, rows):
        _check_constant(file, layout, block, start)
        values = block.pop(layout.image)
        yield start, _cutouts(values, layout), block
        start += len(values)
    if start != layout.rows:
        raise InvalidInput(f"{file.path}: {layout.rows:,} galaxies expected, found {start:,}")


def _check_constant(file: ArrayFile, layout: Layout, block: Block, start: int) -> None:
    if layout.band is not None:
        found = np.char.strip(np.reshape(block[layout.band], (-1, len(layout.choice.names))))
        other = (found != np.array(layout.choice.names)).any(axis=1)
        if other.any():
            row = int(np.flatnonzero(other)[0])
            raise InvalidInput(
                f"{file.path}: bands {', '.join(layout.choice.names)} expected in every row, found "
                f"{', '.join(found[row])} in row {start + row}"
            )
    if layout.scale is not None and layout.pixel_scale is not None:
        scales = np.asarray(np.ma.filled(block[layout.scale].astype(float), np.nan))
        off = ~(np.abs(scales / layout.pixel_scale - 1) <= _SCALE_TOLERANCE)
        if off.any():
            raise InvalidInput(
                f"{file.path}: one pixel scale expected, {layout.pixel_scale} arcsec, found "
                f"{scales[off].ravel()[0]} from row {start} on; resample the images, or say "
                "--pixel-scale"
            )


def _cutouts(values: Any, layout: Layout) -> NDArray[np.float32]:
    """Return the middle of the images in the chosen bands, missing pixels as NaN."""
    with np.errstate(over="ignore"):  # beyond float32 it becomes inf, and is counted by the rank
        image = np.ma.filled(np.ma.asarray(values).astype(np.float32, copy=False), np.nan)
    count, bands = len(image), len(layout.choice.names)
    if image.ndim == 2:
        side = math.isqrt(image.shape[1] // bands)
        image = image.reshape(count, bands, side, side)
    elif image.ndim == 3:
        image = image[:, None]
    elif _last(image.shape):
        image = np.moveaxis(image, 3, 1)
    cut = middle(image, layout.shape.side)[:, list(layout.choice.channels)]
    cutouts: NDArray[np.float32] = np.ascontiguousarray(cut)
    return cutouts
