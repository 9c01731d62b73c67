"""One execution owns a result path: it claims it by a conditional write.

S3's ``If-None-Match`` lets exactly one of several racing executions create the claim, and
``If-Match`` lets exactly one of several overwriting ones replace it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cosmicai import keys, storage
from cosmicai.errors import ObjectNotFound, PreconditionFailed, ResultPathInUse
from cosmicai.observability import logger
from cosmicai.schema import Claim, Execution, parse_json


def claim(
    execution: Execution,
    bucket: str,
    result_path: str,
    *,
    overwrite: bool = False,
    resume: str | None = None,
) -> None:
    """Take the result path for an execution; a repeat finds its own claim.

    With ``overwrite`` another execution's claim is replaced and the files it left are deleted.
    With ``resume`` the claim of that execution is replaced and its files stay. Either way the
    ranks of the other execution, should it still run, see the new claim and stop before they
    write.

    Raises
    ------
    ResultPathInUse
        If another execution holds the path, or took it at the same moment.
    """
    if resume is not None and _take_over(execution, bucket, result_path, resume):
        return
    key = keys.claim(result_path)
    document = Claim(execution=execution.id, claimed_at=datetime.now(UTC), cleared=False)
    if not overwrite and (left := _left(bucket, result_path)):
        holder = holder_of(bucket, result_path)
        if holder is None:
            raise ResultPathInUse(
                f"key 'result_path': s3://{bucket}/{result_path} already holds {len(left)} result "
                f"files, e.g. {left[0]}, that no execution claims; choose another result_path, or "
                "set overwrite to true to discard them"
            )
        if holder.execution != execution.id:
            raise ResultPathInUse(_refusal(bucket, result_path, holder))
    try:
        etag = _put(bucket, key, document, if_none_match=True)
    except PreconditionFailed:
        held = storage.store(bucket).read_content(key)
        etag, holder = held.etag, parse_json(Claim, held.body, key)
        if holder.execution == execution.id:
            if holder.cleared:
                return
        elif not overwrite:
            raise ResultPathInUse(_refusal(bucket, result_path, holder)) from None
        else:
            etag = _put(bucket, key, document, if_match=etag)
            logger.warning("took over the result path", extra={"from": holder.execution})
    if overwrite:
        _clear(bucket, result_path)
    # Only now may a retry of this execution go on without clearing.
    _put(bucket, key, document.model_copy(update={"cleared": True}), if_match=etag)


def require_resumable(
    execution: Execution, bucket: str, result_path: str, resume: str
) -> list[str]:
    """Make sure that the path is that of an execution to resume, or of nobody.

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
    return [] if holder is None else _resumed(holder, execution, bucket, result_path, resume)


def _resumed(
    holder: Claim, execution: Execution, bucket: str, result_path: str, resume: str
) -> list[str]:
    if holder.execution == execution.id:
        return holder.resumes
    if holder.execution != resume:
        advice = "; resume that one" if resume in holder.resumes else ""
        raise ResultPathInUse(
            f"key 'resume': s3://{bucket}/{result_path} belongs to execution {holder.execution} "
            f"(since {holder.claimed_at:%Y-%m-%d %H:%M:%S %Z}), not to {resume}{advice}"
        )
    return [*holder.resumes, holder.execution]


def _take_over(execution: Execution, bucket: str, result_path: str, resume: str) -> bool:
    """Replace the claim of the execution that is resumed; False where nobody claims the path."""
    key = keys.claim(result_path)
    try:
        held = storage.store(bucket).read_content(key)
    except ObjectNotFound:
        return False  # that execution ended before it claimed the path
    etag, document = held.etag, parse_json(Claim, held.body, key)
    resumes = _resumed(document, execution, bucket, result_path, resume)
    if document.execution != execution.id:
        document = Claim(
            execution=execution.id,
            resumes=resumes,
            claimed_at=datetime.now(UTC),
            cleared=document.cleared,
        )
        etag = _put(bucket, key, document, if_match=etag)
    if not document.cleared:  # it ended while it cleared the files of the one before it
        _clear(bucket, result_path)
        _put(bucket, key, document.model_copy(update={"cleared": True}), if_match=etag)
    return True


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
        raise ResultPathInUse(_refusal(bucket, result_path, holder))


def holder_of(bucket: str, result_path: str) -> Claim | None:
    """Return the claim on a result path, or None."""
    try:
        key = keys.claim(result_path)
        return parse_json(Claim, storage.store(bucket).read(key), key)
    except ObjectNotFound:
        return None


def _put(
    bucket: str, key: str, document: Claim, *, if_none_match: bool = False, if_match: str = ""
) -> str:
    """Write the claim on a condition; losing against another writer of ``if_match`` is final."""
    try:
        return storage.store(bucket).write_json(
            key,
            document.model_dump(mode="json"),
            if_none_match=if_none_match,
            if_match=if_match or None,
        )
    except PreconditionFailed as error:
        if if_none_match:
            raise
        raise ResultPathInUse(
            f"s3://{bucket}/{key} was taken over by another execution at this moment"
        ) from error


def _left(bucket: str, result_path: str) -> list[str]:
    """Return the keys of results in the path: never anything else that may lie there."""
    return [
        item.key
        for item in storage.store(bucket).list(keys.folder(result_path))
        if keys.is_result(result_path, item.key) and item.key != keys.claim(result_path)
    ]


def _clear(bucket: str, result_path: str) -> None:
    if left := _left(bucket, result_path):
        storage.store(bucket).delete(left)
        logger.warning("cleared the result path", extra={"objects": len(left)})


def _refusal(bucket: str, result_path: str, holder: Claim) -> str:
    return (
        f"key 'result_path': s3://{bucket}/{result_path} belongs to execution "
        f"{holder.execution} (since {holder.claimed_at:%Y-%m-%d %H:%M:%S %Z}); choose another "
        "result_path, or set overwrite to true to discard what it wrote"
    )
