"""Nothing lost and nothing mixed: losers, duplicates, late writes, edited files, other paths."""

from __future__ import annotations

import io
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cosmicai import claim, inference, keys, model_cache, storage
from cosmicai.errors import (
    CorruptPartition,
    IncompleteResults,
    InvalidInput,
    PartitionNotFound,
    ResultPathInUse,
    TransientStorageError,
)
from cosmicai.prediction import Predictor
from cosmicai.schema import ManifestItem, RankRecord, SummarizeEvent, Summary, parse
from cosmicai.summarize import summarize
from faulty_s3 import FaultyS3
from s3_stack import ARN, BUCKET, MeanEngine, Stack, make_galaxies, running_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


PATH = "result-partition-100MB/1GB/1"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stack]:
    for stack in running_stack(monkeypatch, tmp_path):
        stack.put_model()
        stack.put_partitions(["1.pt", "2.pt", "3.pt"])
        yield stack


def edit(key: str, change: Callable[[Any], Any]) -> None:
    store = storage.store(BUCKET)
    store.write_json(key, change(store.read_json(key)))


# -- the plan, the manifest and the partitions are what they were ---------------------------------


@pytest.mark.parametrize("left", [2, 1, 0])
def test_ranks_cut_from_the_manifest_are_missed(stack: Stack, left: int) -> None:
    plan = stack.initialize()
    edit(plan.manifest_key, lambda items: items[:left])
    stack.run_ranks(plan)
    with pytest.raises(IncompleteResults, match=r"manifest\.json was changed since Initialize"):
        stack.summarize()
    summary = parse(Summary, stack.read("summary.json"))
    assert summary.status == "FAILED"
    assert [rank.rank for rank in summary.failed_ranks] == list(range(left, 3))


@pytest.mark.parametrize(
    "change",
    [
        lambda items: [{**items[0], "DATA_PATH": "100MB/2.pt"}, *items[1:]],
        lambda items: [{**item, "BATCH_SIZE": 1} for item in items],
        lambda items: items + items[:1],
    ],
    ids=["another partition", "another batch size", "a rank twice"],
)
def test_a_manifest_edited_under_way_is_named(stack: Stack, change: Callable[[Any], Any]) -> None:
    plan = stack.initialize()
    stack.run_ranks(plan)
    edit(plan.manifest_key, change)
    with pytest.raises(IncompleteResults, match=r"1/manifest\.json was changed"):
        stack.summarize()


@pytest.mark.parametrize(
    "change", [{"BATCH_SIZE": 1}, {"PRECISION": "bfloat16"}, {"DATA_PATH": None, "DATA_ETAG": None}]
)
def test_a_rank_that_did_something_else_is_not_received(
    stack: Stack, change: dict[str, Any]
) -> None:
    """The manifest was edited when the Map read it, and put back later."""
    plan = stack.initialize()
    items = stack.manifest(plan)
    stack.run_items([{**items[0], **change, "DATA_SIZE": None}, *items[1:]])
    with pytest.raises(IncompleteResults, match=r"rank 0 .*did not do what the manifest says"):
        stack.summarize()


def test_an_edited_plan_is_named(stack: Stack) -> None:
    stack.run_ranks(stack.initialize(), [0])
    edit(keys.plan(PATH), lambda plan: {**plan, "world_size": 1})
    with pytest.raises(InvalidInput, match=r"1/plan\.json was changed since Initialize wrote it"):
        stack.summarize()


