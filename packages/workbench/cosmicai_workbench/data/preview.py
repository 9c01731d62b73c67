"""A contact sheet: the first galaxies of a partition, in colour."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import BAND_NAMES
from cosmicai.partition.reader import PartitionReader, open_partition
from cosmicai.whole_files import whole_file
from numpy.typing import NDArray

from cosmicai_workbench.files import file_errors

_COLUMNS = 10
_STRETCH, _SOFTNESS = 0.5, 8
_LARGEST = 128
"""Pixels on a side of a galaxy in the picture, about."""
_BRIGHT = 2.0
"""What the brightest half per cent of pixels become, in nanomaggies, of images in other units."""
_BALANCE = (0.8, 1.0, 1.6)
"""Factors of i, r and g, so that a galaxy of middling colour comes out white."""


def colour_bands(bands: Sequence[str]) -> tuple[int, int, int]:
    """Return the channels to show as red, green and blue: i, r, g where there are such bands.

    Else three spread over what there is, the last one (usually the reddest) as red.
    """
    names = [name.rpartition("-")[2].rpartition("_")[2].lower() for name in bands]
    for wanted in (("i", "r", "g"), ("z", "r", "g")):
        if all(names.count(band) == 1 for band in wanted):
            red, green, blue = (names.index(band) for band in wanted)
            return red, green, blue
    last = len(bands) - 1
    return last, last // 2, 0


def colour_image(
    image: NDArray[np.float32], channels: tuple[int, int, int] = colour_bands(BAND_NAMES)
) -> NDArray[np.uint8]:
    """Return (side, side, 3) bytes of one galaxy (bands, side, side).

    By the asinh stretch of Lupton et al. (2004), which keeps faint outskirts and bright cores.

    Parameters
    ----------
    channels
        Those to show as red, green and blue.
    """
    from astropy.visualization import make_lupton_rgb

    layers = [np.nan_to_num(image[channel]) for channel in channels]
    balance = _BALANCE if len(set(channels)) == len(channels) else (1.0, 1.0, 1.0)
    red, green, blue = (factor * layer for factor, layer in zip(balance, layers, strict=True))
    colours: NDArray[np.uint8] = make_lupton_rgb(
        red, green, blue, minimum=0, stretch=_STRETCH, Q=_SOFTNESS
    )
    return colours


def draw_preview(partition: Path, output: Path, count: int = 60) -> int:
    """Draw the first galaxies of a partition with their redshifts; return how many.

    Parameters
    ----------
    partition
        A ``.pt`` file.
    output
        A picture, such as .png; its suffix says the format.
    count
        Galaxies to draw, at most.

    Raises
    ------
    InvalidInput
        The count or the picture's format is out of range, or the picture cannot be written.
    PartitionNotFound, CorruptPartition, UnsafePickle
        The partition cannot be read.
    """
    from matplotlib.figure import Figure

    if not 1 <= count <= 1000:
        raise InvalidInput(f"count: 1 to 1000 expected, found {count}")
    if output.suffix.lower() not in (".png", ".jpg", ".pdf", ".svg"):
        raise InvalidInput(f"output: a name in .png, .jpg, .pdf or .svg expected, found {output}")
    with open_partition(partition) as reader:
        drawn = min(count, reader.num_samples)
        if not drawn:
            raise InvalidInput(f"{partition} holds no galaxies")
        pictures, redshifts = _pictures(reader, drawn)
    columns = min(_COLUMNS, drawn)
    rows = -(-drawn // columns)
    figure = Figure(figsize=(columns, 1.15 * rows), dpi=100)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, picture, redshift in zip(axes, pictures, redshifts, strict=False):
        axis.imshow(picture, origin="lower", interpolation="nearest")
        label = f"z = {redshift:.3f}" if np.isfinite(redshift) else "z unknown"
        axis.set_title(label, fontsize=7, pad=1.5)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.15 / (1.15 * rows), 0.04, 0.2)
    with file_errors(output), whole_file(output) as partial:
        figure.savefig(partial, format=output.suffix[1:].lower())
    return drawn


def _pictures(
    reader: PartitionReader, count: int
) -> tuple[list[NDArray[np.uint8]], list[np.float32]]:
    """Return pictures and redshifts of the first galaxies, large images at lower resolution."""
    channels = colour_bands(reader.bands)
    step = max(1, reader.side // _LARGEST)
    side = reader.side // step
    gain = None if _in_nanomaggies(reader) else np.float32(0)
    pictures: list[NDArray[np.uint8]] = []
    redshifts: list[np.float32] = []
    for batch in reader:
        image = batch.image[: count - len(pictures), :, : side * step, : side * step]
        image = image.reshape(len(image), -1, side, step, side, step).mean(axis=(3, 5))
        if gain == 0:
            brightest = np.nanpercentile(np.where(np.isfinite(image), image, np.nan), 99.5)
            gain = np.float32(_BRIGHT / brightest if brightest > 0 else 1)
        image = image if gain is None else image * gain
        pictures += [colour_image(each, channels) for each in image]
        redshifts += [*batch.redshift[: len(image)]]
        if len(pictures) == count:
            break
    return pictures, redshifts


def _in_nanomaggies(reader: PartitionReader) -> bool:
    """Say whether images are in the unit that the stretch is made for."""
    units = (reader.metadata or {}).get("units")
    stated = units.get("image") if isinstance(units, dict) else None
    return stated == "nanomaggy" or (stated is None and reader.imaging.photometric_system == "SDSS")
