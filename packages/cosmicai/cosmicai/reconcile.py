"""Which ranks of a plan are there, whole and of this execution, and what became of the others."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cosmicai import keys, storage
from cosmicai.errors import InvalidInput
from cosmicai.schema import FailedRank, ManifestItem, Plan, RankFailure, RankRecord, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

_VANISHED = ("NotReceived", "it left neither a record nor a failure: it never ran, or was lost")


@dataclass
class Reconciled:
    """The ranks received, as files and as records in rank order, and the ranks that were not."""

    files: list[bytes] = field(default_factory=list)
    records: list[RankRecord] = field(default_factory=list)
    failed: list[FailedRank] = field(default_factory=list)


def reconcile(plan: Plan) -> Reconciled:
    """Hold what lies under the result path against the manifest.

    A rank is received when its record is there, belongs to this execution or to one that it
    resumes, and names the very predictions file that is there. With FMI it must not have failed at
    the collective either.
    """
    etags = _etags(plan)
    failures = _failures(plan, etags)
    result = Reconciled()
    missing: dict[int, tuple[str, str]] = {}
    for rank, file, record in _present(plan, etags):
        if isinstance(record, str):
            missing[rank] = ("DamagedRecord", record)
        elif plan.fmi and rank in failures:
            missing[rank] = failures[rank]
        else:
            result.files.append(file)
            result.records.append(record)
    for rank in range(plan.world_size):
        if keys.rank(plan.result_path, rank) not in etags:
            missing[rank] = failures.get(rank, _VANISHED)
    if missing:
        result.failed = list(_name(plan, missing))
    return result


def kept_ranks(plan: Plan) -> frozenset[int]:
    """Return the ranks of a plan that need not run again: their results are there, whole."""
    present = _present(plan, _etags(plan))
    return frozenset(rank for rank, _, record in present if not isinstance(record, str))


def _etags(plan: Plan) -> dict[str, str]:
    """Return key → ETag of what lies under the result path."""
    listing = storage.store(plan.bucket).list(keys.folder(plan.result_path))
    return {item.key: item.etag for item in listing}


def _present(plan: Plan, etags: dict[str, str]) -> Iterator[tuple[int, bytes, RankRecord | str]]:
    """Yield each rank that left a file, the file, and its record or why it cannot be trusted."""
    ranks = [rank for rank in range(plan.world_size) if keys.rank(plan.result_path, rank) in etags]
    files = storage.store(plan.bucket).read_many(
        keys.rank(plan.result_path, rank) for rank in ranks
    )
    for rank, file in zip(ranks, files, strict=True):
        yield rank, file, _problem(plan, rank, file, etags)


def _problem(plan: Plan, rank: int, file: bytes, etags: dict[str, str]) -> RankRecord | str:
    """Return the record if it can be trusted, else why it cannot."""
    try:
        record = parse(RankRecord, json.loads(file))
    except (InvalidInput, ValueError) as error:
        return f"its record cannot be read: {error}"
    if record.execution not in (plan.execution.id, *plan.resumes):
        return f"its record belongs to another execution, {record.execution}"
    if record.rank != rank:
        return f"its record is that of rank {record.rank}"
    if etags.get(record.predictions_key) != record.predictions_etag:
        return "its predictions file is missing, or is not the one that its record names"
    return record


def _failures(plan: Plan, etags: dict[str, str]) -> dict[int, tuple[str, str]]:
    """Return error and cause of the ranks of this execution that the state machine gave up."""
    candidates = [
        key
        for rank in range(plan.world_size)
        if (key := keys.failure(plan.result_path, rank)) in etags
    ]
    found = {}
    for file in storage.store(plan.bucket).read_many(candidates):
        entry = parse(RankFailure, json.loads(file))
        if entry.execution == plan.execution.id:
            found[entry.rank] = (entry.failure.Error, entry.failure.message)
    return found


def _name(plan: Plan, missing: dict[int, tuple[str, str]]) -> Iterator[FailedRank]:
    """Look the data of the missing ranks up in the manifest."""
    for item in storage.store(plan.bucket).read_json(plan.manifest_key):
        if item["RANK"] in missing:
            error, cause = missing[item["RANK"]]
            path = parse(ManifestItem, item).DATA_PATH
            yield FailedRank(rank=item["RANK"], data_path=path, error=error, cause=cause)
