"""What an execution costs on AWS: from a usage to dollars, by one pure function.

The prices are list prices in ``prices.json``, dated, without free tier or discounts. While no
execution runs, S3 bills what it stores, and Lambda what is kept ready (:func:`kept_ready`).
"""

from __future__ import annotations

import functools
import json
import math
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cosmicai.errors import InvalidInput
from cosmicai.facts import FUNCTION_MEMORY_MB, MAX_MEMORY_MB, MIN_MEMORY_MB, Architecture

if TYPE_CHECKING:
    from collections.abc import Mapping

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]

EXPRESS_MEMORY_STEP_MB = 64
EXPRESS_TIME_STEP_SECONDS = 0.1
FREE_EPHEMERAL_MB = 512

PARENT_TRANSITIONS = 5
"""States of the parent per execution: Initialize, Map, Summarize, Whole Result, Succeeded."""

# S3 requests of an execution; those that read partitions are counted apart.
MODEL_GETS = 2
"""Of a cold sandbox."""
RECORD_GETS = 3
"""Per rank: for an earlier record, for the claim, and Summarize's for its record."""
BARRIER_GETS = 2
"""Per rank at the collective, for its record and for what was agreed; messages not counted."""
PUTS_PER_RANK = 2
FILES_PER_RANK = 3
"""Files that Summarize may have to list: record, predictions, failure."""
LISTED_AT_ONCE = 1000
STEP_REQUESTS = 10
"""GETs, and PUTs, of Initialize, Summarize and the Map's reader and writer."""
SECONDS_PER_MONTH = 730 * 3600.0


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FunctionUsage(_Model):
    """What one Lambda function used, over all its invocations."""

    name: str
    requests: Count
    billed_seconds: NonNegative = Field(description="Sum of the billed durations.")
    memory_mb: Annotated[int, Field(ge=MIN_MEMORY_MB, le=MAX_MEMORY_MB)] = Field(
        description="Memory size."
    )
    ephemeral_storage_mb: Annotated[int, Field(ge=512, le=10_240)] = 512

    @property
    def gb_seconds(self) -> float:
        """Duration times memory; Lambda's GB has 1,024 MB."""
        return self.billed_seconds * self.memory_mb / 1024


class Usage(_Model):
    """Everything an execution used that AWS bills."""

    region: str = "us-east-1"
    architecture: Architecture = "arm64"
    functions: list[FunctionUsage] = []
    standard_transitions: Count = 0
    express_requests: Count = 0
    express_seconds: NonNegative = Field(
        default=0.0, description="Sum of child durations, each rounded up to 0.1 s."
    )
    express_memory_mb: Count = Field(default=64, description="Of one child, rounded up to 64 MB.")
    s3_put_requests: Count = Field(default=0, description="PUT, COPY, POST and LIST requests.")
    s3_get_requests: Count = Field(default=0, description="GET and HEAD requests.")
    fargate_vcpu_hours: NonNegative = 0.0
    fargate_gb_hours: NonNegative = 0.0
    valkey_node_hours: NonNegative = Field(default=0.0, description="Of cache.t4g.micro nodes.")
    valkey_gb_hours: NonNegative = Field(default=0.0, description="Stored by serverless Valkey.")
    valkey_ecpus: NonNegative = Field(default=0.0, description="Used of serverless Valkey.")
    provisioned_gb_seconds: NonNegative = Field(
        default=0.0, description="Of sandboxes kept warm: their number times memory times time."
    )
    snapshot_gb_seconds: NonNegative = Field(
        default=0.0, description="Of SnapStart snapshots: each published version's memory, cached."
    )
    snapshot_restored_gb: NonNegative = Field(default=0.0, description="Of restored snapshots.")
    lambda_gb_seconds_this_month: NonNegative = Field(
        default=0.0, description="Used before, same account and architecture: decides the tier."
    )
    express_gb_seconds_this_month: NonNegative = 0.0


class CostBreakdown(_Model):
    """Dollars by item, and their sum."""

    region: str
    architecture: Architecture
    currency: Literal["USD"] = "USD"
    prices_date: str
    items: dict[str, float] = Field(description="Item, e.g. 'lambda model_inference' → dollars.")
    assumed: list[str] = Field(
        default=[],
        description="Items priced as in us-east-1: the region's own price was not looked up.",
    )
    total: float = Field(description="The sum of the items.")


