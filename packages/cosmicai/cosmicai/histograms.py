"""Fixed histograms that merge over any number of ranks, packed as text; reading needs no NumPy."""

from __future__ import annotations

import base64
import binascii
import itertools
import struct
import zlib
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cosmicai.errors import CosmicAIError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

_HALVINGS = 40  # of a histogram's range: below 1e-12


@dataclass(frozen=True, slots=True)
class Scale:
    """Equal bins from ``low``; each holds its lower edge."""

    low: float
    width: float
    bins: int

    @property
    def high(self) -> float:
        """Upper edge of the last bin."""
        return self.low + self.bins * self.width

    def count(self, values: NDArray[np.float64]) -> tuple[str, int, int]:
        """Return the packed counts of some values, and how many lie below and above all bins."""
        import numpy as np

        position = np.floor((values - self.low) / self.width)
        inside = position[(position >= 0) & (position < self.bins)].astype(np.int64)
        bins, counts = np.unique(inside, return_counts=True)
        packed = pack(dict(zip(bins.tolist(), counts.tolist(), strict=True)))
        return packed, int((position < 0).sum()), int((position >= self.bins).sum())


class Cumulative:
    """How many of the counted values lie below a value, linear within a bin."""

    def __init__(self, scale: Scale, histogram: Mapping[int, int], below: int = 0) -> None:
        self._scale = scale
        self._bins = sorted(histogram)
        self._counts = [histogram[bin_] for bin_ in self._bins]
        self._sums = list(itertools.accumulate(self._counts, initial=below))

    def below(self, value: float) -> float:
        """Return how many lie below."""
        position = (value - self._scale.low) / self._scale.width
        index = bisect_right(self._bins, position) - 1
        if index < 0:
            return float(self._sums[0])
        part = min(position - self._bins[index], 1.0)
        return self._sums[index] + part * self._counts[index]

    def within(self, center: float, distance: float) -> float:
        """Return how many lie within a distance of ``center``."""
        return self.below(center + distance) - self.below(center - distance)


def pack(histogram: Mapping[int, int]) -> str:
    """Write the occupied bins as text: about 2 bytes a bin, far less than as JSON numbers."""
    if not histogram:
        return ""
    bins = sorted(histogram)
    raw = struct.pack(f"<{len(bins)}H{len(bins)}Q", *bins, *(histogram[bin_] for bin_ in bins))
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def unpack(text: str, bins: int) -> dict[int, int]:
    """Read what :func:`pack` wrote of a histogram with so many bins.

    Raises
    ------
    CosmicAIError
        If the text is something else.
    """
    if not text:
        return {}
    try:
        decoder = zlib.decompressobj()
        raw = decoder.decompress(base64.b64decode(text, validate=True), bins * 10)
        count = len(raw) // 10
        numbers = struct.unpack(f"<{count}H{count}Q", raw)
    except (binascii.Error, zlib.error, struct.error) as error:
        raise CosmicAIError(f"a quality histogram is damaged: {error}") from error
    positions, counts = numbers[:count], numbers[count:]
    if max(positions, default=0) >= bins:
        raise CosmicAIError(f"a quality histogram is damaged: a bin is above {bins}")
    return dict(zip(positions, counts, strict=True))


class Sum:
    """Packed histograms, added up."""

    def __init__(self, bins: int) -> None:
        self._counts = [0] * bins

    def add(self, text: str) -> None:
        """Add what :func:`pack` wrote."""
        counts = self._counts
        for position, count in unpack(text, len(counts)).items():
            counts[position] += count

    def packed(self) -> str:
        """Return the sum."""
        return pack({i: count for i, count in enumerate(self._counts) if count})


def solve(
    function: Callable[[float], float], target: float, low: float, high: float
) -> float | None:
    """Return the middle of where a non-decreasing function equals ``target``, or None."""
    if function(low) > target or function(high) < target:
        return None
    first, last = low, high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < target else (low, middle)
    lower, low, high = low, first, last
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) <= target else (low, middle)
    return (lower + high) / 2
