"""What the galaxies of a partition look like: bands, side, magnitudes, pixel scale.

Shapes are read off the tensors. What shapes cannot say, a record ``extra/metadata.json`` may: a
JSON object whose keys ``bands``, ``magnitude_bands``, ``pixel_scale`` and ``photometric_system``
are known here; any others belong to whoever wrote the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from cosmicai.errors import CosmicAIError, PartitionMismatch
from cosmicai.facts import BAND_NAMES, BANDS, IMAGE_SIZE, PIXEL_SCALE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cosmicai.model.interface import Inputs

CATALOGUE_RECORD: Final = "extra/catalogue.jsonl"
MAX_LINE: Final = 64 * 1024
"""Of that record, whose first line describes the columns; see ``cosmicai.partition.catalogue``."""
METADATA_RECORD: Final = "extra/metadata.json"
METADATA_BYTES: Final = 1024 * 1024
MAX_BANDS: Final = 64
MIN_SIDE: Final = 4
MAX_SIDE: Final = 1024
_MAX_NAME: Final = 64


class MetadataError(CosmicAIError):
    """The metadata contradict the tensors, or are not of the documented form."""


@dataclass(frozen=True)
class GalaxyShape:
    """The shape of each galaxy of a partition.

    Attributes
    ----------
    bands
        Channels of its image.
    side
        Pixels on a side of its image.
    magnitudes
        How many magnitudes it has; 0 without any.
    """

    bands: int = BANDS
    side: int = IMAGE_SIZE
    magnitudes: int = BANDS

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return self.bands, self.side, self.side

    @property
    def nbytes(self) -> int:
        """Image, magnitudes and redshift in float32."""
        return 4 * (math.prod(self.image) + self.magnitudes + 1)


SDSS_SHAPE: Final = GalaxyShape()


@dataclass(frozen=True)
class Imaging:
    """How the galaxies of a partition were observed.

    Attributes
    ----------
    bands
        Names of the images' channels, in order; None where unknown.
    magnitude_bands
        Names of the magnitudes' bands, in order; None where unknown.
    pixel_scale
        Arcseconds on a side of a pixel; None where unknown.
    photometric_system
        Such as ``SDSS``; None where unknown.
    stated
        Whether the file says so. One that says nothing and has five bands is taken for SDSS, as
        every partition was once.
    """

    bands: tuple[str, ...] | None = None
    magnitude_bands: tuple[str, ...] | None = None
    pixel_scale: float | None = None
    photometric_system: str | None = None
    stated: bool = True

    def to_metadata(self) -> dict[str, Any]:
        """Return the keys of a metadata record."""
        known = {
            "bands": self.bands and list(self.bands),
            "magnitude_bands": self.magnitude_bands and list(self.magnitude_bands),
            "pixel_scale": self.pixel_scale,
            "photometric_system": self.photometric_system,
        }
        return {key: value for key, value in known.items() if value is not None}


SDSS: Final = Imaging(BAND_NAMES, BAND_NAMES, PIXEL_SCALE, "SDSS", stated=False)


def imaging_of(metadata: Mapping[str, Any] | None, shape: GalaxyShape) -> Imaging:
    """Return what a file's metadata say about its galaxies.

    Raises
    ------
    MetadataError
        They name another number of bands than there are, or are of other types.
    """
    known = {
        key: value
        for key, value in (metadata or {}).items()
        if key in {"bands", "magnitude_bands", "pixel_scale", "photometric_system"}
        and value is not None
    }
    if not known:
        return SDSS if (shape.bands, shape.magnitudes) == (BANDS, BANDS) else Imaging(stated=False)
    bands = _names(known, "bands", shape.bands)
    if set(known) == {"bands"} and bands == BAND_NAMES:
        return replace(SDSS, stated=True)  # as earlier releases wrote them
    magnitude_bands = _names(known, "magnitude_bands", shape.magnitudes)
    if magnitude_bands is None and bands is not None and shape.magnitudes == shape.bands:
        magnitude_bands = bands
    scale, system = known.get("pixel_scale"), known.get("photometric_system")
    if scale is not None and (type(scale) not in (int, float) or not 0 < scale < math.inf):
        raise MetadataError(f"pixel_scale: arcseconds above 0 expected, found {scale!r:.80}")
    if system is not None and (type(system) is not str or len(system) > _MAX_NAME):
        raise MetadataError(
            f"photometric_system: text of at most {_MAX_NAME} characters expected, "
            f"found {system!r:.80}"
        )
    return Imaging(bands, magnitude_bands, scale and float(scale), system)


def _names(metadata: Mapping[str, Any], key: str, count: int) -> tuple[str, ...] | None:
    names = metadata.get(key)
    if names is None:
        return None
    if not isinstance(names, list) or not all(
        type(name) is str and 0 < len(name) <= _MAX_NAME for name in names
    ):
        raise MetadataError(f"{key}: a list of names expected, found {names!r:.80}")
    if len(names) != count:
        raise MetadataError(
            f"{key}: as many names as the tensor has bands ({count}) expected, found "
            f"{', '.join(names)!r:.300}"
        )
    if len(set(names)) != count:
        raise MetadataError(f"{key}: different names expected, found {', '.join(names)!r:.300}")
    return tuple(names)


def check_inputs(
    inputs: Inputs,
    shape: GalaxyShape,
    imaging: Imaging,
    columns: Mapping[str, str],
) -> None:
    """Refuse a partition that is not what a model takes.

    Names of bands are compared where the partition states them.

    Parameters
    ----------
    columns
        Name → type of the columns of its catalogue.

    Raises
    ------
    PartitionMismatch
        Saying what the model takes, what the partition has, and what to do.
    """
    image, magnitude = inputs.image, inputs.magnitude
    if shape.side != image.side:
        raise PartitionMismatch(
            f"the model takes images of {image.side} × {image.side} pixels, and these have "
            f"{shape.side} × {shape.side}; cut them again (data from-fits --side {image.side}, "
            f"data make --side {image.side}), or use another model"
        )
    stated = imaging if imaging.stated else Imaging()
    _check_bands("images", image.bands, shape.bands, stated.bands)
    if magnitude is not None:
        _check_bands("magnitudes", magnitude.bands, shape.magnitudes, stated.magnitude_bands)
    for scalar in inputs.scalars:
        found = columns.get(scalar.name)
        if found is None or found == "str":
            there = ", ".join(columns) or "no columns"
            raise PartitionMismatch(
                f"the model takes {scalar.name!r} from a column of numbers of that name in the "
                f"partition's catalogue, and found "
                f"{there if found is None else f'text in column {scalar.name!r}'}; carry it along "
                f"with --keep {scalar.name}"
            )


def _check_bands(
    what: str, expected: Sequence[str], count: int, names: tuple[str, ...] | None
) -> None:
    if count == len(expected) and names in (None, tuple(expected)):
        return
    found = ", ".join(names) if names else f"{count} bands" if count else "none"
    raise PartitionMismatch(
        f"the model takes {what} in {', '.join(expected)} ({len(expected)}), in this order, and "
        f"the partition has {found} ({count}); make partitions of these bands (--bands of data "
        "make, split and convert), or use another model"
    )