@functools.cache
def prices() -> dict[str, Any]:
    """Return ``prices.json``."""
    content: dict[str, Any] = json.loads(files("cosmicai").joinpath("prices.json").read_text())
    return content


REFERENCE_REGION = "us-east-1"
"""A region's prices are this one's, but for those that its entry states."""


def regions() -> list[str]:
    """Return the regions that have prices."""
    return sorted(prices()["regions"])


def cost(usage: Usage) -> CostBreakdown:
    """Price a usage.

    Items that were not used are left out.

    Raises
    ------
    InvalidInput
        If ``prices.json`` has no prices for the region.
    """
    architecture = usage.architecture
    items: dict[str, float] = {}
    assumed: set[str] = set()
    entry, not_looked_up = _region(usage.region)

    def add(item: str, price: str, quantity: float, before: float = 0.0) -> None:
        if quantity > 0:
            rate = entry[price]
            if price.startswith(not_looked_up):
                assumed.add(item)
            dollars = _tiered(rate, before, quantity) if isinstance(rate, list) else rate * quantity
            items[item] = items.get(item, 0.0) + dollars

    before = usage.lambda_gb_seconds_this_month
    for function in usage.functions:
        gb_seconds = function.gb_seconds
        add(f"lambda {function.name}", f"lambda_gb_second_{architecture}", gb_seconds, before)
        before += gb_seconds
        add("lambda requests", "lambda_request", function.requests)
        paid_mb = function.ephemeral_storage_mb - FREE_EPHEMERAL_MB
        paid_gb_seconds = paid_mb / 1024 * function.billed_seconds
        add("lambda ephemeral storage", "lambda_ephemeral_gb_second", paid_gb_seconds)
    steps = math.ceil(usage.express_memory_mb / EXPRESS_MEMORY_STEP_MB)
    express_gb_seconds = usage.express_seconds * steps * EXPRESS_MEMORY_STEP_MB / 1024
    add("states transitions", "states_standard_transition", usage.standard_transitions)
    add("states express requests", "states_express_request", usage.express_requests)
    add(
        "states express duration",
        "states_express_gb_second",
        express_gb_seconds,
        usage.express_gb_seconds_this_month,
    )
    add("s3 requests", "s3_put_request", usage.s3_put_requests)
    add("s3 requests", "s3_get_request", usage.s3_get_requests)
    add("fargate", f"fargate_vcpu_hour_{architecture}", usage.fargate_vcpu_hours)
    add("fargate", f"fargate_gb_hour_{architecture}", usage.fargate_gb_hours)
    add("valkey", "valkey_t4g_micro_hour", usage.valkey_node_hours)
    add("valkey", "valkey_serverless_gb_hour", usage.valkey_gb_hours)
    add("valkey", "valkey_serverless_ecpu", usage.valkey_ecpus)
    provisioned = f"lambda_provisioned_gb_second_{architecture}"
    add("kept warm", provisioned, usage.provisioned_gb_seconds)
    add("snapshots", "snapstart_cached_gb_second", usage.snapshot_gb_seconds)
    add("snapshots", "snapstart_restored_gb", usage.snapshot_restored_gb)
    return CostBreakdown(
        region=usage.region,
        architecture=architecture,
        prices_date=prices()["date"],
        items=items,
        assumed=sorted(assumed),
        total=math.fsum(items.values()),
    )


def round_up_express(seconds: float) -> float:
    """Round one child's duration up as Step Functions bills it, to 0.1 s."""
    return math.ceil(round(seconds / EXPRESS_TIME_STEP_SECONDS, 6)) * EXPRESS_TIME_STEP_SECONDS


