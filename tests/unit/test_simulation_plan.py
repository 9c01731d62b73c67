"""Plans scale sensibly and refuse what cannot be."""

import json
from pathlib import Path

import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.simulation.model import Limits, Profile, Retry
from cosmicai_workbench.simulation.planning import plan, work_for

ROOT = Path(__file__).parents[2]
PROFILE = Profile(
    source="by hand",
    vcpus=2,
    initialize_seconds=1,
    summarize_seconds=1,
    cold_start_seconds=(2,),
    read_bytes_per_second=80e6,
    predict_seconds_per_sample=0.002,
    jitter=(1, 1.1, 1.4),
)


def test_more_memory_is_faster_and_the_galaxies_are_all_there():
    work = work_for(1e6, 25, 20_504)
    small, large = (
        plan(work, PROFILE, Limits(), Retry(), memory_mb=m, simulations=3) for m in (1769, 7076)
    )
    assert small.galaxies >= 1_000_000
    assert small.work.ranks == 783
    assert large.wall_seconds.median < small.wall_seconds.median
    assert small.wall_seconds.p5 <= small.wall_seconds.median <= small.wall_seconds.p95


def test_same_seed_same_plan():
    work = work_for(1e5, 25, 20_504)
    first, again = (
        plan(work, PROFILE, Limits(), Retry(), memory_mb=1769, simulations=3, seed=7)
        for _ in range(2)
    )
    assert first == again


def test_warns_of_children_that_live_too_long_and_of_barriers_that_cannot_close():
    work = work_for(1e6, 25, 20_504, barrier=True)
    slow = PROFILE.model_copy(update={"predict_seconds_per_sample": 1.0})
    found = plan(work, slow, Limits(concurrency=100), Retry(), memory_mb=3538, simulations=1)
    text = " ".join(found.warnings)
    assert "EXPRESS child" in text
    assert "barrier among 783 ranks" in text


def test_defaults_are_those_of_the_state_machine():
    definition = json.loads((ROOT / "statemachine" / "inference.asl.json").read_text())
    assert Limits().execution_seconds == definition["TimeoutSeconds"]
    child = definition["States"]["Distributed Inference"]["ItemProcessor"]["States"]
    (throttled,) = (
        retry
        for retry in child["Model Inference"]["Retry"]
        if "Lambda.TooManyRequestsException" in retry["ErrorEquals"]
    )
    assert Retry().model_dump() == {
        "interval_seconds": throttled["IntervalSeconds"],
        "backoff_rate": throttled["BackoffRate"],
        "max_attempts": throttled["MaxAttempts"],
        "max_delay_seconds": throttled["MaxDelaySeconds"],
    }


def test_warns_of_an_execution_that_the_state_machine_would_end():
    work = work_for(2e6, 25, 20_504)
    found = plan(
        work, PROFILE, Limits(execution_seconds=20), Retry(), memory_mb=1769, simulations=1
    )
    assert "TimeoutSeconds" in " ".join(found.warnings)


@pytest.mark.parametrize(
    ("galaxies", "partition_mb", "ranks", "named"),
    [
        (0, 25, None, "--galaxies"),
        (float("nan"), 25, None, "--galaxies"),
        (10, 0.001, None, "--partition-mb"),
        (10, 25, 11, "--ranks"),
    ],
)
def test_impossible_work_is_refused_by_name(galaxies, partition_mb, ranks, named):
    with pytest.raises(InvalidInput, match=named):
        work_for(galaxies, partition_mb, 20_504, ranks=ranks)


def test_a_region_without_prices_is_named():
    with pytest.raises(InvalidInput, match="mars-1"):
        plan(
            work_for(1e4, 25, 20_504),
            PROFILE,
            Limits(),
            Retry(),
            memory_mb=1769,
            region="mars-1",
            simulations=1,
        )
