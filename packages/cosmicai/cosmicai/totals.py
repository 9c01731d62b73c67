"""What the records of ranks add up to: the fields of a summary that follow from them alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cosmicai.flags import add_counts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cosmicai.schema import Origin, RankRecord


def totals(records: Sequence[RankRecord]) -> dict[str, Any]:
    """Return what ranks read and predicted, and with which model, where all had the same."""
    digests = {record.model_digest for record in records if record.num_samples}
    return {
        "num_samples": sum(record.num_samples for record in records),
        "num_bytes": sum(record.num_bytes for record in records),
        "num_nonfinite_pixels": sum(record.num_nonfinite_pixels for record in records),
        "num_nonfinite_magnitudes": sum(record.num_nonfinite_magnitudes for record in records),
        "num_unpredicted": sum(record.num_unpredicted for record in records),
        "flag_counts": add_counts(record.flag_counts for record in records),
        "origin": _origin({record.origin for record in records if record.origin}),
        "model_digest": digests.pop() if len(digests) == 1 else None,
    }


def _origin(origins: set[Origin]) -> Origin | None:
    """Return what the origins say alike of the images; None where models differ."""
    common = origins.pop() if origins else None
    for other in origins:
        if common is None:
            break
        unlike = {
            name: None
            for name in ("pixel_scale", "photometric_system")
            if getattr(common, name) != getattr(other, name)
        }
        common = common.model_copy(update=unlike)
        if common != other.model_copy(update=unlike):
            common = None
    return common


def pace(records: Sequence[RankRecord]) -> dict[str, Any]:
    """Return how fast ranks of one execution were, and what they took.

    Inference lasts from the start of the first rank with data to the end of the last.
    """
    working = [record for record in records if record.num_samples]
    seconds = 0.0
    if working:
        first = min(record.started_at for record in working)
        last = max(record.finished_at for record in working)
        seconds = elapsed(first, last)
    samples = sum(record.num_samples for record in working)
    return {
        "inference_seconds": seconds,
        "samples_per_second": samples / seconds if seconds else 0.0,
        "throughput_bps": math.fsum(record.throughput_bps for record in records),
        "peak_memory_mb": max((record.total_cpu_memory for record in records), default=0.0),
        "cold_starts": sum(record.cold_start for record in records),
    }


def elapsed(start: datetime, end: datetime) -> float:
    """Return the seconds between two times; none if the clock was set back meanwhile."""
    return max(0.0, (end - start).total_seconds())
