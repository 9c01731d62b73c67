"""The Summarize step: from the ranks' records to one summary, or to the reason there is none."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cosmicai import keys, quality, storage
from cosmicai.claim import holder_of, plan_of, require_claim, write_owned
from cosmicai.collective import check
from cosmicai.cost import cost, execution_usage, round_up_express
from cosmicai.errors import (
    IncompleteResults,
    InvalidInput,
    ObjectNotFound,
    ResultPathInUse,
    StorageDenied,
    readable,
)
from cosmicai.facts import MIN_MEMORY_MB
from cosmicai.observability import logger
from cosmicai.reconcile import Reconciled, reconcile
from cosmicai.schema import (
    CollectiveResult,
    ExecutionInput,
    Failure,
    Plan,
    RankRecord,
    SummarizeEvent,
    Summary,
    parse,
)
from cosmicai.settings import SummarizeSettings
from cosmicai.totals import elapsed, pace, totals

if TYPE_CHECKING:
    from cosmicai.cost import CostBreakdown

NAMED_RANKS = 20
"""Failed ranks named in messages and in the state's output; ``summary.json`` names them all."""
CAUSE_CHARACTERS = 500
_NO_PATH = (InvalidInput, ObjectNotFound, StorageDenied, ResultPathInUse)
"""Where a failure cannot be recorded, and no retry helps: it is still returned, with its reason."""
_TOO_MANY_FAILED = "ExceedToleratedFailureThreshold"  # what the Map itself fails with


def summarize(event: SummarizeEvent) -> Summary:
    """Reconcile the ranks, write ``combined_data.json`` and ``summary.json``.

    With a ``failure`` in the event, record it in ``summary.json`` instead, if the result path
    belongs to this execution.

    Returns
    -------
    Summary
        As written, but naming at most ``NAMED_RANKS`` failed ranks: a state's output is limited.

    Raises
    ------
    IncompleteResults
        If more ranks are missing than the execution tolerates; the summary then says FAILED.
    ResultPathInUse
        If another execution took over the result path.
    """
    summary = _record_failure(event, event.failure) if event.failure else _conclude(event)
    return summary.model_copy(update={"failed_ranks": summary.failed_ranks[:NAMED_RANKS]})


def _conclude(event: SummarizeEvent) -> Summary:
    started = time.perf_counter()
    request = parse(ExecutionInput, event.input)
    plan = plan_of(event.execution.id, request.bucket, request.result_path)
    if plan is None:
        raise IncompleteResults(
            f"key 'result_path': this execution has no plan in s3://{request.bucket}/"
            f"{request.result_path}: Initialize did not finish, or its claim is gone"
        )
    found, agreed = reconcile(plan), _fmi(plan)
    failure = _changed(found) or _missing(plan, found) or _disagreement(plan, found, agreed)
    status = "FAILED" if failure else "PARTIAL" if found.failed else "SUCCEEDED"
    summary = Summary(
        status=status, failure=failure, **_figures(event, plan, found, agreed, started=started)
    )
    if failure:
        _write(request, summary)
        raise IncompleteResults(failure.Cause)
    _write_file(
        request,
        keys.combined_data(plan.result_path),
        found.combined,
        event.execution.id,
    )
    _write(request, summary)
    logger.info(
        "summarized",
        extra={
            "status": status,
            "ranks": f"{summary.ranks_received}/{summary.world_size}",
            "samples": summary.num_samples,
        },
    )
    return summary


def _changed(found: Reconciled) -> Failure | None:
    """Return how the manifest was changed, if so: then what the ranks had to do is unknown."""
    return Failure(Error=IncompleteResults.__name__, Cause=found.changed) if found.changed else None


