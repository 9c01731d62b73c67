"""One execution owns a result path: it claims it by a conditional write.

S3's ``If-None-Match`` lets exactly one of several racing executions create the claim, and
``If-Match`` lets exactly one of several overwriting ones replace it. Whatever is written below the
path afterwards is written on a condition as well: only over what was there when the claim was
checked. So a write that arrives after its execution lost the path never replaces the new owner's.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cosmicai import keys, storage
from cosmicai.errors import (
    InvalidInput,
    ObjectNotFound,
    PreconditionFailed,
    ResultPathInUse,
    StorageDenied,
    TransientStorageError,
    load_json,
)
from cosmicai.observability import logger
from cosmicai.schema import Claim, Execution, Plan, parse_json
from cosmicai.storage import MOST_DELETED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cosmicai.storage import Content, Store, StoredObject

_ATTEMPTS = 10
"""To replace an object that others replace all the time."""


def claim(
    execution: Execution,
    bucket: str,
    result_path: str,
    *,
    overwrite: bool = False,
    resume: str | None = None,
) -> Ownership:
    """Take the result path for an execution; a repeat finds its own claim.

    With ``overwrite`` another execution's claim is replaced and the files it left are deleted.
    With ``resume`` the claim of that execution is replaced and its files stay. Either way the
    ranks of the other execution, should it still run, see the new claim and stop before they
    write.

    Raises
    ------
    ResultPathInUse
        If another execution holds the path, or took it at the same moment; or if it holds a path
        that contains this one or is inside it.
    TransientStorageError
        If another attempt of this execution's Initialize is at work, or finished meanwhile.
    """
    store = storage.store(bucket)
    listing = list(store.list(keys.folder(result_path)))
    _require_apart(store, result_path, listing)
    held = _held(store, result_path)
    holder = held[0] if held else None
    if holder is None:
        if not overwrite:
            _require_no_results(store, result_path, listing)
        resumes, cleared = [], not overwrite
    elif holder.execution == execution.id:
        if holder.plan_sha256:
            raise TransientStorageError(
                f"another attempt of Initialize of {execution.name} has planned it meanwhile"
            )
        resumes, cleared = holder.resumes, holder.cleared
    elif resume is not None:
        resumes, cleared = _resumed(holder, execution, store, result_path, resume), holder.cleared
    elif overwrite:
        resumes, cleared = [], False
        logger.warning("taking over the result path", extra={"from": holder.execution})
    else:
        raise ResultPathInUse(_refusal(store, result_path, holder))
    document = Claim(
        execution=execution.id,
        attempt=uuid.uuid4().hex,
        resumes=resumes,
        claimed_at=datetime.now(UTC),
        cleared=cleared,
    )
    owner = Ownership(store, result_path, document, held[1] if held else "").replaced(document)
    if not cleared:
        _clear(owner, claimed=holder is not None)
        # Only now may a repeated attempt go on without clearing.
        owner = owner.replaced(document.model_copy(update={"cleared": True}))
    return owner


@dataclass(frozen=True)
class Ownership:
    """A claim that was won, by one attempt of Initialize.

    Attributes
    ----------
    store, result_path
        Where.
    document
        The claim as it was written.
    etag
        Of the claim; empty before there is one.
    """

    store: Store
    result_path: str
    document: Claim
    etag: str

    def require(self) -> None:
        """Make sure that the claim is still this attempt's.

        Raises
        ------
        ResultPathInUse
            If another execution took the path over.
        TransientStorageError
            If another attempt of the same execution did.
        """
        held = _held(self.store, self.result_path)
        if held is None or held[0].attempt != self.document.attempt:
            self._lost(held[0] if held else None)

    def replaced(self, document: Claim) -> Ownership:
        """Rewrite the claim, if it is still this attempt's; see :meth:`require`."""
        try:
            etag = self.store.write_json(
                keys.claim(self.result_path),
                document.model_dump(mode="json"),
                if_none_match=not self.etag,
                if_match=self.etag or None,
                owner=document.execution,
            )
        except PreconditionFailed:
            held = _held(self.store, self.result_path)
            self._lost(held[0] if held else None)
        return Ownership(self.store, self.result_path, document, etag)

    def write(self, key: str, body: bytes) -> str:
        """Write a JSON file of this execution, and return its ETag; see :meth:`require`."""
        return write_owned(self.store, key, body, self.document.execution, self.require)

    def complete(self, plan: bytes) -> None:
        """Write the plan, then its digest into the claim: from now on it stands.

        A repeated attempt of Initialize returns that plan, and nothing plans the path again.
        """
        self.write(keys.plan(self.result_path), plan)
        self.replaced(self.document.model_copy(update={"plan_sha256": storage.sha256(plan)}))

    def _lost(self, holder: Claim | None) -> None:
        """Say who has the path now."""
        if holder is not None and holder.execution != self.document.execution:
            raise ResultPathInUse(_refusal(self.store, self.result_path, holder))
        raise TransientStorageError(
            f"{self.store.address(keys.claim(self.result_path))}: another attempt of Initialize "
            "of this execution is at work"
        )


