"""Costs: hand-computed figures, the published table, and where the published tables are off."""

import math
from pathlib import Path
from typing import Any

import pytest
from cosmicai.cost import (
    Architecture,
    FunctionUsage,
    Usage,
    cost,
    execution_usage,
    kept_ready,
    prices,
    regions,
    round_up_express,
)
from cosmicai.errors import InvalidInput
from cosmicai.facts import DEFAULT_INFERENCE_MEMORY_MB
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


def test_what_was_not_used_is_not_listed() -> None:
    assert cost(Usage()).items == {}


def test_a_region_without_prices_is_a_clear_error() -> None:
    usage = lambdas(1, 1.0, 1.0).model_copy(update={"region": "nowhere-1"})
    with pytest.raises(InvalidInput, match=r"no prices for region 'nowhere-1'; known: af-south-1"):
        cost(usage)


@pytest.mark.parametrize(
    ("region", "x86_64", "arm64"),
    [
        # From AWS's price list, tier 1; the second is another public copy of it.
        ("us-east-1", 0.0000166667, 0.0000133334),
        ("sa-east-1", 0.0000166667, 0.0000133334),
        ("eu-south-1", 0.0000195172, 0.0000156138),
        ("me-south-1", 0.0000206667, 0.0000165334),
        ("ap-southeast-5", 0.000015, 0.000012),
    ],
)
def test_regions_have_lambda_prices_of_their_own(region: str, x86_64: float, arm64: float) -> None:
    for architecture, price in (("x86_64", x86_64), ("arm64", arm64)):
        usage = lambdas(0, 0, 1.0, architecture)  # type: ignore[arg-type]
        function = usage.functions[0].model_copy(update={"billed_seconds": 1e6})
        priced = cost(usage.model_copy(update={"region": region, "functions": [function]}))
        assert priced.items["lambda model_inference"] == pytest.approx(1e6 * price)
        assert priced.assumed == []


def test_what_was_not_looked_up_for_a_region_is_said() -> None:
    usage = Usage(region="eu-north-1", s3_get_requests=1000, standard_transitions=10)
    found = cost(usage)
    assert found.assumed == ["s3 requests", "states transitions"]
    assert found.items == pytest.approx(
        cost(usage.model_copy(update={"region": "us-east-1"})).items
    )
    assert cost(usage.model_copy(update={"region": "eu-central-1"})).assumed == []


def test_what_is_kept_ready_is_billed_while_nothing_runs() -> None:
    """AWS's own example in its price list: GB-seconds of the month times the price."""
    warm = kept_ready(1024, provisioned=10, architecture="x86_64")
    assert warm.items == pytest.approx({"kept warm": 10 * 730 * 3600 * 0.0000041667})
    cached = kept_ready(2048, snapshots=2)
    assert cached.items == pytest.approx({"snapshots": 2 * 2 * 730 * 3600 * 0.0000015046})
    assert kept_ready(2048).total == 0


def test_the_documented_idle_costs_are_those_of_the_default_memory_size() -> None:
    text = (Path(__file__).parents[2] / "docs/cost.md").read_text()
    memory = DEFAULT_INFERENCE_MEMORY_MB
    assert f"a month, {memory:,} MB, arm64, us-east-1" in text
    assert f"${kept_ready(memory, snapshots=1).total:.2f} a version" in text
    assert f"${kept_ready(memory, provisioned=1).total:.2f} a sandbox" in text


def test_negative_or_infinite_use_is_refused() -> None:
    with pytest.raises(ValidationError):
        Usage(express_seconds=math.inf)
    with pytest.raises(ValidationError):
        Usage(s3_get_requests=-1)


def test_express_durations_are_rounded_up_to_a_tenth_of_a_second() -> None:
    rounded = [round_up_express(seconds) for seconds in (0.01, 0.1, 0.1 + 0.2, 0.31)]
    assert rounded == pytest.approx([0.1, 0.1, 0.3, 0.4])


def usage_of(**changes: Any) -> Usage:
    figures: dict[str, Any] = {
        "ranks": 10,
        "partition_requests": 40,
        "cold_starts": 4,
        "inference_seconds": 100.0,
        "inference_memory_mb": 3538,
        "child_seconds": 105.0,
        "initialize_seconds": 1.0,
        "summarize_seconds": 2.0,
    }
    return execution_usage(**figures | changes)


def test_an_execution_pays_a_transition_a_child() -> None:
    usage = usage_of(region="us-west-2")
    assert (usage.standard_transitions, usage.express_requests) == (15, 10)
    assert (usage.s3_get_requests, usage.s3_put_requests) == (40 + 8 + 30 + 10, 20 + 2 + 10)
    memory = {function.name: function.memory_mb for function in usage.functions}
    assert memory == {"initialize": 1769, "model_inference": 3538, "summarize": 1769}


def test_with_fmi_the_ranks_wait_in_a_function_of_its_own() -> None:
    functions = {each.name: each for each in usage_of(barrier_seconds=50.0).functions}
    assert functions["invoke_fmi"].memory_mb == 256
    assert (functions["invoke_fmi"].requests, functions["invoke_fmi"].billed_seconds) == (10, 50)
    assert functions["model_inference"].billed_seconds == 100


def test_every_price_is_dated_positive_and_complete() -> None:
    table: dict[str, Any] = prices()
    assert table["date"] >= "2026"
    assert all(source["seen"] and source["urls"] for source in table["sources"])
    reference = table["regions"]["us-east-1"]
    assert len(regions()) >= 20
    for region, entry in table["regions"].items():
        for name, price in entry.items():
            if name == "assumed":
                assert all(any(each.startswith(name) for each in reference) for name in price)
                continue
            assert name in reference, (region, name)
            rates = [rate for _, rate in price] if isinstance(price, list) else [price]
            assert all(0 < rate < 1 for rate in rates), (region, name)