@pytest.mark.parametrize("file", ["plan.json", "manifest.json", "claim.json"])
@pytest.mark.parametrize("damage", ["deleted", "cut", "text", "array", "empty"])
def test_a_damaged_or_vanished_file_is_named_and_the_failure_is_recorded(
    stack: Stack, file: str, damage: str
) -> None:
    stack.run_ranks(stack.initialize())
    store, key = storage.store(BUCKET), f"{PATH}/{file}"
    whole = store.read(key)
    if damage == "deleted":
        store.delete([key])
    else:
        store.write(
            key,
            {"cut": whole[: len(whole) // 2], "text": b"\xff\xfe", "array": b"[1]", "empty": b""}[
                damage
            ],
        )
    with pytest.raises((IncompleteResults, InvalidInput)) as caught:
        stack.summarize()
    assert file in str(caught.value) or (file, damage) == ("claim.json", "deleted")
    failure = {"Error": type(caught.value).__name__, "Cause": str(caught.value)}
    summary = stack.summarize(failure=failure)
    assert summary.failure is not None
    assert summary.failure.Cause == str(caught.value)
    if file != "claim.json":
        assert stack.read("summary.json")["failure"]["Cause"] == str(caught.value)


@pytest.mark.parametrize("error", ["States.ItemReaderFailed", "States.Runtime", "States.Timeout"])
def test_a_map_that_could_not_read_its_manifest_says_what_became_of_it(
    stack: Stack, error: str
) -> None:
    plan = stack.initialize()
    storage.store(BUCKET).write(plan.manifest_key, b"[{")
    summary = stack.summarize(failure={"Error": error, "Cause": "not an array"})
    assert summary.failure is not None
    assert summary.failure.Error == "IncompleteResults"
    assert "1/manifest.json is damaged" in summary.failure.Cause
    assert summary.failure.Cause.endswith(
        f"(the state machine said: {error.removeprefix('States.')}: not an array)"
    )


@pytest.mark.parametrize("change", ["replaced", "same size", "deleted"])
def test_a_partition_changed_since_it_was_planned_is_not_predicted(
    stack: Stack, change: str
) -> None:
    plan = stack.initialize()
    if change == "deleted":
        storage.store(BUCKET).delete(["100MB/2.pt"])
    elif change == "replaced":
        stack.put_partitions(["2.pt"], galaxies=9)
    else:
        stack.put_partitions(["2.pt"])  # with other galaxies than the second of three had
    error = PartitionNotFound if change == "deleted" else CorruptPartition
    with pytest.raises(error, match=r"100MB/2\.pt"):
        stack.run_ranks(plan, [1])
    assert "1.json" not in stack.files()


# -- one owner -------------------------------------------------------------------------------------


def paused_before(
    monkeypatch: pytest.MonkeyPatch, ending: str, meanwhile: Callable[[], object]
) -> None:
    """Let something happen just before an object with this ending is written, once."""
    write = storage.Store.write

    def paused(store: storage.Store, key: str, body: bytes, **options: Any) -> str:
        if key.endswith(ending):
            monkeypatch.setattr(storage.Store, "write", write)
            meanwhile()
        return write(store, key, body, **options)

    monkeypatch.setattr(storage.Store, "write", paused)


@pytest.mark.parametrize("file", ["manifest.json", "plan.json", "claim.json"])
@pytest.mark.parametrize("done", ["initialized", "ran", "summarized"])
def test_a_loser_that_writes_late_writes_nothing_over_the_owner(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, file: str, done: str
) -> None:
    def overtake() -> None:
        plan = stack.initialize("winner", overwrite=True, world_size=2)
        if done != "initialized":
            stack.run_ranks(plan)
        if done == "summarized":
            stack.summarize("winner", overwrite=True, world_size=2)

    paused_before(monkeypatch, file, overtake)
    with pytest.raises(ResultPathInUse, match=r"belongs to execution .*winner"):
        stack.initialize("loser")
    manifest = stack.read("manifest.json")
    assert {item["EXECUTION"] for item in manifest} == {ARN + "winner"}
    assert stack.read("plan.json")["execution"]["name"] == "winner"
    if done == "initialized":
        stack.run_items(manifest)
    assert stack.summarize("winner", overwrite=True, world_size=2).status == "SUCCEEDED"


@pytest.mark.parametrize("file", ["predictions/0.npz", "0.json", "combined_data.json"])
def test_late_results_of_a_loser_never_replace_the_owners(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    old = stack.initialize("old")
    items = stack.manifest(old)

    def overtake() -> None:
        stack.run_ranks(stack.initialize("new", overwrite=True))

    if file == "combined_data.json":
        stack.run_items(items)
        paused_before(monkeypatch, file, overtake)
        with pytest.raises(ResultPathInUse, match="new"):
            stack.summarize("old")
    else:
        paused_before(monkeypatch, file, overtake)
        with pytest.raises(ResultPathInUse, match="new"):
            stack.run_items(items[:1])
    assert stack.summarize("new", overwrite=True).status == "SUCCEEDED"
    assert {record["execution"] for record in stack.read("combined_data.json")} == {ARN + "new"}


@pytest.mark.parametrize("after", ["list", "delete"])
def test_a_loser_that_is_still_clearing_deletes_nothing_of_the_owners(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    stack.run_ranks(stack.initialize("first"))
    call = getattr(storage.Store, after)
    with monkeypatch.context() as patch:

        def overtaken(store: storage.Store, *arguments: Any, **options: Any) -> Any:
            """Let another execution overwrite and run, once this one has begun to clear."""
            result = call(store, *arguments, **options)
            found = list(result) if after == "list" else result
            if stack.read("claim.json")["execution"] == ARN + "loser":
                patch.undo()
                stack.run_ranks(stack.initialize("winner", overwrite=True))
            return found

        patch.setattr(storage.Store, after, overtaken)
        with pytest.raises(ResultPathInUse, match="winner"):
            stack.initialize("loser", overwrite=True)
    assert stack.summarize("winner", overwrite=True).status == "SUCCEEDED"


def test_what_a_loser_left_late_is_replaced_by_the_owners_ranks(stack: Stack) -> None:
    new = stack.initialize("new")
    store = storage.store(BUCKET)
    store.write(keys.predictions(PATH, 0), b"of another", owner=ARN + "old")
    store.write(keys.predictions(PATH, 1), b"of nobody")
    store.write_json(keys.rank(PATH, 0), {"execution": ARN + "old"}, owner=ARN + "old")
    stack.run_ranks(new)
    assert stack.summarize("new").status == "SUCCEEDED"


def test_a_repeated_initialize_returns_the_plan_that_stands(stack: Stack) -> None:
    plan = stack.initialize()
    before = stack.files()
    stack.put_partitions(["0.pt", "4.pt"])  # would be planned otherwise
    assert stack.initialize() == plan
    assert stack.files() == before


def test_of_two_attempts_of_one_initialize_one_plans(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older attempt is fenced off: it may not write once the newer has claimed."""
    paused_before(monkeypatch, "/manifest.json", lambda: stack.initialize("first", world_size=2))
    with pytest.raises(TransientStorageError, match="another attempt of Initialize"):
        stack.initialize("first", world_size=2)
    assert stack.initialize("first", world_size=2).world_size == 2
    stack.run_ranks(stack.initialize("first", world_size=2))
    assert stack.summarize("first", world_size=2).status == "SUCCEEDED"


@pytest.mark.parametrize("overwrite", [False, True])
def test_racing_executions_have_one_owner_whose_ranks_succeed(
    stack: Stack, overwrite: bool
) -> None:
    for turn in range(5):
        path = f"race/{turn}"
        outcomes: dict[str, str] = {}
        start = threading.Barrier(3)

        def run(name: str, path: str = path, start: Any = start, seen: Any = outcomes) -> None:
            start.wait()
            try:
                stack.initialize(name, overwrite=overwrite, result_path=path)
                seen[name] = "planned"
            except (ResultPathInUse, TransientStorageError):
                seen[name] = "refused"

        names = [f"racer-{number}" for number in range(3)]
        threads = [threading.Thread(target=run, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        holder = claim.holder_of(BUCKET, path)
        assert holder is not None
        owner = holder.execution.removeprefix(ARN)
        assert outcomes[owner] == "planned"
        plan = claim.plan_of(ARN + owner, BUCKET, path)
        assert plan is not None
        stack.run_ranks(plan)
        summary = stack.summarize(owner, overwrite=overwrite, result_path=path)
        assert summary.status == "SUCCEEDED"


# -- delivered twice -------------------------------------------------------------------------------


class OtherProcessor(MeanEngine):
    """Predicts the same but for the last bits."""

    def predict(self, image: Any, magnitude: Any) -> Any:
        return np.nextafter(super().predict(image, magnitude), np.float32(9))


def on_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        model_cache,
        "load",
        lambda item, threads: (Predictor(OtherProcessor(), digest="digest"), 0.0),
    )


@pytest.mark.parametrize("ending", ["predictions/0.npz", "/0.json"])
def test_records_and_predictions_agree_whichever_of_two_deliveries_wins(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    plan = stack.initialize()

    def twin() -> None:
        with monkeypatch.context() as other:
            on_another_processor(other)
            stack.run_ranks(plan, [0])

    paused_before(monkeypatch, ending, twin)
    stack.run_ranks(plan)
    record = parse(RankRecord, stack.read("0.json"))
    assert record.predictions_etag == stack.files()["predictions/0.npz"]
    stored = np.load(io.BytesIO(storage.store(BUCKET).read(keys.predictions(PATH, 0))))
    error = (stored["redshift"] - stored["true_redshift"]).astype(float).sum()
    assert record.quality.sum_error == pytest.approx(error, rel=1e-12)
    assert stack.summarize().status == "SUCCEEDED"


def test_a_delivery_killed_between_its_files_is_completed_on_another_processor(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stack.initialize()

    def killed() -> None:
        raise KeyboardInterrupt

    paused_before(monkeypatch, "/0.json", killed)
    with pytest.raises(KeyboardInterrupt):
        stack.run_ranks(plan, [0])
    before = stack.files()["predictions/0.npz"]
    on_another_processor(monkeypatch)
    stack.run_ranks(plan)
    assert stack.files()["predictions/0.npz"] == before
    assert stack.summarize().status == "SUCCEEDED"


@pytest.mark.parametrize("lost", ["deleted", "replaced"])
def test_a_rank_whose_predictions_were_lost_writes_them_again(stack: Stack, lost: str) -> None:
    plan = stack.initialize()
    stack.run_ranks(plan)
    store, key = storage.store(BUCKET), keys.predictions(PATH, 1)
    if lost == "deleted":
        store.delete([key])
    else:
        store.write(key, b"of nobody")
    stack.run_ranks(plan)
    assert stack.summarize().status == "SUCCEEDED"


# -- overwriting and other paths -------------------------------------------------------------------


def test_overwriting_keeps_what_the_execution_did_not_write(stack: Stack) -> None:
    stack.run_ranks(stack.initialize("first"))
    theirs = [
        "7.json",
        "007.json",
        "predictions/3.npz",
        "predictions/mine.npz",
        "map/notes.json",
        "map/1/manifest.json",
        "fmi/run/0.json",
        "failures/99.json",
        "sub/0.json",
    ]
    for name in theirs:
        storage.store(BUCKET).write(f"{PATH}/{name}", b"keep")
    stack.initialize("second", overwrite=True)
    left = set(stack.files())
    assert left == {"claim.json", "manifest.json", "plan.json", *theirs}


@pytest.mark.parametrize("inner", ["map", "fmi", "failures", "predictions", "a/b"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_result_paths_inside_one_another_are_refused(
    stack: Stack, inner: str, overwrite: bool
) -> None:
    nested = f"{PATH}/{inner}"
    stack.initialize("outer")
    with pytest.raises(ResultPathInUse, match="lies inside the result path of another execution"):
        stack.initialize("inner", result_path=nested, overwrite=overwrite)
    other = f"other/{inner}"
    stack.run_ranks(stack.initialize("inner", result_path=other))
    before = [*storage.store(BUCKET).list(f"{other}/")]
    with pytest.raises(ResultPathInUse, match=rf"{other}/claim\.json\) lies inside"):
        stack.initialize("around", result_path="other", overwrite=overwrite)
    assert [*storage.store(BUCKET).list("other/")] == before
    stack.initialize("beside", result_path=f"{other}-2", overwrite=overwrite)


@pytest.mark.parametrize(
    "change",
    [
        {"result_path": "s", "data_prefix": "s/map"},
        {"result_path": "s/map", "data_prefix": "s"},
        {"result_path": "m", "S3_object_name": "m/fmi"},
        {"result_path": "m/results", "S3_object_name": "m"},
    ],
)
def test_results_apart_from_data_and_model(stack: Stack, change: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="neither may lie inside the other"):
        stack.initialize(**change)


# -- failures that cannot be recorded --------------------------------------------------------------


@pytest.mark.parametrize("denied", ["claim.json", "plan.json", "summary.json"])
def test_a_failure_that_cannot_be_recorded_still_tells_its_reason(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    stack.initialize()
    with FaultyS3(stack.endpoint) as proxy:
        proxy.session.fault = lambda asked: "denied" if asked.path.endswith(denied) else None
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        storage.client.cache_clear()
        failure = {"Error": "StorageDenied", "Cause": "the role needs s3:PutObject"}
        summary = stack.summarize(failure=failure)
    assert summary.failure is not None
    assert (summary.failure.Error, summary.failure.Cause) == tuple(failure.values())


# -- clocks, messages, names -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started", "finished", "execution"),
    [
        ("2026-11-22T12:00:00Z", "2026-11-22T11:00:00Z", "2026-11-22T09:00:00Z"),
        ("2026-11-22T08:00:00Z", "2026-11-22T08:10:00Z", "2026-11-22T09:00:00Z"),
        ("2026-11-22T12:00:00Z", "2026-11-22T12:10:00Z", "2099-01-01T00:00:00Z"),
    ],
    ids=["while a rank ran", "before the ranks", "after the start"],
)
def test_a_clock_that_was_set_back_ends_nothing(
    stack: Stack, started: str, finished: str, execution: str
) -> None:
    stack.run_ranks(stack.initialize())
    for rank in range(3):
        edit(
            keys.rank(PATH, rank),
            lambda record: {**record, "started_at": started, "finished_at": finished},
        )
    event = {"execution": {**stack.execution("first"), "start_time": execution}}
    summary = summarize(parse(SummarizeEvent, {**event, "input": stack.input}))
    assert summary.status == "SUCCEEDED"
    assert summary.inference_seconds >= 0
    assert summary.wall_seconds >= 0
    assert summary.cost is not None
    assert min(summary.cost.items.values()) >= 0


def test_no_message_is_endless_or_acts_on_a_terminal(stack: Stack) -> None:
    with pytest.raises(InvalidInput) as caught:
        stack.initialize(**{"surprise" * 20_000: 1, "\x1b[31mred": 2})
    assert len(str(caught.value)) < 3000
    assert "\x1b" not in str(caught.value)
    plan = stack.initialize()
    stack.fail_rank(plan, 1, "Runtime.ExitError", "x\x07" * 100_000)
    with pytest.raises(IncompleteResults) as missing:
        stack.summarize()
    assert len(str(missing.value)) < 3000
    assert len(json.dumps(stack.read("summary.json"))) < 20_000
    summary = stack.summarize(failure={"Error": "Lambda.Unknown", "Cause": "y" * 100_000})
    assert summary.failure is not None
    assert len(summary.failure.Cause) < 3000


@pytest.mark.parametrize(
    "name", ["a\x1b[2J.pt", "c\x9b1m.pt", "bell\x07.pt", "\u202etp.pt", "sep\u2028.pt"]
)
def test_a_partition_whose_name_acts_on_terminals_is_refused(stack: Stack, name: str) -> None:
    storage.store(BUCKET).write(f"100MB/{name}", b"x")
    with pytest.raises(InvalidInput, match=r"'data_prefix': partition .* rename it") as caught:
        stack.initialize()
    assert str(caught.value).isprintable()


def test_galaxies_of_another_partition_are_told_apart(stack: Stack) -> None:
    """Predictions that are there first stay only if they are of the same galaxies."""
    plan = stack.initialize()
    item = parse(ManifestItem, stack.manifest(plan)[0])
    stack.run_ranks(plan, [1])
    other = storage.store(BUCKET).read(keys.predictions(PATH, 1))
    storage.store(BUCKET).write(keys.predictions(PATH, 0), other, owner=ARN + "first")
    inference.run_rank(item, "request-1")
    stored = np.load(io.BytesIO(storage.store(BUCKET).read(keys.predictions(PATH, 0))))
    assert stored["data_paths"].tolist() == ["100MB/1.pt"]
    assert stored["true_redshift"] == pytest.approx(make_galaxies(6, 0).redshift)
