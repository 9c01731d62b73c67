"""What an execution costs on AWS: from a usage to dollars, by one pure function.

The prices are list prices in ``prices.json``, dated, without free tier or discounts. Nothing is
billed while no execution runs, but what S3 stores.
"""

from __future__ import annotations

import functools
import json
import math
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cosmicai.errors import InvalidInput
from cosmicai.facts import MAX_MEMORY_MB, MIN_MEMORY_MB

Architecture = Literal["arm64", "x86_64"]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]

EXPRESS_MEMORY_STEP_MB = 64
EXPRESS_TIME_STEP_SECONDS = 0.1
FREE_EPHEMERAL_MB = 512

PARENT_TRANSITIONS = 5
"""States of the parent per execution: Initialize, Map, Summarize, Whole Result, Succeeded."""


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
    total: float = Field(description="The sum of the items.")


@functools.cache
def prices() -> dict[str, Any]:
    """Return ``prices.json``."""
    content: dict[str, Any] = json.loads(files("cosmicai").joinpath("prices.json").read_text())
    return content


def regions() -> list[str]:
    """Return the regions in which Lambda has a price."""
    return sorted(prices()["lambda_request"]["regions"])


def cost(usage: Usage) -> CostBreakdown:
    """Price a usage.

    Items that were not used are left out.

    Raises
    ------
    InvalidInput
        If ``prices.json`` lacks a price that the usage needs in its region; it names both.
    """
    architecture = usage.architecture
    items: dict[str, float] = {}

    def add(item: str, price: str, quantity: float, before: float = 0.0) -> None:
        if quantity > 0:
            rate = _price(price, usage.region)
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
    return CostBreakdown(
        region=usage.region,
        architecture=architecture,
        prices_date=prices()["date"],
        items=items,
        total=math.fsum(items.values()),
    )


def round_up_express(seconds: float) -> float:
    """Round one child's duration up as Step Functions bills it, to 0.1 s."""
    return math.ceil(round(seconds / EXPRESS_TIME_STEP_SECONDS, 6)) * EXPRESS_TIME_STEP_SECONDS


def execution_usage(
    functions: list[FunctionUsage],
    *,
    ranks: int,
    child_seconds: float,
    s3_get_requests: int,
    s3_put_requests: int,
    region: str = "us-east-1",
    architecture: Architecture = "arm64",
) -> Usage:
    """Return the usage of one execution of the state machine.

    Parameters
    ----------
    functions
        What its Lambda functions used.
    ranks
        Children of the Map; starting each is one transition of the parent.
    child_seconds
        Sum of the children's durations, each rounded up by :func:`round_up_express`.
    s3_get_requests, s3_put_requests
        Of the functions and of the Map's reader and writer.
    """
    return Usage(
        region=region,
        architecture=architecture,
        functions=functions,
        standard_transitions=PARENT_TRANSITIONS + ranks,
        express_requests=ranks,
        express_seconds=child_seconds,
        s3_get_requests=s3_get_requests,
        s3_put_requests=s3_put_requests,
    )


def _price(name: str, region: str) -> Any:
    entry = prices()[name]
    if region in entry:
        return entry[region]
    if region in entry["regions"]:
        return entry["default"]
    known = sorted({*entry["regions"], *(entry.keys() - {"default", "regions"})})
    raise InvalidInput(
        f"prices.json ({prices()['date']}) has no price {name!r} for region {region!r}; known for "
        f"it: {', '.join(known)}. Add it to prices.json or choose one of these"
    )


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
