"""Check an execution against the account and the stack before it starts, and price it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cosmicai import keys, sharing
from cosmicai.engines.registry import DEFAULT_ENGINE, fitting_engine
from cosmicai.errors import CosmicAIError, InvalidInput, ModelMismatch, PartitionNotFound
from cosmicai.facts import ARCHIVE_BYTES, MAX_CHILDREN, MB, NEW_ACCOUNT_MEMORY_MB
from cosmicai.model.architectures import (
    ARCHITECTURES,
    DEFAULT,
    Architecture,
    load_config,
    read_config,
)
from cosmicai.model.config import ModelConfig
from cosmicai.model.layout import CONFIG_NAME, MAX_CONFIG_BYTES

from cosmicai_workbench.deployment.account import (
    CONCURRENCY_QUOTA,
    SMALL_ACCOUNT,
    Account,
    read_account,
)
from cosmicai_workbench.deployment.checks import Check, Level
from cosmicai_workbench.deployment.definition_check import definition_checks
from cosmicai_workbench.simulation.service import plan_execution

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cosmicai.model.interface import ArchitectureConfig
    from cosmicai.schema import ExecutionInput

    from cosmicai_workbench.client.connection import Connection
    from cosmicai_workbench.simulation.planning import Plan

MAX_INPUT = 256 * 1024
"""Bytes of an execution's input."""
SIMULATIONS = 3


@dataclass(frozen=True)
class Preflight:
    """What an execution would meet on AWS, and what it would cost."""

    checks: tuple[Check, ...]
    partitions: int
    num_bytes: int
    galaxies: int
    """About: from the bytes that the model's inputs take in a partition."""
    ranks: int
    estimate: Plan
    bounds: dict[str, int]
    """Keys to add to the input, so that the Map starts no more ranks than can run."""

    @property
    def passed(self) -> bool:
        """Whether nothing stands in the way."""
        return all(check.level != "error" for check in self.checks)

    @property
    def dollars(self) -> float | None:
        """Estimated cost of the execution, or None where it has no price."""
        return self.estimate.cost.total if self.estimate.cost else None

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "partitions": self.partitions,
            "num_bytes": self.num_bytes,
            "galaxies": self.galaxies,
            "ranks": self.ranks,
            "estimated_wall_seconds": self.estimate.wall_seconds.median,
            "estimated_cost": self.estimate.cost.model_dump() if self.estimate.cost else None,
        }


