"""Flags: what a user should know of a galaxy before using its redshift, one bit for each reason.

The bits are declared in :data:`FLAGS` alone. Most compare a galaxy with what the model was trained
on, whose ranges :class:`TrainingRanges` gathers and the bundle holds (``training`` in
``config.json``); of a model that does not say, only the bits that need no ranges are set.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from cosmicai.facts import ZERO_POINT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from cosmicai.columns import PredictedBatch
    from cosmicai.model.interface import Inputs, Range, Training


@dataclass(frozen=True, slots=True)
class Flag:
    """One bit of the column ``flags``."""

    bit: int
    name: str
    description: str

    @property
    def value(self) -> int:
        """What the bit adds to ``flags``."""
        return 1 << self.bit


NO_PREDICTION: Final = Flag(0, "no_prediction", "no prediction: an input is not finite, or absent")
MAGNITUDE: Final = Flag(1, "magnitude", "a magnitude is outside the training range")
COLOUR: Final = Flag(2, "colour", "a colour is outside the training range")
IMAGE: Final = Flag(
    3, "image", "the image does not match the magnitudes, or its colours are outside the range"
)
REDSHIFT: Final = Flag(4, "redshift", "predicted at the edge of the trained redshifts, or beyond")
EMPTY_BAND: Final = Flag(5, "empty_band", "all pixels of a band are the same")
FAILED_RANK: Final = Flag(6, "failed_rank", "the rank that was to predict it failed")
DUPLICATE: Final = Flag(7, "duplicate", "the same object is in the data set more than once")

FLAGS: Final = (
    NO_PREDICTION,
    MAGNITUDE,
    COLOUR,
    IMAGE,
    REDSHIFT,
    EMPTY_BAND,
    FAILED_RANK,
    DUPLICATE,
)

_PERCENTILES: Final = (0.1, 99.9)
"""Of the training set: what lies between them is the range, before it is widened."""
_WIDENED: Final = 0.07
"""Part of the range that is added at each end; redshifts are not widened."""
_LEAST_FLUX: Final = 1e-3
"""What a band without light counts as: magnitude 30, if pixels are nanomaggies."""
_RANGES: Final = {
    "magnitude": MAGNITUDE,
    "colour": COLOUR,
    "image_magnitude": IMAGE,
    "image_colour": IMAGE,
}
"""Field of ``Training`` → what being outside of one of its ranges means."""


def flags_of(batch: PredictedBatch, inputs: Inputs, training: Training | None) -> NDArray[np.int32]:
    """Return the flags (b,) that follow from predicting a batch.

    Those of failed ranks and of duplicates are set where a catalogue is put together.
    """
    import numpy as np

    pixels = _pixels(batch.image)
    flags = np.zeros(len(batch), np.int32)
    flags[~np.isfinite(batch.redshift)] |= NO_PREDICTION.value
    flags[(pixels.max(axis=2) == pixels.min(axis=2)).any(axis=1)] |= EMPTY_BAND.value
    if training is None:
        return flags
    low, high = training.redshift
    flags[(batch.redshift <= low) | (batch.redshift >= high)] |= REDSHIFT.value
    measured = _measured(batch.image, batch.magnitude, inputs)
    for group, flag in _RANGES.items():
        for name, (low, high) in getattr(training, group).items():
            values = measured[group].get(name)
            if values is not None:
                flags[(values < low) | (values > high)] |= flag.value
    return flags


def count_flags(flags: NDArray[np.int32]) -> dict[str, int]:
    """Return how many galaxies have each flag, by its name; those that none has are left out."""
    import numpy as np

    counts = {flag.name: int(np.count_nonzero(flags & flag.value)) for flag in FLAGS}
    return {name: count for name, count in counts.items() if count}


def add_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up the counts of several ranks, in the order of :data:`FLAGS`."""
    totals = dict.fromkeys((flag.name for flag in FLAGS), 0)
    for part in parts:
        for name, count in part.items():
            totals[name] = totals.get(name, 0) + count
    return {name: count for name, count in totals.items() if count}


