"""Check an execution against the account and the stack before it starts, and price it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from cosmicai import keys, planning
from cosmicai.errors import PartitionNotFound
from cosmicai.facts import ARCHIVE_BYTES, GALAXY_BYTES, MB

from cosmicai_workbench.client.connection import lookups
from cosmicai_workbench.simulation.service import plan_execution

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cosmicai.schema import ExecutionInput

    from cosmicai_workbench.client.connection import Connection
    from cosmicai_workbench.simulation.planning import Plan

Level = Literal["ok", "warning", "error"]
MAX_CHILDREN = 10_000
"""Children of a Distributed Map that Step Functions runs at once."""
MAX_INPUT = 256 * 1024
"""Bytes of an execution's input."""
SIMULATIONS = 3


@dataclass(frozen=True)
class Check:
    """One comparison of what is needed with what is there."""

    name: str
    level: Level
    finding: str


@dataclass(frozen=True)
class Preflight:
    """What an execution would meet on AWS, and what it would cost."""

    checks: tuple[Check, ...]
    partitions: int
    num_bytes: int
    ranks: int
    estimate: Plan
    available: int
    """Ranks that the account would run at once."""

    @property
    def bounds(self) -> dict[str, int]:
        """Keys to add to the input, so that the Map starts no more ranks than can run."""
        return {"max_concurrency": max(1, self.available)} if self.ranks > self.available else {}

    @property
    def passed(self) -> bool:
        """Whether nothing stands in the way."""
        return all(check.level != "error" for check in self.checks)

    @property
    def dollars(self) -> float | None:
        """Estimated cost of the execution, or None where it has no price."""
        return self.estimate.cost.total

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "partitions": self.partitions,
            "num_bytes": self.num_bytes,
            "ranks": self.ranks,
            "estimated_wall_seconds": self.estimate.wall_seconds.median,
            "estimated_cost": self.estimate.cost.model_dump(),
        }


@dataclass(frozen=True)
class _Account:
    """The account's and the function's settings that bound a run."""

    concurrency: int
    unreserved: int
    reserved: int | None
    memory_mb: int
    timeout: int
    architecture: str
    max_concurrency: int
    region: str

    @property
    def available(self) -> int:
        """Ranks that Lambda would run at once."""
        return self.unreserved if self.reserved is None else self.reserved


