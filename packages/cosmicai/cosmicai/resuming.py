"""Resume an execution: which of its ranks have a result, and what the others are to read now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cosmicai import keys, storage
from cosmicai.claim import require_resumable
from cosmicai.errors import InvalidInput, ObjectNotFound
from cosmicai.reconcile import kept_ranks
from cosmicai.schema import ManifestItem, Plan, parse

if TYPE_CHECKING:
    from cosmicai.schema import Execution, ExecutionInput

_MAY_DIFFER = {
    "resume",
    "overwrite",
    "max_concurrency",
    "tolerated_failure_percentage",
    "fmi_channel",
}
"""Keys of the input that do not change what a rank computes."""


@dataclass(frozen=True)
class Earlier:
    """The execution to resume.

    Attributes
    ----------
    plan
        Its plan, or that of the execution which it resumed itself.
    resumes
        ARNs of all executions whose results are kept.
    data_paths
        Keys of the partitions of each rank, as they were first planned.
    kept
        Ranks whose results are there, whole.
    """

    plan: Plan
    resumes: list[str]
    data_paths: list[list[str]]
    kept: frozenset[int]

    @property
    def ranks_to_run(self) -> list[int]:
        """Ranks of the new manifest: those without a result.

        With FMI all of them, as a barrier needs every rank. Never none: a Map wants an item, and
        a rank whose result is kept does nothing again.
        """
        every = range(len(self.data_paths))
        missing = [rank for rank in every if rank not in self.kept]
        return list(every) if self.plan.fmi else missing or [0]

    def shares(
        self, listing: list[storage.StoredObject]
    ) -> tuple[list[list[storage.StoredObject]], list[str]]:
        """Return the partitions of each rank that are still there, and what to warn of."""
        there = {item.key: item for item in listing}
        gone = [
            path
            for rank, paths in enumerate(self.data_paths)
            for path in paths
            if rank not in self.kept and path not in there
        ]
        warnings = []
        if gone:
            warnings.append(
                f"{len(gone)} partitions are gone since they were planned, e.g. {gone[0]}: "
                "the result is without them"
            )
        return [[there[path] for path in paths if path in there] for paths in self.data_paths], (
            warnings
        )


def look_up(execution: Execution, request: ExecutionInput) -> Earlier | None:
    """Return what the execution to resume left, or None if it ended before it had a plan.

    Raises
    ------
    ResultPathInUse
        If the result path is not that execution's.
    InvalidInput
        If it had another input.
    """
    bucket, path = request.bucket, request.result_path
    resumes = require_resumable(execution, bucket, path, request.resume or "")
    try:
        plan = parse(Plan, storage.store(bucket).read_json(keys.plan(path)))
        manifest = storage.store(bucket).read_json(keys.manifest(path))
    except ObjectNotFound:
        return None
    if plan.execution.id not in (execution.id, *resumes):
        return None  # of an execution whose results were being cleared
    _require_same_input(request, plan)
    plan = plan.model_copy(update={"resumes": resumes})
    paths = [parse(ManifestItem, item).data_paths for item in manifest]
    return Earlier(plan, resumes, paths, kept_ranks(plan))


def _require_same_input(request: ExecutionInput, plan: Plan) -> None:
    now = request.model_dump(exclude=_MAY_DIFFER)
    before = plan.input.model_dump(exclude=_MAY_DIFFER)
    if changed := [key for key in now if now[key] != before[key]]:
        raise InvalidInput(
            f"key 'resume': execution {plan.execution.name} had another "
            + ", ".join(f"{key} ({before[key]!r}, now {now[key]!r})" for key in changed)
            + "; resume it with its own input, or run it under another result_path"
        )