class TrainingRanges:
    """Gathers the ranges of a training set, galaxy by galaxy, in memory that does not grow.

    Parameters
    ----------
    inputs
        What the model takes.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._galaxies = 0
        self._histograms: dict[tuple[str, str], _Histogram] = {}

    def add(
        self,
        image: NDArray[np.float32],
        magnitude: NDArray[np.float32],
        redshift: NDArray[np.float32],
    ) -> None:
        """Add galaxies: image (b, bands, side, side), magnitude (b, m), true redshift (b,)."""
        self._galaxies += len(image)
        self._histogram("redshift", "").add(redshift)
        for group, columns in _measured(image, magnitude, self._inputs).items():
            for name, values in columns.items():
                self._histogram(group, name).add(values)

    def merge(self, other: TrainingRanges) -> None:
        """Add the galaxies of another part of the same training set."""
        self._galaxies += other._galaxies
        for key, histogram in other._histograms.items():
            self._histogram(*key).counts += histogram.counts

    def training(self, name: str, digest: str = "") -> Training:
        """Return the ranges; ``name`` and ``digest`` identify the training set.

        Raises
        ------
        ValueError
            There is no galaxy with a known redshift.
        """
        from cosmicai.model.interface import Training

        groups: dict[str, dict[str, Range]] = {group: {} for group in _RANGES}
        for (group, label), histogram in self._histograms.items():
            if group in groups and histogram.counts.any():
                groups[group][label] = histogram.range(_WIDENED)
        return Training(
            name=name,
            galaxies=self._galaxies,
            redshift=self._histogram("redshift", "").range(),
            digest=digest,
            **groups,
        )

    def _histogram(self, group: str, name: str) -> _Histogram:
        scale = 5.0 if group == "redshift" else 1.0
        return self._histograms.setdefault((group, name), _Histogram(scale))


class _Histogram:
    """Counts of one quantity, in bins of 0.01 over ``scale``."""

    low, step, bins = -20.0, 0.01, 8000

    def __init__(self, scale: float) -> None:
        import numpy as np

        self.scale = scale
        self.counts = np.zeros(self.bins, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        import numpy as np

        finite = values[np.isfinite(values)].astype(np.float64) * self.scale
        positions = np.clip((finite - self.low) / self.step, 0, self.bins - 1).astype(np.int64)
        self.counts += np.bincount(positions, minlength=self.bins)

    def range(self, widened: float = 0.0) -> Range:
        import numpy as np

        below = np.cumsum(self.counts)
        if not below[-1]:
            raise ValueError("no galaxy to take a range of")
        first, last = (
            int(np.searchsorted(below, below[-1] * percent / 100, side="right"))
            for percent in _PERCENTILES
        )
        low = self.low + first * self.step
        high = self.low + (min(last, self.bins - 1) + 1) * self.step
        margin = (high - low) * widened
        return round((low - margin) / self.scale, 4), round((high + margin) / self.scale, 4)


def _pixels(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return image.reshape(*image.shape[:2], image.shape[2] * image.shape[3])


def _measured(
    image: NDArray[np.float32], magnitude: NDArray[np.float32], inputs: Inputs
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return what is compared with the training set: group → name → values (b,)."""
    import numpy as np

    bands = inputs.magnitude.bands if inputs.magnitude else ()
    given = dict(zip(bands, magnitude.T, strict=False))
    with np.errstate(invalid="ignore", over="ignore"):
        flux = _pixels(image).sum(axis=2).astype(np.float64)
        light = ZERO_POINT - 2.5 * np.log10(np.maximum(flux, _LEAST_FLUX))
        # What the image shows beyond the given magnitudes, where there are any.
        shown = {
            band: values - given[band] if band in given else values
            for band, values in zip(inputs.image.bands, light.T, strict=True)
        }
        return {
            "magnitude": given,
            "colour": _colours(given),
            "image_magnitude": {band: shown[band] for band in shown if band in given},
            "image_colour": _colours(shown),
        }


def _colours(magnitudes: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the differences of neighbouring bands, such as ``u-g``."""
    return {
        f"{one}-{other}": magnitudes[one] - magnitudes[other] for one, other in pairwise(magnitudes)
    }