def write_owned(
    store: Store,
    key: str,
    body: bytes,
    execution: str,
    require: Callable[[], None],
    *,
    content_type: str = "application/json",
) -> str:
    """Write a file of an execution over whatever is there, but never over a newer owner's.

    What is there is looked up before the claim is checked, and only that is replaced: what
    another execution writes after it took the path over is safe from this one.

    Parameters
    ----------
    require
        Raises if the result path is not the execution's any more.

    Returns
    -------
    str
        The ETag.
    """
    for _ in range(_ATTEMPTS):
        there = store.find(key)
        require()
        try:
            return store.write(
                key,
                body,
                content_type=content_type,
                if_none_match=there is None,
                if_match=there.etag if there else None,
                owner=execution,
            )
        except PreconditionFailed:
            logger.info("written by another at this moment", extra={"key": key})
    raise TransientStorageError(f"{store.address(key)} is written by others all the time")


def require_claim(execution: str, bucket: str, result_path: str) -> None:
    """Make sure that no other execution holds the result path.

    A path without any claim passes: a function invoked by hand has no Initialize before it.

    Raises
    ------
    ResultPathInUse
        If another execution took the path over.
    """
    holder = holder_of(bucket, result_path)
    if holder is not None and holder.execution != execution:
        raise ResultPathInUse(_refusal(storage.store(bucket), result_path, holder))


def holder_of(bucket: str, result_path: str) -> Claim | None:
    """Return the claim on a result path, or None."""
    held = _held(storage.store(bucket), result_path)
    return held[0] if held else None


def plan_of(execution: str, bucket: str, result_path: str) -> Plan | None:
    """Return the plan of the execution that holds a result path, or None if it has none yet.

    Raises
    ------
    ResultPathInUse
        If another execution holds the path.
    InvalidInput
        If the plan is damaged, gone, or not the one that Initialize wrote.
    """
    require_claim(execution, bucket, result_path)
    holder = holder_of(bucket, result_path)
    if holder is None or not holder.plan_sha256:
        return None
    store, key = storage.store(bucket), keys.plan(result_path)
    where = store.address(key)
    try:
        content = store.read(key)
    except ObjectNotFound:
        raise InvalidInput(f"{where} was deleted since Initialize wrote it") from None
    if storage.sha256(content) != holder.plan_sha256:
        raise InvalidInput(f"{where} was changed since Initialize wrote it; start the run again")
    return parse_json(Plan, content, where)


def require_resumable(
    execution: Execution, bucket: str, result_path: str, resume: str
) -> list[str]:
    """Make sure that the path is free, or held by an execution to resume.

    Returns
    -------
    list of str
        ARNs of the executions whose results are kept, in the order in which they ran.

    Raises
    ------
    ResultPathInUse
        If another execution holds the path.
    """
    holder = holder_of(bucket, result_path)
    if holder is None:
        return []
    return _resumed(holder, execution, storage.store(bucket), result_path, resume)