def _missing(plan: Plan, found: Reconciled) -> Failure | None:
    """Return which ranks are missing, or None if no more are than the execution tolerates."""
    missing = len(found.failed)
    if not missing:
        return None
    tolerated = plan.tolerated_failure_percentage
    if found.records and missing * 100 <= tolerated * plan.world_size:
        return None
    named = "; ".join(
        f"rank {rank.rank} ({rank.error}: {rank.cause[:CAUSE_CHARACTERS]})"
        for rank in found.failed[:NAMED_RANKS]
    )
    more = f"; and {missing - NAMED_RANKS} more" if missing > NAMED_RANKS else ""
    return Failure(
        Error=IncompleteResults.__name__,
        Cause=f"{missing} of {plan.world_size} ranks left no result, and {tolerated:g}% may: "
        f"{named}{more}",
    )


def _disagreement(plan: Plan, found: Reconciled, agreed: CollectiveResult | None) -> Failure | None:
    """Return how the ranks' records differ from what the ranks agreed on, or None."""
    if not plan.fmi or found.failed:
        return None
    cause = "all ranks are there, and fmi.json, which rank 0 wrote, is not"
    if agreed is not None:
        try:
            check(agreed, found.records, found.quality)
        except IncompleteResults as error:
            cause = str(error)
        else:
            return None
    return Failure(Error=IncompleteResults.__name__, Cause=cause)


def _record_failure(event: SummarizeEvent, failure: Failure) -> Summary:
    """Write the reason and what there is to ``summary.json``, if the path is ours to write to."""
    started = time.perf_counter()
    # Step Functions reserves the prefix: the Fail state could not pass the name on.
    failure = Failure(Error=failure.Error.removeprefix("States."), Cause=failure.message)
    summary = Summary(
        status="FAILED",
        failure=failure,
        execution=event.execution,
        input=event.input,
        finished_at=datetime.now(UTC),
    )
    try:
        request = parse(ExecutionInput, event.input)
        holder = holder_of(request.bucket, request.result_path)
    except _NO_PATH as error:
        logger.warning("no result path to record the failure in", extra={"reason": str(error)})
        return summary
    if holder is None or holder.execution != event.execution.id:
        logger.warning("the result path is not this execution's: nothing is written to it")
        return summary
    try:
        plan = plan_of(event.execution.id, request.bucket, request.result_path)
        if plan is None:
            logger.warning("the execution failed before it had a plan")
        else:
            found = reconcile(plan)
            changed = _changed(found)
            if changed and changed.Cause not in failure.Cause:
                said = f"{changed.Cause} (the state machine said: {failure.Error}: {failure.Cause})"
                failure = changed.model_copy(update={"Cause": readable(said)})
            elif failure.Error == _TOO_MANY_FAILED:
                failure = _missing(plan, found) or failure
            summary = Summary(
                status="FAILED",
                failure=failure,
                **_figures(event, plan, found, _fmi(plan), started=started),
            )
    except InvalidInput as error:  # the reason is recorded even where the rest is unknown
        logger.warning("the ranks are not known", extra={"reason": str(error)})
        summary = summary.model_copy(update={"warnings": [str(error)]})
    except _NO_PATH as error:
        logger.warning("the ranks cannot be looked up", extra={"reason": str(error)})
    try:
        _write(request, summary)
    except _NO_PATH as error:
        logger.warning("the failure cannot be recorded", extra={"reason": str(error)})
    return summary


def _figures(
    event: SummarizeEvent,
    plan: Plan,
    found: Reconciled,
    agreed: CollectiveResult | None,
    *,
    started: float,
) -> dict[str, Any]:
    """Return what a summary says about the ranks, apart from whether it is whole."""
    records = found.records
    # Times and cost are this execution's own; everything else counts what it keeps, too.
    own = [record for record in records if record.execution == plan.execution.id]
    now = datetime.now(UTC)
    figures = quality.figures(found.quality)
    warnings = [*plan.warnings, *_warnings(records), *quality.warnings(figures)]
    memory_mb = max((record.memory_limit_mb for record in records), default=0)
    dollars, trouble = _cost(plan, own, memory_mb, agreed, time.perf_counter() - started)
    return {
        **totals(records),
        **pace(own),
        "execution": event.execution,
        "input": event.input,
        "warnings": warnings + trouble,
        "world_size": plan.world_size,
        "ranks_received": len(records),
        "ranks_kept": len(records) - len(own),
        "num_failed_ranks": len(found.failed),
        "failed_ranks": found.failed,
        "num_partitions": plan.num_partitions,
        "wall_seconds": elapsed(event.execution.start_time, now),
        "billed_seconds": math.fsum(record.billed_duration_ms for record in own) / 1000,
        "engine": plan.engine,
        "quality": figures,
        "cost": dollars,
        "fmi": agreed,
        "finished_at": now,
    }


