"""The Initialize step: from a user's input to a claimed result path and a manifest.

Everything that can be refused is refused here, before any rank costs anything.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cosmicai import keys, model_cache, sharing, storage
from cosmicai.claim import claim, holder_of, plan_of
from cosmicai.engines.registry import find_engine, fitting_engine
from cosmicai.errors import (
    CorruptPartition,
    InvalidInput,
    ModelMismatch,
    ObjectNotFound,
    PartitionNotFound,
)
from cosmicai.fmi_channels import DEFAULT_CHANNEL
from cosmicai.machine import architecture
from cosmicai.observability import logger
from cosmicai.resuming import Earlier, look_up
from cosmicai.schema import (
    EngineName,
    Execution,
    ExecutionInput,
    FmiChannel,
    InitializeEvent,
    ManifestItem,
    Plan,
    hidden_characters,
    parse,
)
from cosmicai.settings import InitializeSettings

if TYPE_CHECKING:
    from cosmicai.model.interface import Inputs

T = TypeVar("T")

MAX_ITEM_CHARACTERS = 200_000
"""A child's input may have 256 KiB, and has to hold the error of a rank that fails, too."""
MOST_LOOKED_AT = 16
"""Partitions that are looked at before a rank starts: the first, and others evenly spaced."""


@dataclass(frozen=True, slots=True)
class _Decisions:
    """What the input leaves open, settled."""

    shares: list[list[storage.StoredObject]]
    """Partitions of each rank."""
    ranks: list[int]
    """Ranks to run: all, or those that a resumed execution left missing."""
    kept: frozenset[int]
    """Ranks whose results of a resumed execution are kept."""
    max_concurrency: int
    memory_mb: int
    """This function's memory size."""
    tolerated_failure_percentage: float
    engine: EngineName
    fmi_channel: FmiChannel | None
    model_version: str
    warnings: list[str]

    @property
    def world_size(self) -> int:
        return len(self.shares)

    @property
    def partitions(self) -> list[storage.StoredObject]:
        return [partition for share in self.shares for partition in share]


def initialize(event: InitializeEvent) -> Plan:
    """Check the input, claim the result path, and write the manifest and the plan.

    Safe to repeat for the same execution: a retry finds its own claim, and returns the plan if it
    is complete.
    One that resumes another plans that one's ranks again, and runs those without a result.

    Raises
    ------
    InvalidInput
        If the input breaks its schema, or asks for more ranks at once than there can be.
    PartitionNotFound
        If the data bucket or folder does not exist or holds no partitions.
    CorruptPartition
        If a partition is empty.
    PartitionMismatch
        If a partition is not what the model takes.
    ModelNotFound
        If the model folder lacks a file of the bundle.
    ModelMismatch
        If the bundle is damaged, its tensors do not match its config, or it is another one than
        that of the execution to resume.
    ResultPathInUse
        If another execution holds the result path and ``overwrite`` is not asked for.
    """
    started = time.perf_counter()
    request = parse(ExecutionInput, event.input)
    settings = InitializeSettings.read()
    _require_result_prefix(request.result_path, settings.result_prefix)
    if plan := _standing_plan(event.execution, request):
        logger.info("this execution is planned already")
        return plan
    earlier = look_up(event.execution, request) if request.resume else None
    decisions = _decide(request, settings, earlier)
    manifest = _manifest(event.execution, request, decisions)
    owner = claim(
        event.execution,
        request.bucket,
        request.result_path,
        overwrite=request.overwrite,
        resume=request.resume,
    )
    plan = _plan(event.execution, request, decisions, earlier)
    etag = owner.write(plan.manifest_key, manifest)
    plan = plan.model_copy(
        update={"manifest_etag": etag, "initialize_seconds": time.perf_counter() - started}
    )
    owner.complete(storage.json_bytes(plan.model_dump(mode="json", by_alias=True)))
    logger.info(
        "planned",
        extra={
            "world_size": plan.world_size,
            "partitions": plan.num_partitions,
            "bytes": plan.num_bytes,
            "warnings": plan.warnings,
        },
    )
    return plan


def _standing_plan(execution: Execution, request: ExecutionInput) -> Plan | None:
    """Return the plan that an earlier attempt of this step completed, if one did.

    Ranks may be at work on it, so nothing is planned again, whatever changed meanwhile.
    """
    holder = holder_of(request.bucket, request.result_path)
    if holder is None or holder.execution != execution.id:
        return None
    return plan_of(execution.id, request.bucket, request.result_path)


def _require_result_prefix(result_path: str, prefix: str) -> None:
    """Refuse a path that the functions' roles may not write to."""
    if not result_path.startswith(prefix):
        raise InvalidInput(
            f"key 'result_path': this stack's executions write under {prefix!r} only, and "
            f"{result_path!r} is elsewhere: use {prefix + result_path!r}, or deploy the stack with "
            "another ResultPrefix (an empty one allows any path)"
        )


