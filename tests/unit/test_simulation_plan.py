"""Plans scale sensibly and refuse what cannot be."""

import json
from pathlib import Path

import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.simulation.events import THROTTLED, TRANSIENT
from cosmicai_workbench.simulation.parameters import Limits, Profile, Work
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
    small, large = (plan(work, PROFILE, Limits(), memory_mb=m, simulations=3) for m in (1769, 7076))
    assert small.galaxies >= 1_000_000
    assert small.work.ranks == 783
    assert large.wall_seconds.median < small.wall_seconds.median
    assert small.wall_seconds.p5 <= small.wall_seconds.median <= small.wall_seconds.p95


def test_same_seed_same_plan():
    work = work_for(1e5, 25, 20_504)
    first, again = (
        plan(work, PROFILE, Limits(), memory_mb=1769, simulations=3, seed=7) for _ in range(2)
    )
    assert first == again


def test_warns_of_children_that_live_too_long_and_of_barriers_that_cannot_close():
    work = work_for(1e6, 25, 20_504, barrier=True)
    slow = PROFILE.model_copy(update={"predict_seconds_per_sample": 1.0})
    found = plan(work, slow, Limits(concurrency=100), memory_mb=3538, simulations=1)
    text = " ".join(found.warnings)
    assert "EXPRESS child" in text
    assert "barrier among 783 ranks" in text


def test_defaults_are_those_of_the_state_machine():
    definition = json.loads((ROOT / "statemachine" / "inference.asl.json").read_text())
    assert Limits().execution_seconds == definition["TimeoutSeconds"]


def test_throttled_ranks_wait_as_the_state_machine_has_them_wait():
    """The definition's own retriers, in a new account, with a Map that starts ten times as many."""
    definition = json.loads((ROOT / "statemachine" / "inference.asl.json").read_text())
    child = definition["States"]["Distributed Inference"]["ItemProcessor"]["States"]
    for error, simulated in (
        ("Lambda.TooManyRequestsException", THROTTLED),
        ("TransientStorageError", TRANSIENT),
    ):
        (declared,) = (
            retry for retry in child["Model Inference"]["Retry"] if error in retry["ErrorEquals"]
        )
        assert simulated.as_state() == declared

    ranks = {"ranks": 100, "samples_per_rank": 7500, "bytes_per_rank": 0}
    account = Limits(concurrency=10, map_concurrency=100)
    found = plan(Work(**ranks), PROFILE, account, memory_mb=3538, simulations=3)
    assert 12 < found.rank_seconds.median < 20
    assert found.throttled_invocations.median > 500
    assert found.failed_ranks.p95 <= 5  # of 100; eight tries lost half of them
    assert "lower MaxConcurrency" in " ".join(found.warnings)
    bounded = plan(
        Work(**ranks),
        PROFILE,
        Limits(concurrency=10, map_concurrency=10),
        memory_mb=3538,
        simulations=3,
    )
    assert bounded.throttled_invocations.p95 == bounded.failed_ranks.p95 == 0


def test_a_barrier_is_billed_where_the_ranks_wait():
    """In the small Invoke FMI function, not at the memory of Model Inference."""
    work = work_for(1e5, 25, 20_504)
    alone, waiting = (
        plan(work.model_copy(update={"barrier": barrier}), PROFILE, Limits(), memory_mb=8192)
        for barrier in (False, True)
    )
    assert alone.cost is not None
    assert waiting.cost is not None
    inference = "lambda model_inference"
    assert waiting.cost.items[inference] == pytest.approx(alone.cost.items[inference])
    assert "lambda invoke_fmi" not in alone.cost.items
    assert 0 < waiting.cost.items["lambda invoke_fmi"] < 0.1 * waiting.cost.items[inference]


def test_warns_of_an_execution_that_the_state_machine_would_end():
    work = work_for(2e6, 25, 20_504)
    found = plan(work, PROFILE, Limits(execution_seconds=20), memory_mb=1769, simulations=1)
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


def test_a_region_without_prices_is_a_warning():
    work = work_for(1e4, 25, 20_504)
    found = plan(work, PROFILE, Limits(), memory_mb=1769, region="mars-1", simulations=1)
    assert found.cost is None
    assert "no prices for region 'mars-1'" in " ".join(found.warnings)


def test_the_bytes_of_a_galaxy_follow_from_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "architecture": "ONNX",
        "inputs": {
            "image": {"bands": ["g", "r"], "side": 128},
            "magnitude": {"bands": ["g", "r", "w1"]},
        },
        "output": {"kind": "point"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = ["plan", "--galaxies", "1e4", "--ranks", "10", "--simulations", "1", "--json"]
    found = {}
    for name, model in {"default": [], "own": ["--model", str(tmp_path)]}.items():
        assert main([*words, *model]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert found["default"]["data_bytes"] == 10_000 * 20_504
    assert found["own"]["data_bytes"] == 10_000 * 4 * (2 * 128 * 128 + 3 + 1)
    assert "times are those of AstroMAE" in " ".join(found["own"]["warnings"])
    assert "times are those of" not in " ".join(found["default"]["warnings"])
    assert main([*words, "--model", str(tmp_path / "none")]) != 0
    assert "holds no model" in capsys.readouterr().err