def _warnings(records: list[RankRecord]) -> list[str]:
    warnings = []
    if unpredicted := sum(record.num_unpredicted for record in records):
        pixels = sum(record.num_nonfinite_pixels for record in records)
        magnitudes = sum(record.num_nonfinite_magnitudes for record in records)
        ranks = [record.rank for record in records if record.num_unpredicted]
        warnings.append(
            f"{unpredicted} galaxies have no prediction (NaN): {pixels} pixels and {magnitudes} "
            f"magnitudes are NaN or infinite, in {len(ranks)} ranks, the first is {ranks[0]}"
        )
    if len({record.model_digest for record in records if record.num_samples}) > 1:
        warnings.append("the ranks did not all use the same model")
    return warnings


def _cost(
    plan: Plan,
    records: list[RankRecord],
    memory_mb: int,
    agreed: CollectiveResult | None,
    seconds: float,
) -> tuple[CostBreakdown | None, list[str]]:
    """Estimate what the execution costs on AWS, from its records; or say why that is unknown."""
    if not memory_mb:
        return None, ["cost unknown: no rank ran in a function with a memory size"]
    settings = SummarizeSettings.read()
    begun = [record.started_at for record in records]
    done = [record.finished_at for record in records]
    waits = None
    if agreed:
        # Nobody records the collective's own time: each rank waits there for the last one, and
        # one whose result was kept waits from the start.
        first = min(begun, default=plan.execution.start_time)
        came = done + [first] * (plan.planned_ranks - len(records))
        last = max(done, default=plan.execution.start_time)
        waits = math.fsum(elapsed(each, last) for each in came)
        done = [last] * len(done)
    usage = execution_usage(
        ranks=plan.planned_ranks,
        attempts=len(records),
        partitions=plan.num_partitions,
        partition_requests=sum(record.s3_num_requests for record in records),
        cold_starts=sum(record.cold_start for record in records),
        inference_seconds=math.fsum(record.billed_duration_ms for record in records) / 1000,
        inference_memory_mb=memory_mb,
        child_seconds=math.fsum(
            round_up_express(elapsed(start, end)) for start, end in zip(begun, done, strict=True)
        ),
        initialize_seconds=plan.initialize_seconds,
        summarize_seconds=seconds,
        barrier_seconds=waits,
        memory_mb={
            "initialize": plan.initialize_memory_mb or MIN_MEMORY_MB,
            "summarize": settings.memory_mb or MIN_MEMORY_MB,
            "invoke_fmi": (agreed and agreed.memory_limit_mb) or MIN_MEMORY_MB,
        },
        region=settings.region,
        architecture=settings.inference_architecture,
    )
    try:
        return cost(usage), []
    except InvalidInput as error:
        return None, [f"cost unknown: {error}"]


def _fmi(plan: Plan) -> CollectiveResult | None:
    """Return what the ranks agreed on through FMI, if they did."""
    if not plan.fmi:
        return None
    try:
        content = storage.store(plan.bucket).read_json(keys.fmi(plan.result_path))
    except ObjectNotFound:
        return None
    agreed = parse(CollectiveResult, content)
    return agreed if agreed.execution == plan.execution.id else None


def _write(request: ExecutionInput, summary: Summary) -> None:
    document = storage.json_bytes(summary.model_dump(mode="json", by_alias=True))
    _write_file(request, keys.summary(request.result_path), document, summary.execution.id)


def _write_file(request: ExecutionInput, key: str, body: bytes, execution: str) -> None:
    """Write a JSON file below the result path, if that is still the execution's."""

    def require() -> None:
        require_claim(execution, request.bucket, request.result_path)

    write_owned(storage.store(request.bucket), key, body, execution, require)