def preflight(
    connection: Connection,
    content: ExecutionInput,
    *,
    calibrate: Path | None = None,
    model: Path | None = None,
    data: Path | None = None,
    ask_about_definition: bool = False,
) -> Preflight:
    """Compare an execution with the stack and the account; nothing is started or written.

    Parameters
    ----------
    calibrate
        Run folder to take the ranks' times from; by default the published executions.
    model, data
        Folders that are about to be uploaded: looked at instead of what is in S3.
    ask_about_definition
        Have AWS validate the state machine as well, and try it with mocks.

    Raises
    ------
    PartitionNotFound
        If there is nothing to compute.
    LookupRefused
        If AWS refuses a look-up.
    """
    permitted = list(_permitted(connection, content))
    account = read_account(connection)
    try:
        if data is None:
            sizes = _partition_sizes(connection, content)
        else:
            sizes = {path.name: path.stat().st_size for path in sharing.partition_files(data)}
        config, model_checks = _model(connection, content, model)
    except CosmicAIError as error:
        if permitted:  # the likelier reason
            raise InvalidInput("; ".join(check.finding for check in permitted)) from error
        raise
    if not sizes:
        raise PartitionNotFound(
            f"{data or f's3://{content.data_bucket}/{keys.folder(content.data_prefix)}'} holds no "
            "partitions (*.pt): `cosmicai data upload` brings some"
        )
    partitions = sorted(sizes, key=sharing.natural_key)[: content.file_limit]
    num_bytes = sum(sizes[key] for key in partitions)
    ranks = content.world_size or len(partitions)
    asked_for = min(content.max_concurrency or account.max_concurrency, account.max_concurrency)
    bound = min(asked_for, account.free, MAX_CHILDREN)
    bounds = {"max_concurrency": bound} if bound < min(ranks, asked_for) else {}
    galaxy_bytes = config.inputs.galaxy.nbytes
    galaxies = max(1, num_bytes // galaxy_bytes)
    busy = min(ranks, galaxies)  # ranks without data cost next to nothing
    estimate = plan_execution(
        galaxies=galaxies,
        partition_mb=max(num_bytes / busy, galaxy_bytes + ARCHIVE_BYTES) / MB,
        ranks=busy,
        memory_mb=account.memory_mb,
        concurrency=account.free,
        max_concurrency=bound,
        barrier=content.fmi,
        calibrate=[calibrate] if calibrate else None,
        region=account.region,
        architecture=account.architecture,
        simulations=SIMULATIONS,
        seed=0,
        model=config,
    )
    checks = [
        *permitted,
        *account.checks,
        *model_checks,
        Check(
            "partitions",
            "ok",
            f"{len(partitions)} of {len(sizes)}, {num_bytes / MB:,.0f} MB, about {galaxies:,} "
            "galaxies",
        ),
        *_concurrency(account, content, ranks, bound),
        _input_size(content),
        _time(account, estimate),
        *(Check("simulation", "warning", warning) for warning in estimate.warnings),
    ]
    if ask_about_definition:
        checks += definition_checks(connection)
    return Preflight(tuple(checks), len(partitions), num_bytes, galaxies, ranks, estimate, bounds)


def _permitted(connection: Connection, content: ExecutionInput) -> Iterator[Check]:
    """Compare where the input reads and writes with what the functions' roles allow."""
    places = {
        "bucket": (content.bucket, "BucketName"),
        "data_bucket": (content.data_bucket, "DataBucketName"),
    }
    for key, (named, parameter) in places.items():
        allowed = connection.outputs.get(parameter, named)
        if named != allowed:
            yield Check(
                "permission",
                "error",
                f"key {key!r}: the stack's functions may use {allowed} only, found {named!r}; "
                f"leave the key out, or deploy a stack with {parameter}={named}",
            )
    prefix = connection.parameters.get("ResultPrefix", "")
    if not keys.folder(content.result_path).startswith(prefix):
        yield Check(
            "permission",
            "error",
            f"key 'result_path': the stack's functions may write under {prefix} only, found "
            f"{content.result_path!r}; choose {prefix}{content.result_path}, or deploy the stack "
            "with another ResultPrefix",
        )


def _partition_sizes(connection: Connection, content: ExecutionInput) -> Mapping[str, int]:
    """Return key → bytes of the partitions that the input names."""
    prefix = keys.folder(content.data_prefix)
    listing = connection.store(content.data_bucket).list(prefix, recursive=False)
    return {item.key: item.size for item in listing if sharing.is_partition(item.key)}


def _model(
    connection: Connection, content: ExecutionInput, folder: Path | None
) -> tuple[ArchitectureConfig, list[Check]]:
    """Return the config of the model, or the default one where it has none, and what was found."""
    checks: list[Check] = []
    if folder:
        architecture, config = load_config(folder)
    else:
        found, architecture, config = _uploaded_model(connection, content)
        checks.append(found)
    engine = content.engine or connection.parameters.get("Engine", DEFAULT_ENGINE)
    try:
        fitting_engine(architecture.name, [engine])
    except CosmicAIError as error:
        checks.append(Check("engine", "error", str(error)))
    return config, checks


def _uploaded_model(
    connection: Connection, content: ExecutionInput
) -> tuple[Check, Architecture, ArchitectureConfig]:
    prefix = keys.folder(content.S3_object_name)
    store = connection.store(content.bucket)
    found = {item.key for item in store.list(prefix)}
    key, architecture = prefix + CONFIG_NAME, ARCHITECTURES[DEFAULT]
    config: ArchitectureConfig = ModelConfig()
    if key in found:
        try:
            document = store.read(key, most=MAX_CONFIG_BYTES)
            architecture, config = read_config(document, store.address(key))
        except (ModelMismatch, InvalidInput) as error:
            return Check("model", "error", str(error)), architecture, config
    wanted = [prefix + name for name in architecture.files]
    if missing := [key for key in wanted if key not in found]:
        finding = f"not in s3://{content.bucket}: {', '.join(missing)}"
        return Check("model", "error", finding), architecture, config
    return Check("model", "ok", f"s3://{content.bucket}/{prefix}"), architecture, config


def _concurrency(
    account: Account, content: ExecutionInput, ranks: int, bound: int
) -> Iterator[Check]:
    source = "reserved for Model Inference" if account.reserved else "the account"
    have = f"{account.free} of {account.concurrency} at once ({source})"
    if content.fmi and ranks > min(account.free, account.max_concurrency):
        yield Check(
            "concurrency",
            "error",
            f"a barrier needs all {ranks} ranks at once; Lambda runs {have} and MaxConcurrency is "
            f"{account.max_concurrency}: ask for fewer ranks, or raise the {CONCURRENCY_QUOTA}",
        )
    elif bound < min(ranks, content.max_concurrency or account.max_concurrency):
        yield Check(
            "concurrency",
            "warning",
            f"Lambda runs {have}: the run is bounded to {bound} ranks at once, or it would be "
            f"throttled; to run more, raise the {CONCURRENCY_QUOTA}",
        )
    else:
        yield Check("concurrency", "ok", f"{min(ranks, bound)} ranks at once; Lambda runs {have}")
    if account.concurrency < SMALL_ACCOUNT:
        yield Check(
            "quota",
            "warning",
            f"the {CONCURRENCY_QUOTA} is {account.concurrency}, as new accounts have it; they are "
            f"also bound to {NEW_ACCOUNT_MEMORY_MB:,} MB per function. Ask AWS Support, or the "
            "Service Quotas console, for more",
        )


def _input_size(content: ExecutionInput) -> Check:
    size = len(json.dumps(content.model_dump(mode="json", by_alias=True)).encode())
    level: Level = "ok" if size <= MAX_INPUT else "error"
    return Check("payload", level, f"{size:,} of {MAX_INPUT:,} bytes; the manifest is in S3")


def _time(account: Account, estimate: Plan) -> Check:
    slowest = estimate.rank_seconds.p95
    text = f"a rank takes about {slowest:.0f} s of {account.timeout} s ({account.memory_mb} MB)"
    if slowest > account.timeout:
        advice = ": take smaller partitions, more ranks or more memory"
        return Check("time-out", "warning", text + advice)
    return Check("time-out", "ok", text)
