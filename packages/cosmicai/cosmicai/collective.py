"""The Invoke FMI step: all ranks meet at a barrier and reduce their figures; rank 0 writes them.

It runs in a small function of its own after Model Inference, so that no large one idles at the
barrier. Every rank takes part, those without data, too. A rank that failed is known to the others
through its error handler (an event with ``failure``), and they fail at once, naming it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cosmicai import keys, quality, storage
from cosmicai.claim import require_claim, write_owned
from cosmicai.errors import FmiTimeout, IncompleteResults, ObjectNotFound
from cosmicai.facts import FUNCTION_MEMORY_MB
from cosmicai.fmi_channels import DEFAULT_CHANNEL, find_channel
from cosmicai.observability import logger
from cosmicai.schema import CollectiveEvent, CollectiveResult, QualityStatistics, RankRecord, parse
from cosmicai.settings import CollectiveSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fmilib import Communicator

NAME = "collective"
COUNTS = (
    "num_samples",
    "num_bytes",
    "num_batches",
    "num_nonfinite_pixels",
    "num_nonfinite_magnitudes",
    "num_unpredicted",
)
SECONDS = ("total_cpu_time", "s3_total_time", "wait_seconds", "model_load_seconds")
MAXIMA = ("total_cpu_time", "total_cpu_memory", "s3_max_time", "num_samples")
# A duplicate of an execution's rank waits for the collective of the first one.
_LOOK_AGAIN = 0.5


def run_collective(event: CollectiveEvent, remaining_seconds: float) -> dict[str, Any]:
    """Take part in the collective, or abort it on behalf of a rank that failed.

    Parameters
    ----------
    event
        The rank's item of the manifest; with ``failure``, why the rank gave up.
    remaining_seconds
        What is left to this function; the collective ends before that.

    Raises
    ------
    FmiTimeout
        Ranks did not come in time; the message names them.
    fmilib.FmiPeerLost, fmilib.FmiAborted
        Ranks failed; the message names them.
    ObjectNotFound
        If the rank has no record.
    InvalidInput
        If the stack has no server for the channel.
    """
    end = time.monotonic() + remaining_seconds
    if event.failure is not None:
        return _abort(event, event.failure.Error, event.failure.message)
    if (earlier := _written(event)) is not None:
        # EXPRESS children run at least once: this one ran before, and its peers have gone on.
        return _answer(event, earlier)
    record = parse(
        RankRecord,
        storage.store(event.S3_BUCKET).read_json(keys.rank(event.RESULT_PATH, event.RANK)),
    )
    if record.execution != event.EXECUTION and not event.KEPT:
        raise IncompleteResults(
            f"the record of rank {event.RANK} belongs to another execution, {record.execution}"
        )
    import fmilib

    try:
        result = _reduce(event, record, lambda: end - time.monotonic())
    except fmilib.FmiDuplicateRank:
        result = _await_first(event, end)
    except fmilib.FmiTimeout as error:
        raise FmiTimeout(str(error)) from error
    return _answer(event, result)


def check(
    agreed: CollectiveResult, records: Sequence[RankRecord], merged: QualityStatistics
) -> None:
    """Hold what the ranks agreed on against their records and the sum of their quality.

    Raises
    ------
    IncompleteResults
        Naming the figure that differs: the records are not those that the ranks reduced.
    """
    for name in COUNTS:
        expected = sum(getattr(record, name) for record in records)
        if agreed.sums[name] != expected:
            raise IncompleteResults(
                f"the ranks agreed on {name} {agreed.sums[name]:g} in fmi.json, "
                f"their records add up to {expected:g}"
            )
    if agreed.quality_statistics.count != merged.count:
        raise IncompleteResults(
            f"the ranks agreed on the quality of {agreed.quality_statistics.count} galaxies in "
            f"fmi.json, their records hold {merged.count}"
        )


def _reduce(
    event: CollectiveEvent, record: RankRecord, remaining: Callable[[], float]
) -> CollectiveResult | None:
    """Meet the other ranks; return the result on rank 0."""
    import fmilib as fmi

    started = time.monotonic()
    settings = CollectiveSettings.read()
    with _communicator(event, settings, remaining) as comm:
        comm.hint(fmi.hints.fast)
        comm.barrier()
        waited = time.monotonic() - started
        # One reduction of all figures: over an object store, each takes a rank's time twice.
        total = comm.reduce(
            _figures(record, waited), 0, fmi.func(fmi.op.custom, _merge), codec=fmi.codecs.json
        )
        result = None
        if comm.rank == 0:
            merged = QualityStatistics(**total["quality"])
            result = CollectiveResult(
                execution=event.EXECUTION,
                world_size=comm.size,
                channel=event.FMI_CHANNEL or DEFAULT_CHANNEL,
                sums=total["counts"],
                seconds=total["seconds"],
                maxima=total["maxima"],
                longest_wait_seconds=total["waited"],
                memory_limit_mb=settings.memory_mb,
                quality_statistics=merged,
                quality=quality.figures(merged),
            )
            _write(event, result)
    logger.info("collective", extra={"waited": round(waited, 3), "channel": event.FMI_CHANNEL})
    return result


def _write(event: CollectiveEvent, result: CollectiveResult) -> None:
    """Write what the ranks agreed on, if the result path is still the execution's."""

    def require() -> None:
        require_claim(event.EXECUTION, event.S3_BUCKET, event.RESULT_PATH)

    body = storage.json_bytes(result.model_dump(mode="json"))
    store = storage.store(event.S3_BUCKET)
    write_owned(store, keys.fmi(event.RESULT_PATH), body, event.EXECUTION, require)


