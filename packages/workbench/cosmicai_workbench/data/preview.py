"""A contact sheet: the first galaxies of a partition, in colour."""

from pathlib import Path

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.partition.reader import open_partition
from cosmicai.whole_files import whole_file
from numpy.typing import NDArray

from cosmicai_workbench.data.files import file_errors

_COLUMNS = 10
_STRETCH, _SOFTNESS = 0.5, 8
_BALANCE = (0.8, 1.0, 1.6)
"""Factors of i, r and g, so that a galaxy of middling colour comes out white."""


def colour_image(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return (32, 32, 3) bytes of one galaxy (5, 32, 32): i, r, g as red, green, blue.

    By the asinh stretch of Lupton et al. (2004), which keeps faint outskirts and bright cores.
    """
    from astropy.visualization import make_lupton_rgb

    g, r, i = (np.nan_to_num(image[band]) for band in (1, 2, 3))
    red, green, blue = (factor * layer for factor, layer in zip(_BALANCE, (i, r, g), strict=True))
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
    with open_partition(partition, batch_size=count) as reader:
        if not reader.num_samples:
            raise InvalidInput(f"{partition} holds no galaxies")
        batch = next(iter(reader))
    drawn = len(batch)
    columns = min(_COLUMNS, drawn)
    rows = -(-drawn // columns)
    figure = Figure(figsize=(columns, 1.15 * rows), dpi=100)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, redshift in zip(axes, batch.image, batch.redshift, strict=False):
        axis.imshow(colour_image(image), origin="lower", interpolation="nearest")
        label = f"z = {redshift:.3f}" if np.isfinite(redshift) else "z unknown"
        axis.set_title(label, fontsize=7, pad=1.5)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.15 / (1.15 * rows), 0.04, 0.2)
    with file_errors(output), whole_file(output) as partial:
        figure.savefig(partial, format=output.suffix[1:].lower())
    return drawn