def _resumed(
    holder: Claim, execution: Execution, store: Store, result_path: str, resume: str
) -> list[str]:
    if holder.execution == execution.id:
        return holder.resumes
    if holder.execution != resume:
        advice = "; resume that one" if resume in holder.resumes else ""
        raise ResultPathInUse(
            f"key 'resume': {store.address(result_path)} belongs to execution {holder.execution} "
            f"(since {holder.claimed_at:%Y-%m-%d %H:%M:%S %Z}), not to {resume}{advice}"
        )
    return [*holder.resumes, holder.execution]


def _held(store: Store, result_path: str) -> tuple[Claim, str] | None:
    """Return the claim on a result path and its ETag, or None."""
    key = keys.claim(result_path)
    try:
        content: Content = store.read_content(key)
    except ObjectNotFound:
        return None
    return parse_json(Claim, content.body, store.address(key)), content.etag


def _require_apart(store: Store, result_path: str, listing: Iterable[StoredObject]) -> None:
    """Refuse a result path inside another execution's, or around one."""
    for key in map(keys.claim, keys.parents(result_path)):
        try:
            found = store.find(key) is not None
        except StorageDenied:
            continue  # outside the folders that this stack's executions may write to
        if found:
            raise ResultPathInUse(
                f"key 'result_path': {store.address(result_path)} lies inside the result path of "
                f"another execution ({store.address(key)}); choose a result_path apart from it"
            )
    for item in listing:
        if keys.is_claim_inside(result_path, item.key):
            raise ResultPathInUse(
                f"key 'result_path': the result path of another execution "
                f"({store.address(item.key)}) lies inside {store.address(result_path)}; choose a "
                "result_path apart from it"
            )


def _require_no_results(store: Store, result_path: str, listing: Iterable[StoredObject]) -> None:
    """Refuse a path with results that nobody claims."""
    if left := _results(result_path, listing):
        raise ResultPathInUse(
            f"key 'result_path': {store.address(result_path)} already holds {len(left)} result "
            f"files, e.g. {left[0]}, that no execution claims; choose another result_path, or set "
            "overwrite to true to discard them"
        )


def _results(
    result_path: str, listing: Iterable[StoredObject], world_size: int | None = None
) -> list[str]:
    """Return the keys in a listing that an execution writes, but for its claim."""
    own = keys.claim(result_path)
    return [
        item.key
        for item in listing
        if item.key != own and keys.is_result(result_path, item.key, world_size)
    ]


def _clear(owner: Ownership, *, claimed: bool) -> None:
    """Delete what the earlier execution wrote, its plan last: that says how many ranks it had.

    The claim is checked before every request, as a delete cannot be made on a condition everywhere:
    an execution that lost the path meanwhile must not delete what its successor writes.
    """
    store, result_path = owner.store, owner.result_path
    plan = keys.plan(result_path)
    world_size = _planned_world_size(store, plan) if claimed else None
    listing = store.list(keys.folder(result_path))
    left = [key for key in _results(result_path, listing, world_size) if key != plan]
    batches = [left[i : i + MOST_DELETED] for i in range(0, len(left), MOST_DELETED)]
    for batch in [*batches, [plan]]:
        owner.require()
        store.delete(batch)
    if left:
        logger.warning("cleared the result path", extra={"objects": len(left)})


def _planned_world_size(store: Store, key: str) -> int | None:
    """Return the world size in a plan of any version; 0 without a plan, None if it is damaged."""
    try:
        return int(load_json(store.read(key))["world_size"])
    except ObjectNotFound:
        return 0  # it ended before a rank could start
    except (ValueError, KeyError, TypeError):
        return None


def _refusal(store: Store, result_path: str, holder: Claim) -> str:
    return (
        f"key 'result_path': {store.address(result_path)} belongs to execution "
        f"{holder.execution} (since {holder.claimed_at:%Y-%m-%d %H:%M:%S %Z}); choose another "
        "result_path, or set overwrite to true to discard what it wrote"
    )