def _decide(
    request: ExecutionInput, settings: InitializeSettings, earlier: Earlier | None
) -> _Decisions:
    asked = request.engine or (earlier.plan.engine if earlier else None)
    if asked:
        _check_engine(asked, request, settings)
    model = model_cache.check(request.bucket, request.S3_object_name)
    if asked:
        find_engine(asked).check_model(model.architecture.name)
        engine = asked
    else:
        carried = (settings.default_engine, *settings.available_engines)
        engine = fitting_engine(model.architecture.name, dict.fromkeys(carried))
        _check_engine(engine, request, settings)
    if earlier is None:
        shares, warnings = _shares(request)
        ranks, kept = list(range(len(shares))), frozenset[int]()
    else:
        if model.version != earlier.plan.model_version:
            raise ModelMismatch(
                f"key 'resume': the model s3://{request.bucket}/{request.S3_object_name} is "
                "another one than that of the results to keep; put that one back, or predict "
                "everything again under another result_path"
            )
        shares, warnings = earlier.shares(_listing(request))
        ranks, kept = earlier.ranks_to_run, earlier.kept
    world_size = len(shares)
    to_read = [item for rank, share in enumerate(shares) if rank not in kept for item in share]
    _require_content(request, to_read)
    _require_inputs(request, to_read, model.config.inputs)
    max_concurrency = min(
        request.max_concurrency or settings.max_concurrency, settings.max_concurrency
    )
    if request.max_concurrency and request.max_concurrency > settings.max_concurrency:
        warnings.append(
            f"max_concurrency {request.max_concurrency} is above the stack's limit: "
            f"{settings.max_concurrency} ranks run at once"
        )
    if request.fmi and world_size > max_concurrency:
        raise InvalidInput(
            f"key 'world_size': a barrier among {world_size} ranks needs them all running at "
            f"once, and only {max_concurrency} can; ask for a world_size of at most "
            f"{max_concurrency}, raise the stack's MaxConcurrency, or use inference.py without FMI"
        )
    tolerated = request.tolerated_failure_percentage
    return _Decisions(
        shares=shares,
        ranks=ranks,
        kept=kept,
        max_concurrency=max_concurrency,
        memory_mb=settings.memory_mb,
        tolerated_failure_percentage=(
            settings.tolerated_failure_percentage if tolerated is None else tolerated
        ),
        engine=engine,
        fmi_channel=_fmi_channel(request, settings),
        model_version=model.version,
        warnings=warnings,
    )


def _check_engine(engine: str, request: ExecutionInput, settings: InitializeSettings) -> None:
    """Refuse an engine that this stack does not carry, or that lacks the precision."""
    if engine not in settings.available_engines:
        raise InvalidInput(
            f"key 'engine': this stack carries the layer of {', '.join(settings.available_engines)}"
            f"; deploy it with the parameter Engine={engine} to use {engine}"
        )
    find_engine(engine).check(request.precision, architecture())


def _fmi_channel(request: ExecutionInput, settings: InitializeSettings) -> FmiChannel | None:
    """Return the channel of an execution with FMI, None without; refuse one without a server."""
    if not request.fmi:
        return None
    channel = request.fmi_channel or settings.fmi_channel
    if channel in settings.fmi_channels_without_server:
        raise InvalidInput(
            f"key 'fmi_channel': this stack was deployed without a server for {channel!r}; deploy "
            f"it with one, or use fmi_channel {DEFAULT_CHANNEL!r}, which needs none"
        )
    return channel


def _listing(request: ExecutionInput) -> list[storage.StoredObject]:
    """List the partitions in the folder of the data, in natural order."""
    try:
        listing = storage.store(request.data_bucket).list(
            keys.folder(request.data_prefix), recursive=False
        )
        found = [item for item in listing if sharing.is_partition(item.key)]
    except ObjectNotFound as error:
        raise PartitionNotFound(
            f"key 'data_bucket': bucket {request.data_bucket!r} does not exist"
        ) from error
    for item in found:
        if hidden := hidden_characters(item.key):
            raise InvalidInput(
                f"key 'data_prefix': partition {item.key!r} has {hidden} in its name; rename it"
            )
    return sorted(found, key=lambda item: sharing.natural_key(item.key))


def _shares(request: ExecutionInput) -> tuple[list[list[storage.StoredObject]], list[str]]:
    """Deal the partitions out to ranks, and say what the user should know of them."""
    where = f"s3://{request.data_bucket}/{keys.folder(request.data_prefix)}"
    found = _listing(request)
    if not found:
        raise PartitionNotFound(
            f"key 'data_prefix': {where} holds no partitions (*.pt); upload some, or name the "
            "folder that holds them"
        )
    warnings = []
    if gaps := sharing.describe_gaps(item.key for item in found):
        warnings.append(gaps)
    if request.file_limit > len(found):
        warnings.append(
            f"file_limit {request.file_limit} is above the {len(found)} partitions in {where}: "
            "all of them are taken"
        )
    chosen = found[: request.file_limit]
    world_size = request.world_size or len(chosen)
    if world_size > len(chosen):
        warnings.append(
            f"world_size {world_size} is above the {len(chosen)} partitions: "
            f"{world_size - len(chosen)} ranks get no data"
        )
    return [list(share) for share in sharing.share(chosen, world_size)], warnings


