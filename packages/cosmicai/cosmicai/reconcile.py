"""Which ranks of a plan are there, whole and of this execution, and what became of the others."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from cosmicai import keys, storage
from cosmicai.errors import InvalidInput, ObjectNotFound, load_json
from cosmicai.quality import Merging
from cosmicai.schema import (
    FailedRank,
    ManifestItem,
    Plan,
    QualityStatistics,
    RankFailure,
    RankRecord,
    parse,
    parse_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class _Reason(NamedTuple):
    """Why a rank left no result, and the ARN of the child that ran it, where known."""

    error: str
    cause: str
    child: str = ""


_VANISHED = _Reason(
    "NotReceived", "it left neither a record nor a failure: it never ran, or was lost"
)


@dataclass
class Reconciled:
    """The ranks received and the ranks that were not.

    Attributes
    ----------
    records
        Of the ranks received, in their order. Their ``quality``, nearly all of a record, is empty.
    quality
        The sum of the ranks' quality.
    failed
        The other ranks.
    changed
        How the manifest differs from the one that was planned; empty if it does not.
    """

    records: list[RankRecord] = field(default_factory=list)
    quality: QualityStatistics = field(default_factory=QualityStatistics)
    failed: list[FailedRank] = field(default_factory=list)
    changed: str = ""
    _combined: io.BytesIO = field(default_factory=lambda: io.BytesIO(b"[]"), repr=False)

    def receive(self, record: RankRecord, file: bytes) -> None:
        """Add the record of the next rank, and the file that it was read from."""
        self._combined.seek(-1, io.SEEK_END)
        self._combined.writelines((b",\n" if self.records else b"", file, b"]"))
        self.records.append(record.model_copy(update={"quality": QualityStatistics()}))

    @property
    def combined(self) -> bytes:
        """JSON array of the records received, as they were written; not a copy."""
        return self._combined.getvalue()


def reconcile(plan: Plan) -> Reconciled:
    """Compare what is stored under the result path with the plan and its manifest.

    A rank is received when its record is there, belongs to this execution or to one that it
    resumes, did what the manifest says, and names the very predictions file that is there. With
    FMI it must not have failed at the collective either.
    """
    etags = _etags(plan)
    failures = _failures(plan, etags)
    items, changed = _planned_items(plan, etags)
    result, quality = Reconciled(changed=changed), Merging()
    missing: dict[int, _Reason] = {}
    for rank, file, record in _present(plan, etags, items):
        if isinstance(record, str):
            missing[rank] = _Reason("DamagedRecord", record)
        elif plan.fmi and rank in failures:
            missing[rank] = failures[rank]
        else:
            result.receive(record, file)
            quality.add(record.quality)
    result.quality = quality.result()
    for rank in range(plan.world_size):
        if keys.rank(plan.result_path, rank) not in etags:
            missing[rank] = failures.get(rank, _VANISHED)
    result.failed = [
        FailedRank(
            rank=rank,
            data_path=items[rank].DATA_PATH if rank in items else None,
            data_etag=items[rank].DATA_ETAG if rank in items else None,
            error=reason.error,
            cause=reason.cause,
            child=reason.child,
        )
        for rank, reason in sorted(missing.items())
    ]
    return result


def kept_ranks(plan: Plan) -> frozenset[int]:
    """Return the ranks of a plan that need not run again: their results are there, whole."""
    present = _present(plan, _etags(plan), {})
    return frozenset(rank for rank, _, record in present if not isinstance(record, str))


def _planned_items(plan: Plan, etags: Mapping[str, str]) -> tuple[dict[int, ManifestItem], str]:
    """Return rank → item of the manifest, and how it differs from the one that was planned."""
    where = storage.store(plan.bucket).address(plan.manifest_key)
    try:
        manifest = load_json(storage.store(plan.bucket).read(plan.manifest_key))
        items = {item.RANK: item for item in (parse(ManifestItem, item) for item in manifest)}
    except ObjectNotFound:
        return {}, f"{where} was deleted since Initialize wrote it"
    except (ValueError, TypeError, InvalidInput) as error:
        return {}, f"{where} is damaged: {error}"
    if plan.manifest_etag and etags.get(plan.manifest_key) != plan.manifest_etag:
        return items, (
            f"{where} was changed since Initialize wrote it: it plans {len(items)} ranks, "
            f"{plan.planned_ranks} were planned"
        )
    return items, ""


def _etags(plan: Plan) -> dict[str, str]:
    """Return key → ETag of what is stored under the result path."""
    listing = storage.store(plan.bucket).list(keys.folder(plan.result_path))
    return {item.key: item.etag for item in listing}


def _present(
    plan: Plan, etags: Mapping[str, str], items: Mapping[int, ManifestItem]
) -> Iterator[tuple[int, bytes, RankRecord | str]]:
    """Yield each rank that left a file, the file, and its record or why it cannot be trusted."""
    ranks = [rank for rank in range(plan.world_size) if keys.rank(plan.result_path, rank) in etags]
    files = storage.store(plan.bucket).read_many(
        keys.rank(plan.result_path, rank) for rank in ranks
    )
    for rank, file in zip(ranks, files, strict=True):
        yield rank, file, _problem(plan, rank, file, etags, items.get(rank))


def _problem(
    plan: Plan, rank: int, file: bytes, etags: Mapping[str, str], item: ManifestItem | None
) -> RankRecord | str:
    """Return the record if it can be trusted, else why it cannot."""
    try:
        record = parse_json(RankRecord, file, "its record")
    except InvalidInput as error:
        return str(error)
    if record.execution not in (plan.execution.id, *plan.resumes):
        return f"its record belongs to another execution, {record.execution}"
    if record.rank != rank:
        return f"its record is that of rank {record.rank}"
    if record.world_size != plan.world_size:
        return f"its record is of {record.world_size} ranks, planned were {plan.world_size}"
    if item and record.execution == plan.execution.id and record.task_digest != item.digest:
        return (
            f"it did not do what the manifest says: it read {record.data_path}, planned was "
            f"{item.DATA_PATH}, or another item of its task differs"
        )
    planned = sum(item.data_sizes) if item else 0
    if planned and record.execution == plan.execution.id and record.num_bytes != planned:
        return f"it read {record.num_bytes} bytes of partitions, {planned} were planned"
    if etags.get(record.predictions_key) != record.predictions_etag:
        return "its predictions file is missing, or is not the one that its record names"
    return record


def _failures(plan: Plan, etags: Mapping[str, str]) -> dict[int, _Reason]:
    """Return why the ranks of this execution failed that the state machine gave up."""
    candidates = [
        (rank, key)
        for rank in range(plan.world_size)
        if (key := keys.failure(plan.result_path, rank)) in etags
    ]
    files = storage.store(plan.bucket).read_many(key for _, key in candidates)
    found = {}
    for (rank, key), file in zip(candidates, files, strict=True):
        try:
            entry = parse_json(RankFailure, file, key)
        except InvalidInput as error:
            found[rank] = _Reason("NotReceived", f"why it failed is not known: {error}")
            continue
        if entry.execution == plan.execution.id and entry.rank == rank:
            found[rank] = _Reason(entry.failure.Error, entry.failure.message, entry.child)
    return found