def kept_ready(
    memory_mb: int,
    *,
    provisioned: int = 0,
    snapshots: int = 0,
    region: str = REFERENCE_REGION,
    architecture: Architecture = "arm64",
    seconds: float = SECONDS_PER_MONTH,
) -> CostBreakdown:
    """Price what Lambda keeps ready for executions and bills whether or not any runs.

    Parameters
    ----------
    memory_mb
        Memory size of the function.
    provisioned
        Sandboxes kept warm (provisioned concurrency).
    snapshots
        Published versions with a SnapStart snapshot; each is billed until it is deleted.
    seconds
        How long; by default, a month.
    """
    gb_seconds = memory_mb / 1024 * seconds
    return cost(
        Usage(
            region=region,
            architecture=architecture,
            provisioned_gb_seconds=provisioned * gb_seconds,
            snapshot_gb_seconds=snapshots * gb_seconds,
        )
    )


def execution_usage(
    *,
    ranks: int,
    partition_requests: float,
    cold_starts: float,
    inference_seconds: float,
    inference_memory_mb: int,
    child_seconds: float,
    initialize_seconds: float,
    summarize_seconds: float,
    attempts: int | None = None,
    partitions: int | None = None,
    barrier_seconds: float | None = None,
    memory_mb: Mapping[str, int] = FUNCTION_MEMORY_MB,
    region: str = REFERENCE_REGION,
    architecture: Architecture = "arm64",
) -> Usage:
    """Return the usage of one execution of the state machine: the one place that knows its parts.

    Parameters
    ----------
    ranks
        Children of the Map; starting each is one transition of the parent.
    partition_requests
        GET requests that read partitions, over all ranks.
    cold_starts
        Sandboxes that read the model.
    inference_seconds
        Sum of the billed seconds of Model Inference.
    inference_memory_mb
        Its memory size.
    child_seconds
        Sum of the children's durations, each rounded up by :func:`round_up_express`.
    initialize_seconds, summarize_seconds
        Billed seconds of the two steps.
    attempts
        Invocations of Model Inference, if not one per rank.
    partitions
        Partitions that Initialize lists, if not one per rank.
    barrier_seconds
        Sum of the billed seconds of Invoke FMI; None for an execution without FMI.
    memory_mb
        Memory sizes of the other functions, by function folder.
    """
    requests = ranks if attempts is None else attempts
    parts = [
        ("initialize", 1, initialize_seconds, memory_mb["initialize"]),
        ("model_inference", requests, inference_seconds, inference_memory_mb),
        ("summarize", 1, summarize_seconds, memory_mb["summarize"]),
    ]
    if barrier_seconds is not None:
        parts.append(("invoke_fmi", ranks, barrier_seconds, memory_mb["invoke_fmi"]))
    listed = math.ceil((ranks if partitions is None else partitions) / LISTED_AT_ONCE)
    listed += math.ceil(FILES_PER_RANK * ranks / LISTED_AT_ONCE)
    return Usage(
        region=region,
        architecture=architecture,
        functions=[
            FunctionUsage(name=name, requests=count, billed_seconds=seconds, memory_mb=memory)
            for name, count, seconds, memory in parts
        ],
        standard_transitions=PARENT_TRANSITIONS + ranks,
        express_requests=ranks,
        express_seconds=child_seconds,
        s3_get_requests=math.ceil(
            partition_requests
            + MODEL_GETS * cold_starts
            + RECORD_GETS * ranks
            + (BARRIER_GETS * ranks if barrier_seconds is not None else 0)
            + STEP_REQUESTS
        ),
        s3_put_requests=PUTS_PER_RANK * ranks + listed + STEP_REQUESTS,
    )


def _region(name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a region's prices, and how the names begin of those that are not its own."""
    table = prices()["regions"]
    if name not in table:
        raise InvalidInput(
            f"prices.json ({prices()['date']}) has no prices for region {name!r}; known: "
            f"{', '.join(regions())}"
        )
    own = table[name]
    return table[REFERENCE_REGION] | own, tuple(own.get("assumed", ()))


def _tiered(tiers: list[tuple[float | None, float]], before: float, quantity: float) -> float:
    """Price a quantity whose first unit comes after ``before`` others of the month."""
    dollars = []
    start, end = before, before + quantity
    lower = 0.0
    for limit, rate in tiers:
        upper = math.inf if limit is None else limit
        dollars.append(max(0.0, min(end, upper) - max(start, lower)) * rate)
        lower = upper
    return math.fsum(dollars)
