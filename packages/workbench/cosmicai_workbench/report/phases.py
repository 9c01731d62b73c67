"""What each rank did when: the phases of the timeline, and who straggled."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from cosmicai.schema import RankRecord
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

STRAGGLER_FACTOR = 1.5
"""A straggler works longer, queue and cold start apart, than this many times the median rank."""


def phases(
    records: "Sequence[RankRecord]",
    start: "datetime",
    init_seconds: "Mapping[str, float]",
    *,
    barrier: bool = False,
) -> "dict[str, tuple[Floats, Floats]]":
    """Return phase → (start, end) in seconds since ``start``, arrays over the records.

    A rank queues from the moment the first rank's sandbox was there. Reading and predicting take
    turns, batch by batch; each is shown as one bar of its summed length. What is left before the
    end is writing the results; what a sandbox's first rank needs longer for that than the others is
    imports, and so part of its cold start.

    Parameters
    ----------
    init_seconds
        Request id → seconds of the sandbox's init phase, from the function's REPORT lines; a
        request that is not named counts none.
    barrier
        Whether the ranks met afterwards; each then waited until the last one was done.
    """

    def since(moments: "Sequence[datetime]") -> "Floats":
        return np.array([(moment - start).total_seconds() for moment in moments])

    started = since([record.started_at for record in records])
    finished = since([record.finished_at for record in records])
    created = started - np.array([init_seconds.get(r.request_id, 0.0) for r in records])
    queued = np.full_like(created, created.min())
    loaded = started + np.array([record.model_load_seconds for record in records])
    loaded += _once(records, finished - loaded)
    read = loaded + np.array([record.wait_seconds for record in records])
    predicted = np.minimum(read + np.array([r.total_cpu_time for r in records]), finished)
    found = {
        "queue": (queued, created),
        "cold start": (created, loaded),
        "read": (loaded, read),
        "predict": (read, predicted),
        "write": (predicted, finished),
    }
    if barrier:
        found["barrier"] = (finished, np.full_like(finished, finished.max()))
    return found


def _once(records: "Sequence[RankRecord]", after_loading: "Floats") -> "Floats":
    """Return what first ranks of sandboxes took longer than others, beside predicting."""
    rest = after_loading - np.array([r.wait_seconds + r.total_cpu_time for r in records])
    cold = np.array([record.cold_start for record in records], bool)
    if cold.all():  # nothing to compare with
        return np.zeros_like(rest)
    return np.where(cold, np.maximum(rest - np.median(rest[~cold]), 0.0), 0.0)


def stragglers(seconds: "Floats", most: int = 5) -> list[int]:
    """Return the positions of the ranks that took much longer than the median, slowest first."""
    if seconds.size < 3:
        return []
    slow = np.flatnonzero(seconds > STRAGGLER_FACTOR * np.median(seconds))
    return [int(i) for i in slow[np.argsort(-seconds[slow], kind="stable")][:most]]
