"""The Initialize step: from a user's input to a claimed result path and a manifest.

Everything that can be refused is refused here, before any rank costs anything.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass

from cosmicai import keys, model_cache, planning, storage
from cosmicai.claim import claim
from cosmicai.errors import (
    CorruptPartition,
    InvalidInput,
    ObjectNotFound,
    PartitionNotFound,
)
from cosmicai.observability import logger
from cosmicai.schema import (
    EngineName,
    Execution,
    ExecutionInput,
    FmiChannel,
    InitializeEvent,
    ManifestItem,
    Plan,
    StackSettings,
    parse,
)

MAX_ITEM_CHARACTERS = 200_000
"""A child's input may have 256 KiB, and has to hold the error of a rank that fails, too."""


@dataclass(frozen=True, slots=True)
class _Decisions:
    """What the input leaves open, settled."""

    partitions: list[storage.StoredObject]
    world_size: int
    max_concurrency: int
    tolerated_failure_percentage: float
    engine: EngineName
    fmi_channel: FmiChannel | None
    model_version: str
    warnings: list[str]


def initialize(event: InitializeEvent) -> Plan:
    """Check the input, claim the result path, and write the manifest and the plan.

    Safe to repeat for the same execution: a retry finds its own claim and writes the same files.

    Raises
    ------
    InvalidInput
        If the input breaks its schema, or asks for more ranks at once than there can be.
    PartitionNotFound
        If the data bucket or folder does not exist or holds no partitions.
    CorruptPartition
        If a partition is empty.
    ModelNotFound
        If the model folder lacks a file of the bundle.
    ModelMismatch
        If the bundle is damaged, or its tensors do not match its config.
    ResultPathInUse
        If another execution holds the result path and ``overwrite`` is not asked for.
    """
    started = time.perf_counter()
    request = parse(ExecutionInput, event.input)
    settings = parse(StackSettings, StackSettings.from_environment(os.environ))
    decisions = _decide(request, settings)
    manifest = _manifest(event.execution, request, decisions)
    claim(event.execution, request.bucket, request.result_path, overwrite=request.overwrite)
    plan = _plan(event.execution, request, decisions)
    storage.put_bytes(
        plan.bucket,
        plan.manifest_key,
        manifest,
        content_type="application/json",
    )
    plan = plan.model_copy(update={"initialize_seconds": time.perf_counter() - started})
    storage.put_json(
        plan.bucket, keys.plan(plan.result_path), plan.model_dump(mode="json", by_alias=True)
    )
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


def _decide(request: ExecutionInput, settings: StackSettings) -> _Decisions:
    engine = request.engine or settings.default_engine
    if engine not in settings.available_engines:
        raise InvalidInput(
            f"key 'engine': this stack carries the layer of {', '.join(settings.available_engines)}"
            f"; deploy it with the parameter Engine={engine} to use {engine}"
        )
    partitions, warnings = _partitions(request)
    world_size = request.world_size or len(partitions)
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
    if world_size > len(partitions):
        warnings.append(
            f"world_size {world_size} is above the {len(partitions)} partitions: "
            f"{world_size - len(partitions)} ranks get no data"
        )
    tolerated = request.tolerated_failure_percentage
    return _Decisions(
        partitions=partitions,
        world_size=world_size,
        max_concurrency=max_concurrency,
        tolerated_failure_percentage=(
            settings.tolerated_failure_percentage if tolerated is None else tolerated
        ),
        engine=engine,
        fmi_channel=(request.fmi_channel or settings.fmi_channel) if request.fmi else None,
        model_version=model_cache.check(request.bucket, request.S3_object_name),
        warnings=warnings,
    )


def _partitions(request: ExecutionInput) -> tuple[list[storage.StoredObject], list[str]]:
    """List the partitions to use, in natural order, and what the user should know of them."""
    where = f"s3://{request.data_bucket}/{keys.folder(request.data_prefix)}"
    try:
        listing = storage.list_objects(
            request.data_bucket, keys.folder(request.data_prefix), recursive=False
        )
        found = [item for item in listing if planning.is_partition(item.key)]
    except ObjectNotFound as error:
        raise PartitionNotFound(
            f"key 'data_bucket': bucket {request.data_bucket!r} does not exist"
        ) from error
    if not found:
        raise PartitionNotFound(
            f"key 'data_prefix': {where} holds no partitions (*.pt); upload some, or name the "
            "folder that holds them"
        )
    found.sort(key=lambda item: planning.natural_key(item.key))
    warnings = []
    if gaps := planning.describe_gaps(item.key for item in found):
        warnings.append(gaps)
    if request.file_limit > len(found):
        warnings.append(
            f"file_limit {request.file_limit} is above the {len(found)} partitions in {where}: "
            "all of them are taken"
        )
    chosen = found[: request.file_limit]
    if empty := [item.key for item in chosen if item.size == 0]:
        raise CorruptPartition(
            f"{len(empty)} partitions are empty files, e.g. s3://{request.data_bucket}/{empty[0]}; "
            "upload them again"
        )
    return chosen, warnings


def _plan(execution: Execution, request: ExecutionInput, decisions: _Decisions) -> Plan:
    return Plan(
        execution=execution,
        input=request,
        bucket=request.bucket,
        result_path=request.result_path,
        manifest_key=keys.manifest(request.result_path),
        map_results_prefix=keys.map_results(request.result_path),
        world_size=decisions.world_size,
        num_partitions=len(decisions.partitions),
        num_bytes=sum(item.size for item in decisions.partitions),
        max_concurrency=decisions.max_concurrency,
        tolerated_failure_percentage=decisions.tolerated_failure_percentage,
        engine=decisions.engine,
        fmi=request.fmi,
        model_version=decisions.model_version,
        warnings=decisions.warnings,
        initialize_memory_mb=int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 0)),
    )


def _manifest(execution: Execution, request: ExecutionInput, decisions: _Decisions) -> bytes:
    """Return the manifest: a JSON array with one item a rank.

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
    for rank, partitions in enumerate(planning.share(decisions.partitions, decisions.world_size)):
        paths = [partition.key for partition in partitions]
        own = {
            "RANK": rank,
            "DATA_PATH": None if not paths else paths[0] if len(paths) == 1 else paths,
            "FAILURE_KEY": keys.failure(request.result_path, rank),
        }
        lines.append(json.dumps({**first, **own}, separators=(",", ":")))
        if len(lines[-1]) > MAX_ITEM_CHARACTERS:
            raise InvalidInput(
                f"key 'world_size': rank {rank} would read {len(paths)} partitions, more than a "
                "state machine can pass on; ask for a larger world_size"
            )
    return ("[" + ",\n".join(lines) + "]").encode()