def _require_content(request: ExecutionInput, partitions: list[storage.StoredObject]) -> None:
    """Refuse partitions that are empty files."""
    if empty := [item.key for item in partitions if item.size == 0]:
        raise CorruptPartition(
            f"{len(empty)} partitions are empty files, e.g. s3://{request.data_bucket}/{empty[0]}; "
            "upload them again"
        )


def _require_inputs(
    request: ExecutionInput, partitions: list[storage.StoredObject], inputs: Inputs
) -> None:
    """Refuse partitions that are not what the model takes, by a look at some of them.

    Every rank checks its own. One that cannot be read is its rank's failure, which the execution
    may tolerate.
    """
    from cosmicai.partition.contents import require_all
    from cosmicai.partition.sources import S3Object

    most, count = MOST_LOOKED_AT, len(partitions)
    chosen = [partitions[count * n // most] for n in range(most)] if count > most else partitions
    client = storage.client()
    sources = [S3Object(request.data_bucket, item.key, client, item.etag) for item in chosen]
    for error in require_all(sources, inputs):
        logger.warning("a partition cannot be read", extra={"reason": str(error)})


def _plan(
    execution: Execution, request: ExecutionInput, decisions: _Decisions, earlier: Earlier | None
) -> Plan:
    path = request.result_path
    planned, tolerated = len(decisions.ranks), decisions.tolerated_failure_percentage
    return Plan(
        execution=execution,
        input=request,
        bucket=request.bucket,
        result_path=path,
        # The manifest of all ranks stays, for a later execution that resumes this one.
        manifest_key=keys.resumed_manifest(path) if earlier else keys.manifest(path),
        map_results_prefix=keys.map_results(path),
        world_size=decisions.world_size,
        resumes=earlier.resumes if earlier else [],
        planned_ranks=planned,
        num_partitions=len(decisions.partitions),
        num_bytes=sum(item.size for item in decisions.partitions),
        max_concurrency=decisions.max_concurrency,
        tolerated_failure_percentage=tolerated,
        map_tolerated_failure_percentage=min(100, tolerated * decisions.world_size / planned),
        engine=decisions.engine,
        fmi=request.fmi,
        model_version=decisions.model_version,
        warnings=decisions.warnings,
        initialize_memory_mb=decisions.memory_mb,
    )


def _manifest(execution: Execution, request: ExecutionInput, decisions: _Decisions) -> bytes:
    """Return the manifest: a JSON array with one item for each rank to run.

    Every item is the first one but for its rank and data, so that one alone is made and
    validated as a model.
    """
    first = ManifestItem(
        S3_BUCKET=request.bucket,
        S3_OBJECT_NAME=request.S3_object_name,
        SCRIPT=request.script,
        S3_OBJECT_TYPE=request.object_type,
        WORLD_SIZE=decisions.world_size,
        RANK=0,
        DATA_BUCKET=request.data_bucket,
        DATA_PREFIX=request.data_prefix,
        DATA_PATH=None,
        RESULT_PATH=request.result_path,
        BATCH_SIZE=request.batch_size,
        EXECUTION=execution.id,
        EXECUTION_NAME=execution.name,
        MODEL_VERSION=decisions.model_version,
        ENGINE=decisions.engine,
        PRECISION=request.precision,
        FMI=request.fmi,
        FMI_CHANNEL=decisions.fmi_channel,
        FAILURE_KEY=keys.failure(request.result_path, 0),
    ).model_dump(mode="json")
    lines = []
    for rank in decisions.ranks:
        paths = [partition.key for partition in decisions.shares[rank]]
        own: dict[str, Any] = {
            "RANK": rank,
            "DATA_PATH": _one_or_all(paths),
            "DATA_ETAG": _one_or_all([partition.etag for partition in decisions.shares[rank]]),
            "DATA_SIZE": _one_or_all([partition.size for partition in decisions.shares[rank]]),
            "FAILURE_KEY": keys.failure(request.result_path, rank),
            "KEPT": rank in decisions.kept,
        }
        lines.append(json.dumps({**first, **own}, separators=(",", ":")))
        if len(lines[-1]) > MAX_ITEM_CHARACTERS:
            raise InvalidInput(
                f"key 'world_size': rank {rank} would read {len(paths)} partitions, more than a "
                "state machine can pass on; ask for a larger world_size"
            )
    return ("[" + ",\n".join(lines) + "]").encode()


def _one_or_all(values: list[T]) -> T | list[T] | None:
    """Return an item's value for several, one or no partitions."""
    return None if not values else values[0] if len(values) == 1 else values
