"""Costs: hand-computed figures, the published table, and where the seeds' tables are off."""

import json
import math
from typing import Any

import pytest
from cosmicai.cost import (
    Architecture,
    FunctionUsage,
    Usage,
    cost,
    execution_usage,
    prices,
    regions,
    round_up_express,
)
from cosmicai.errors import InvalidInput
from pydantic import ValidationError


def lambdas(
    requests: int, seconds: float, memory_gb: float, architecture: Architecture = "x86_64"
) -> Usage:
    function = FunctionUsage(
        name="model_inference",
        requests=requests,
        billed_seconds=requests * seconds,
        memory_mb=round(memory_gb * 1024),
    )
    return Usage(architecture=architecture, functions=[function])


@pytest.mark.parametrize(
    ("requests", "seconds", "memory_gb", "dollars"),
    [
        (517, 6.55, 2.8, 0.16),
        (259, 11.8, 4.0, 0.20),
        (173, 17.6, 5.9, 0.30),
        (130, 25.0, 7.0, 0.38),
    ],
)
def test_the_published_table_of_the_12_6_gb_data_set_is_reproduced(
    requests: int, seconds: float, memory_gb: float, dollars: float
) -> None:
    assert cost(lambdas(requests, seconds, memory_gb)).total == pytest.approx(dollars, abs=0.005)


@pytest.mark.parametrize(
    ("invocations", "total_seconds", "memory_gb", "printed"),
    [(491, 3633.4, 2.8, 83.27), (245, 2646.0, 4.0, 43.2266), (163, 3227.4, 5.9, 51.7402),
     (122, 4074.8, 7.0, 58.0096)],
)  # fmt: skip
def test_one_seeds_costs_are_off_by_the_number_of_invocations(
    invocations: int, total_seconds: float, memory_gb: float, printed: float
) -> None:
    """It multiplies a duration that already sums over the invocations by their number again."""
    right = cost(lambdas(invocations, total_seconds / invocations, memory_gb)).total
    assert right < 0.6
    assert right * invocations == pytest.approx(printed, rel=0.01)


def test_every_item_by_hand() -> None:
    usage = Usage(
        architecture="arm64",
        functions=[
            FunctionUsage(
                name="model_inference",
                requests=1000,
                billed_seconds=10_000,
                memory_mb=2048,
                ephemeral_storage_mb=1536,
            )
        ],
        standard_transitions=1005,
        express_requests=1000,
        express_seconds=11_000,
        express_memory_mb=65,
        s3_put_requests=2000,
        s3_get_requests=10_000,
        fargate_vcpu_hours=4,
        fargate_gb_hours=8,
        valkey_node_hours=10,
    )
    expected = {
        "lambda model_inference": 20_000 * 0.0000133334,
        "lambda requests": 0.0002,
        "lambda ephemeral storage": 10_000 * 0.0000000309,
        "states transitions": 0.025125,
        "states express requests": 0.001,
        "states express duration": 11_000 * 128 / 1024 * 0.00001667,
        "s3 requests": 0.01 + 0.004,
        "fargate": 4 * 0.03238 + 8 * 0.00356,
        "valkey": 0.128,
    }
    breakdown = cost(usage)
    assert breakdown.items == pytest.approx(expected)
    assert breakdown.total == pytest.approx(math.fsum(expected.values()))


def test_tiers_are_marginal_over_the_month() -> None:
    usage = lambdas(1, 2e9, 1.0, "arm64").model_copy(update={"lambda_gb_seconds_this_month": 7e9})
    items = cost(usage).items
    assert items["lambda model_inference"] == pytest.approx(
        0.5e9 * 0.0000133334 + 1.5e9 * 0.0000120001
    )


def test_what_was_not_used_is_not_listed_and_needs_no_price() -> None:
    assert cost(Usage(region="nowhere-1")).items == {}


def test_a_missing_price_is_a_clear_error() -> None:
    usage = lambdas(1, 1.0, 1.0).model_copy(update={"region": "nowhere-1"})
    with pytest.raises(InvalidInput, match=r"'lambda_gb_second_x86_64' for region 'nowhere-1'"):
        cost(usage)
    with pytest.raises(InvalidInput, match=r"'valkey_t4g_micro_hour' for region 'eu-central-1'"):
        cost(Usage(region="eu-central-1", valkey_node_hours=1))


def test_negative_or_infinite_use_is_refused() -> None:
    with pytest.raises(ValidationError):
        Usage(express_seconds=math.inf)
    with pytest.raises(ValidationError):
        Usage(s3_get_requests=-1)


def test_express_durations_are_rounded_up_to_a_tenth_of_a_second() -> None:
    rounded = [round_up_express(seconds) for seconds in (0.01, 0.1, 0.1 + 0.2, 0.31)]
    assert rounded == pytest.approx([0.1, 0.1, 0.3, 0.4])


def test_an_execution_pays_a_transition_a_child() -> None:
    usage = execution_usage(
        [], ranks=10, child_seconds=5.0, s3_get_requests=1, s3_put_requests=1, region="us-west-2"
    )
    assert (usage.standard_transitions, usage.express_requests) == (15, 10)
    assert set(cost(usage).items) == {
        "states transitions", "states express requests", "states express duration", "s3 requests",
    }  # fmt: skip


def test_every_price_is_dated_positive_and_complete() -> None:
    table: dict[str, Any] = prices()
    assert table["date"] >= "2026"
    assert "us-east-1" in regions()
    for name, entry in table.items():
        if isinstance(entry, dict):
            assert "us-east-1" in entry["regions"], name
            default = entry["default"]
            rates = [rate for _, rate in default] if isinstance(default, list) else [default]
            assert all(rate > 0 for rate in rates), name
    json.dumps(table)
