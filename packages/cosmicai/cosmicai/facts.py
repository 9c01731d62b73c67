"""Facts that several modules need, each stated once; without any import that costs time.

A megabyte is 2^20 bytes throughout, as in Lambda's memory sizes, in its log lines and in the names
of the published partitions ("25MB" holds 25 · 2^20 bytes). Network speeds alone are in decimal
units, Mbit/s of 10^6 bits.
"""

from __future__ import annotations

import math
from typing import Final, Literal

MB: Final = 2**20
"""Bytes."""

BAND_NAMES: Final = ("u", "g", "r", "i", "z")
"""SDSS's bands: the channels of an image and the entries of a magnitude vector, in this order."""
BANDS: Final = len(BAND_NAMES)
R_BAND: Final = BAND_NAMES.index("r")
IMAGE_SIZE: Final = 32
"""Pixels on a side of a cutout."""
PIXEL_SCALE: Final = 0.396
"""Arcseconds of an SDSS pixel."""
ZERO_POINT: Final = 22.5
"""AB magnitude of one nanomaggy."""
GALAXY_BYTES: Final = 4 * (BANDS * IMAGE_SIZE**2 + BANDS + 1)
"""Image, magnitudes and redshift of one galaxy in float32."""
ARCHIVE_BYTES: Final = 4096
"""Upper bound of what a partition holds besides its galaxies."""

BATCH_SIZE: Final = 512
"""Galaxies per batch, unless another size is asked for."""
PART_BYTES: Final = 4 * MB
"""Of a partition, read by one request."""
MAX_CHILDREN: Final = 10_000
"""Children of a Distributed Map that Step Functions runs at once."""

INPUT_LIMIT: Final = 1e9
"""A galaxy with a pixel or magnitude that is NaN or beyond ± this limit is not predicted.

In nanomaggies it is a star of magnitude 0 in one pixel; fill values such as 3.4e38 lie beyond. Up
to it, a model's intermediate values stay far below float32's largest number (in the shipped model
by a factor of 10^26), so that none overflows, which some engines would turn into a plausible
redshift.
"""

OUTLIER_LIMIT: Final = 0.05
"""A galaxy is an outlier when |Δz|/(1+z) is above this."""
WIDE_OUTLIER_LIMIT: Final = 0.15
"""The limit of surveys with broad-band photometry, reported beside the narrower one."""

INTERVAL_PERCENT: Final = (68, 95)
"""How much of the probability the intervals of a redshift hold."""
ODDS_WIDTH: Final = 0.06
"""A redshift's odds are the probability within ± this, times 1 + z_mode, of z_mode."""

Architecture = Literal["arm64", "x86_64"]
"""Processors of Lambda, as AWS names them."""
MIN_MEMORY_MB: Final = 128
MAX_MEMORY_MB: Final = 10_240
"""Lambda's smallest and largest memory size."""
MEMORY_MB_PER_VCPU: Final = 1769
"""Lambda gives one full vCPU at this memory size, and compute in proportion to memory."""
FUNCTION_MEMORY_MB: Final = {"initialize": 1769, "invoke_fmi": 256, "summarize": 1769}
"""Memory sizes that the template fixes, by function folder; a test holds the two together."""
NEW_ACCOUNT_MEMORY_MB: Final = 3008
"""The largest memory size of an account that AWS has not raised yet."""
DEFAULT_INFERENCE_MEMORY_MB: Final = NEW_ACCOUNT_MEMORY_MB
"""Of Model Inference: the default of the template's parameter InferenceMemorySize."""


def galaxies_in(partition_mb: float, galaxy_bytes: int = GALAXY_BYTES) -> int:
    """Return how many whole galaxies fit a partition: 5,113 in 100 MB, as published."""
    return int((partition_mb * MB - ARCHIVE_BYTES) // galaxy_bytes)


def vcpus(memory_mb: float) -> float:
    """Return the vCPUs, whole and in part, that a memory size pays for."""
    return memory_mb / MEMORY_MB_PER_VCPU


def threads(memory_mb: float) -> int:
    """Return the threads that use a memory size's vCPUs in full, at least 1.

    The last one may get only part of a processor's time.
    """
    return max(1, math.ceil(vcpus(memory_mb)))
