"""An execution that resumes another: what it runs, what it keeps, what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cosmicai import keys, storage
from cosmicai.collective import run_collective
from cosmicai.errors import (
    CorruptPartition,
    IncompleteResults,
    InvalidInput,
    ModelMismatch,
    ResultPathInUse,
)
from cosmicai.schema import CollectiveEvent, parse
from s3_stack import ARN, BUCKET, Stack, running_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cosmicai.schema import Plan, Summary

PATH = "result-partition-100MB/1GB/1"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stack]:
    for stack in running_stack(monkeypatch, tmp_path):
        stack.put_model()
        stack.put_partitions(["1.pt", "2.pt", "3.pt"])
        yield stack


def resume(stack: Stack, name: str = "second", of: str = "first", **change: Any) -> Plan:
    return stack.initialize(name, resume=ARN + of, **change)


def conclude(stack: Stack, name: str = "second", of: str = "first", **change: Any) -> Summary:
    return stack.summarize(name, resume=ARN + of, **change)


def ranks(stack: Stack, plan: Plan) -> list[int]:
    return [item["RANK"] for item in stack.manifest(plan)]


def test_only_missing_ranks_run_and_what_is_there_stays(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    with pytest.raises(IncompleteResults):
        stack.summarize()
    before = stack.files()
    plan = resume(stack)
    assert (plan.world_size, plan.planned_ranks, ranks(stack, plan)) == (3, 1, [1])
    stack.run_ranks(plan)
    summary = conclude(stack)
    assert (summary.status, summary.ranks_received, summary.ranks_kept) == ("SUCCEEDED", 3, 2)
    assert summary.num_samples == 18
    after = stack.files()
    for file in ("0.json", "2.json", "predictions/0.npz", "predictions/2.npz", "manifest.json"):
        assert after[file] == before[file]
    assert [record["rank"] for record in stack.read("combined_data.json")] == [0, 1, 2]


def test_times_and_cost_are_those_of_the_resumed_execution_alone(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    stack.run_ranks(resume(stack))
    summary = conclude(stack)
    record = stack.read("1.json")
    assert summary.billed_seconds == pytest.approx(record["billed_duration_ms"] / 1000)
    assert summary.samples_per_second == pytest.approx(6 / summary.inference_seconds)
    assert summary.cost is not None
    assert summary.cost.items["states express requests"] == pytest.approx(0.000001)


@pytest.mark.parametrize("lost", ["predictions/1.npz", "1.json"])
def test_a_rank_whose_file_was_lost_or_damaged_runs_again(stack: Stack, lost: str) -> None:
    stack.run_ranks(stack.initialize())
    storage.store(BUCKET).write(f"{PATH}/{lost}", b"{damaged")
    plan = resume(stack)
    assert ranks(stack, plan) == [1]
    stack.run_ranks(plan)
    assert conclude(stack).status == "SUCCEEDED"


def test_a_lost_summarize_is_made_up_for_and_no_rank_predicts_again(stack: Stack) -> None:
    stack.run_ranks(stack.initialize())
    before = stack.files()
    plan = resume(stack)
    assert ranks(stack, plan) == [0]  # a Map wants an item
    stack.run_ranks(plan)
    summary = conclude(stack)
    assert (summary.status, summary.ranks_kept) == ("SUCCEEDED", 3)
    assert summary.cost is not None
    assert {**stack.files(), **before} == stack.files() | {"plan.json": before["plan.json"]} | {
        "claim.json": before["claim.json"]
    }


def test_a_mended_partition_is_read_anew(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    stack.put_partitions(["2.pt"], galaxies=4)
    stack.run_ranks(resume(stack))
    assert conclude(stack).num_samples == 6 + 4 + 6


def test_a_removed_partition_is_left_out_with_a_warning(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    storage.store(BUCKET).delete(["100MB/2.pt"])
    plan = resume(stack)
    assert (ranks(stack, plan), plan.num_partitions) == ([1], 2)
    stack.run_ranks(plan)
    summary = conclude(stack)
    assert (summary.status, summary.num_samples) == ("SUCCEEDED", 12)
    assert "1 partitions are gone since they were planned, e.g. 100MB/2.pt" in summary.warnings[0]


def test_a_partition_that_was_added_later_changes_no_rank(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    stack.put_partitions(["0.pt"])
    plan = resume(stack)
    assert [item["DATA_PATH"] for item in stack.manifest(plan)] == ["100MB/2.pt"]


def test_a_resumed_execution_is_resumed_in_turn(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0])
    stack.run_ranks(resume(stack), [1])
    plan = resume(stack, "third", "second")
    assert plan.resumes == [ARN + "first", ARN + "second"]
    assert ranks(stack, plan) == [2]
    stack.run_ranks(plan)
    summary = conclude(stack, "third", "second")
    assert (summary.status, summary.ranks_kept) == ("SUCCEEDED", 2)


def test_a_resumed_execution_that_fails_says_so(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0])
    plan = resume(stack)
    stack.run_ranks(plan, [1])
    with pytest.raises(IncompleteResults, match=r"1 of 3 ranks left no result.*rank 2"):
        conclude(stack)
    assert stack.read("summary.json")["failed_ranks"][0]["data_path"] == "100MB/3.pt"


def test_a_retry_of_the_resuming_initialize_plans_the_same(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    plan = resume(stack)
    again = resume(stack)
    assert (again.resumes, ranks(stack, again)) == (plan.resumes, [1])


@pytest.mark.parametrize("claimed", [True, False])
def test_an_execution_that_ended_before_it_had_a_plan_is_planned(
    stack: Stack, claimed: bool
) -> None:
    if claimed:
        stack.initialize()
        storage.store(BUCKET).delete([keys.plan(PATH), keys.manifest(PATH)])
    plan = resume(stack)
    assert ranks(stack, plan) == [0, 1, 2]
    stack.run_ranks(plan)
    assert conclude(stack).status == "SUCCEEDED"


def test_what_an_interrupted_overwrite_left_to_clear_is_never_kept(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.run_ranks(stack.initialize("oldest"))

    def crash(store: storage.Store, keys: list[str]) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(storage.Store, "delete", crash)
        with pytest.raises(KeyboardInterrupt):
            stack.initialize("first", overwrite=True)
    plan = resume(stack)
    assert ranks(stack, plan) == [0, 1, 2]
    assert "0.json" not in stack.files()


def test_ranks_of_the_resumed_execution_stop_before_they_write(stack: Stack) -> None:
    first = stack.initialize()
    items = stack.manifest(first)
    resume(stack)
    with pytest.raises(ResultPathInUse, match="second"):
        stack.run_items(items)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"file_limit": 2}, InvalidInput, r"another file_limit \(11, now 2\)"),
        ({"data_prefix": "50MB"}, InvalidInput, "another data_prefix"),
        ({"precision": "bfloat16"}, InvalidInput, "another precision"),
        ({"overwrite": True}, InvalidInput, "resume keeps what overwrite would clear"),
    ],
)
def test_what_cannot_be_resumed_is_refused_and_the_path_stays_as_it_was(
    stack: Stack, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    before = stack.files()
    with pytest.raises(error, match=message):
        resume(stack, **change)
    assert stack.files() == before


def test_keys_that_change_no_prediction_may_differ(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    assert resume(stack, max_concurrency=5, tolerated_failure_percentage=50).max_concurrency == 5


@pytest.mark.parametrize(("tolerated", "of_the_map"), [(0, 0), (20, 60), (34, 100), (100, 100)])
def test_what_is_tolerated_counts_among_all_ranks_though_one_alone_runs(
    stack: Stack, tolerated: float, of_the_map: float
) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    plan = resume(stack, tolerated_failure_percentage=tolerated)
    assert (plan.planned_ranks, plan.tolerated_failure_percentage) == (1, tolerated)
    assert plan.map_tolerated_failure_percentage == pytest.approx(of_the_map)


def test_another_model_is_refused(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    config = storage.store(BUCKET).read("Anomaly Detection/config.json")
    storage.store(BUCKET).write("Anomaly Detection/config.json", config + b"\n")
    with pytest.raises(ModelMismatch, match="another one than that of the results to keep"):
        resume(stack)


def test_an_empty_partition_among_the_missing_is_refused(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0, 2])
    storage.store(BUCKET).write("100MB/2.pt", b"")
    with pytest.raises(CorruptPartition, match=r"2\.pt"):
        resume(stack)


def test_a_path_of_another_execution_is_refused(stack: Stack) -> None:
    stack.initialize()
    with pytest.raises(ResultPathInUse, match=r"belongs to execution .*first .*not to .*nobody"):
        resume(stack, of="nobody")
    resume(stack)
    with pytest.raises(ResultPathInUse, match=r"second.*resume that one"):
        resume(stack, "third")


def test_with_fmi_every_rank_takes_part_and_those_kept_predict_nothing(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    stack.input["script"] = "inference_FMI.py"
    stack.run_ranks(stack.initialize(), [0, 2])
    before = stack.files()
    plan = resume(stack)
    items = stack.manifest(plan)
    assert [item["KEPT"] for item in items] == [True, False, True]
    stack.run_ranks(plan)
    with ThreadPoolExecutor(3) as pool:
        events = [parse(CollectiveEvent, item) for item in items]
        list(pool.map(lambda event: run_collective(event, 60), events))
    assert stack.files()["predictions/0.npz"] == before["predictions/0.npz"]
    summary = conclude(stack)
    assert (summary.status, summary.ranks_kept) == ("SUCCEEDED", 2)
    assert summary.fmi is not None
    assert summary.fmi.sums["num_samples"] == 18