def _figures(record: RankRecord, waited: float) -> dict[str, Any]:
    """Return what a rank brings into the reduction."""
    return {
        "counts": {name: getattr(record, name) for name in COUNTS},
        "seconds": {name: float(getattr(record, name)) for name in SECONDS},
        "maxima": {name: float(getattr(record, name)) for name in MAXIMA},
        "waited": waited,
        "quality": record.quality.model_dump(),
    }


def _merge(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of the ranks of ``a`` and those of ``b`` together."""
    parts = (QualityStatistics(**a["quality"]), QualityStatistics(**b["quality"]))
    return {
        "counts": {name: a["counts"][name] + b["counts"][name] for name in COUNTS},
        "seconds": {name: a["seconds"][name] + b["seconds"][name] for name in SECONDS},
        "maxima": {name: max(a["maxima"][name], b["maxima"][name]) for name in MAXIMA},
        "waited": max(a["waited"], b["waited"]),
        "quality": quality.merge(parts).model_dump(),
    }


def _communicator(
    event: CollectiveEvent, settings: CollectiveSettings, remaining: Callable[[], float]
) -> Communicator:
    from fmilib import Communicator

    channel = find_channel(event.FMI_CHANNEL or DEFAULT_CHANNEL)
    return Communicator(
        event.RANK,
        event.WORLD_SIZE,
        {"backends": channel.backend(event, settings)},
        NAME,
        settings.memory_mb or FUNCTION_MEMORY_MB["invoke_fmi"],
        session=event.EXECUTION,
        timeout=max(1.0, remaining()),
        remaining=remaining,
        token=channel.token(settings),
    )


def _abort(event: CollectiveEvent, error: str, cause: str) -> dict[str, Any]:
    """Tell the ranks that wait, and those to come, that this one will not."""
    from fmilib.fmi_operations import abort_session

    settings = CollectiveSettings.read()
    channel = find_channel(event.FMI_CHANNEL or DEFAULT_CHANNEL)
    abort_session(
        event.WORLD_SIZE,
        event.RANK,
        f"{error}: {cause}"[:500],
        comm_name=NAME,
        session=event.EXECUTION,
        configuration={"backends": channel.backend(event, settings)},
        token=channel.token(settings),
    )
    logger.warning("collective aborted", extra={"error": error, "cause": cause[:500]})
    return {"rank": event.RANK, "aborted": True}


def _written(event: CollectiveEvent) -> CollectiveResult | None:
    try:
        content = storage.store(event.S3_BUCKET).read_json(keys.fmi(event.RESULT_PATH))
    except ObjectNotFound:
        return None
    result = parse(CollectiveResult, content)
    return result if result.execution == event.EXECUTION else None


def _await_first(event: CollectiveEvent, end: float) -> CollectiveResult:
    """Wait for the collective that another process of this rank takes part in."""
    while (result := _written(event)) is None:
        if time.monotonic() + 2 * _LOOK_AGAIN > end:
            raise FmiTimeout(
                f"another process acts as rank {event.RANK}, and its collective has not ended"
            )
        time.sleep(_LOOK_AGAIN)
    return result


def _answer(event: CollectiveEvent, result: CollectiveResult | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"rank": event.RANK, "world_size": event.WORLD_SIZE}
    if result is not None:
        answer["num_samples"] = result.sums["num_samples"]
    return answer