def preflight(
    connection: Connection,
    content: ExecutionInput,
    *,
    calibrate: Path | None = None,
    model: Path | None = None,
    data: Path | None = None,
) -> Preflight:
    """Compare an execution with the stack and the account; nothing is started or written.

    Parameters
    ----------
    calibrate
        Run folder to take the ranks' times from; by default the published executions.
    model, data
        Folders that are about to be uploaded: looked at instead of what is in S3.

    Raises
    ------
    PartitionNotFound
        If there is nothing to compute.
    LookupRefused
        If AWS refuses a look-up.
    """
    with lookups("the account's limits"):
        account = _account(connection)
        if data is None:
            sizes = _partition_sizes(connection, content)
        else:
            sizes = {path.name: path.stat().st_size for path in data.glob("*.pt")}
        model_checks = [] if model else [_model(connection, content)]
    if not sizes:
        raise PartitionNotFound(
            f"{data or f's3://{content.data_bucket}/{keys.folder(content.data_prefix)}'} holds no "
            "partitions (*.pt): `cosmicai data upload` brings some"
        )
    partitions = sorted(sizes, key=planning.natural_key)[: content.file_limit]
    num_bytes = sum(sizes[key] for key in partitions)
    ranks = content.world_size or len(partitions)
    at_once = min(account.available, account.max_concurrency, MAX_CHILDREN)
    estimate = plan_execution(
        galaxies=max(1, num_bytes // GALAXY_BYTES),
        partition_mb=max(num_bytes / ranks, GALAXY_BYTES + ARCHIVE_BYTES) / MB,
        ranks=min(ranks, max(1, num_bytes // GALAXY_BYTES)),
        memory_mb=account.memory_mb,
        concurrency=max(1, at_once),
        barrier=False,
        calibrate=[calibrate] if calibrate else None,
        region=account.region,
        architecture=account.architecture,
        simulations=SIMULATIONS,
        seed=0,
    )
    checks = [
        *model_checks,
        Check("partitions", "ok", f"{len(partitions)} of {len(sizes)}, {num_bytes / MB:,.0f} MB"),
        *_concurrency(account, content, ranks),
        _input_size(content),
        _time(account, estimate),
        *(Check("simulation", "warning", warning) for warning in estimate.warnings),
    ]
    return Preflight(tuple(checks), len(partitions), num_bytes, ranks, estimate, at_once)


def _account(connection: Connection) -> _Account:
    functions = connection.service("lambda")
    limits = functions.get_account_settings()["AccountLimit"]
    name = connection.outputs["ModelInferenceFunction"]
    function = functions.get_function_configuration(FunctionName=name)
    reserved = functions.get_function_concurrency(FunctionName=name)
    return _Account(
        concurrency=limits["ConcurrentExecutions"],
        unreserved=limits["UnreservedConcurrentExecutions"],
        reserved=reserved.get("ReservedConcurrentExecutions"),
        memory_mb=function["MemorySize"],
        timeout=function["Timeout"],
        architecture=function["Architectures"][0],
        max_concurrency=int(connection.outputs["MaxConcurrency"]),
        region=functions.meta.region_name,
    )


def _partition_sizes(connection: Connection, content: ExecutionInput) -> Mapping[str, int]:
    """Return key → bytes of the partitions that the input names."""
    prefix = keys.folder(content.data_prefix)
    listing = connection.store(content.data_bucket).list(prefix, recursive=False)
    return {item.key: item.size for item in listing if planning.is_partition(item.key)}


def _model(connection: Connection, content: ExecutionInput) -> Check:
    prefix = keys.folder(content.S3_object_name)
    found = {item.key for item in connection.store(content.bucket).list(prefix)}
    wanted = [keys.model_file(content.S3_object_name, name) for name in keys.MODEL_FILES]
    if missing := [key for key in wanted if key not in found]:
        return Check("model", "error", f"not in s3://{content.bucket}: {', '.join(missing)}")
    return Check("model", "ok", f"s3://{content.bucket}/{prefix}")


def _concurrency(account: _Account, content: ExecutionInput, ranks: int) -> Iterator[Check]:
    wanted = min(ranks, content.max_concurrency or account.max_concurrency)
    source = "the account" if account.reserved is None else "reserved for Model Inference"
    have = f"{account.available} of {account.concurrency} at once ({source})"
    if content.fmi and ranks > min(account.available, account.max_concurrency):
        yield Check(
            "concurrency",
            "error",
            f"a barrier needs all {ranks} ranks at once; Lambda runs {have} and MaxConcurrency is "
            f"{account.max_concurrency}: ask for fewer ranks, or raise the quota",
        )
    elif wanted > account.available:
        yield Check(
            "concurrency",
            "warning",
            f"the Map may start {wanted} ranks at once, Lambda runs {have}: the rest is throttled "
            "and retried; lower MaxConcurrency, or raise the quota",
        )
    else:
        yield Check("concurrency", "ok", f"{wanted} ranks at once; Lambda runs {have}")


def _input_size(content: ExecutionInput) -> Check:
    size = len(json.dumps(content.model_dump(mode="json", by_alias=True)).encode())
    level: Level = "ok" if size <= MAX_INPUT else "error"
    return Check("payload", level, f"{size:,} of {MAX_INPUT:,} bytes; the manifest is in S3")


def _time(account: _Account, estimate: Plan) -> Check:
    slowest = estimate.rank_seconds.p95
    text = f"a rank takes about {slowest:.0f} s of {account.timeout} s ({account.memory_mb} MB)"
    if slowest > account.timeout:
        advice = ": take smaller partitions, more ranks or more memory"
        return Check("time-out", "warning", text + advice)
    return Check("time-out", "ok", text)
