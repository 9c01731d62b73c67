"""Which channels of an image to take, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cosmicai.errors import InvalidInput
from cosmicai.partition.imaging import MAX_SIDE, MIN_SIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class BandChoice:
    """Channels of a data set, and those to take.

    Attributes
    ----------
    names
        Of all channels.
    bands
        Of those taken, as they are to be called, in order.
    channels
        Where those are among all.
    """

    names: tuple[str, ...]
    bands: tuple[str, ...]
    channels: tuple[int, ...]


def split_names(text: str | None) -> tuple[str, ...]:
    """Return the names in an option such as ``g,r,i``."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def choose_bands(
    names: Sequence[str] | None, count: int | None, asked: Sequence[str], where: object
) -> BandChoice:
    """Return which channels to take.

    Parameters
    ----------
    names
        Of all channels; None where the file does not say: then ``asked`` names all of them.
    count
        How many channels there are; None where unknown.
    asked
        Those to take, in order, by name, or as ``NAME=NEW`` to call them otherwise; by default all.
    where
        The file, for messages.

    Raises
    ------
    InvalidInput
        There are no such channels, or two would have one name.
    """
    pairs = [(old, new or old) for old, _, new in (part.partition("=") for part in asked)]
    names = tuple(old for old, _ in pairs) if names is None else tuple(names)
    if not names or (count is not None and len(names) != count):
        raise InvalidInput(
            f"{where}: names of the {count or ''} bands expected, in order, such as --bands g,r,i; "
            f"found {', '.join(names) or 'none'}"
        )
    pairs = pairs or [(name, name) for name in names]
    if missing := [old for old, _ in pairs if old not in names]:
        raise InvalidInput(
            f"--bands: among {', '.join(names)} of {where} expected, found {', '.join(missing)}"
        )
    bands = tuple(new for _, new in pairs)
    if len(set(bands)) != len(bands) or len(set(names)) != len(names):
        raise InvalidInput(f"{where}: bands of different names expected, found {', '.join(bands)}")
    return BandChoice(names, bands, tuple(names.index(old) for old, _ in pairs))


def check_side(side: int, height: int, width: int, where: object) -> None:
    """Refuse a side that cannot be cut out of the middle of images.

    Raises
    ------
    InvalidInput
        It is larger than they are, or no partition may have it.
    """
    if side > min(height, width):
        raise InvalidInput(
            f"{where}: --side: at most {min(height, width)} pixels expected, as the images have, "
            f"found {side}"
        )
    if not MIN_SIDE <= side <= MAX_SIDE:
        raise InvalidInput(
            f"{where}: images of {MIN_SIDE} to {MAX_SIDE} pixels expected, found {side}; --side "
            "cuts out the middle"
        )


def middle(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the middle of images (…, height, width)."""
    top, left = ((size - side) // 2 for size in image.shape[-2:])
    return image[..., top : top + side, left : left + side]
