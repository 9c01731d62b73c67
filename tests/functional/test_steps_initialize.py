"""Initialize against a real S3 server: what it plans, what it refuses, whose path it is."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cosmicai import storage
from cosmicai.errors import (
    CorruptPartition,
    InvalidInput,
    ModelMismatch,
    ModelNotFound,
    PartitionNotFound,
    ResultPathInUse,
)
from cosmicai.schema import ManifestItem, parse
from cosmicai_workbench.cloud.template import load_stack
from s3_stack import BUCKET, ROOT, Context, Stack, load_handler, put_many, running_stack


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stack]:
    for stack in running_stack(monkeypatch, tmp_path):
        stack.put_model()
        yield stack


@pytest.mark.parametrize("path", ["elsewhere/1", "result-partition-100MB", "resultsX/1"])
def test_a_path_that_the_stack_does_not_write_to_is_refused(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("RESULT_PREFIX", "results/")
    with pytest.raises(InvalidInput, match=f"result_path.*under 'results/'.*'results/{path}'"):
        stack.initialize(result_path=path)
    assert stack.files() == {}


def test_a_path_under_the_stacks_prefix_is_planned(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_many(["1.pt"])
    monkeypatch.setenv("RESULT_PREFIX", "results/")
    assert stack.initialize(result_path="results/1").result_path == "results/1"


def test_the_seeds_payload_is_planned_verbatim(stack: Stack) -> None:
    put_many([f"{number}.pt" for number in range(1, 13)])
    plan = stack.initialize()
    items = [parse(ManifestItem, item) for item in stack.manifest(plan)]
    assert [item.DATA_PATH for item in items] == [f"100MB/{number}.pt" for number in range(1, 12)]
    assert [item.RANK for item in items] == list(range(11))
    assert {item.WORLD_SIZE for item in items} == {11}
    assert items[0].RESULT_PATH == "result-partition-100MB/1GB/1"
    assert plan.manifest_key == "result-partition-100MB/1GB/1/manifest.json"
    assert plan.warnings == []
    assert set(stack.files()) == {"claim.json", "manifest.json", "plan.json"}


def test_gaps_and_a_generous_file_limit_are_said_once(stack: Stack) -> None:
    put_many(["1.pt", "2.pt", "5.pt", "notes.txt", "sub/9.pt"])
    plan = stack.initialize(file_limit="90")
    assert plan.world_size == 3
    gaps, limit = plan.warnings
    assert gaps == "2 partitions are missing in the numbering: 3.pt–4.pt"
    assert limit.startswith("file_limit 90 is above the 3 partitions in s3://cosmicai-data/100MB/")


def test_fewer_ranks_share_partitions_and_surplus_ranks_get_none(stack: Stack) -> None:
    put_many(["1.pt", "2.pt", "3.pt"])
    paths = [item["DATA_PATH"] for item in stack.manifest(stack.initialize(world_size="2"))]
    assert paths == [["100MB/1.pt", "100MB/2.pt"], "100MB/3.pt"]
    plan = stack.initialize("second", world_size=4, result_path="other")
    assert [item["DATA_PATH"] for item in stack.manifest(plan)][-1] is None
    assert "1 ranks get no data" in " ".join(plan.warnings)


def test_a_neighbouring_prefix_is_not_listed(stack: Stack) -> None:
    put_many(["1.pt"])
    storage.store(BUCKET).write("100MB-old/2.pt", b"x")
    assert stack.initialize().num_partitions == 1


def test_listing_is_paginated(stack: Stack) -> None:
    put_many([f"{number}.pt" for number in range(1, 1102)])
    plan = stack.initialize(file_limit=5000)
    assert plan.world_size == 1101
    assert stack.manifest(plan)[-1]["DATA_PATH"] == "100MB/1101.pt"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data_prefix": "nowhere"}, PartitionNotFound, "key 'data_prefix': s3://cosmicai-data/no"),
        ({"data_bucket": "no-such-bucket"}, PartitionNotFound, "key 'data_bucket': .*no-such"),
        ({"S3_object_name": "no model"}, ModelNotFound, "key 'S3_object_name': .*config.json"),
        ({"surprise": 1}, InvalidInput, "unknown key 'surprise'"),
        ({"world_size": 0}, InvalidInput, "key 'world_size'"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    stack: Stack, change: dict[str, object], error: type[Exception], message: str
) -> None:
    put_many(["1.pt"])
    with pytest.raises(error, match=message):
        stack.initialize(**change)
    assert stack.files() == {}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b'{"depth": 3}', r"do not match the architecture .depth 3"),
        (
            "config.json",
            b'{"depth": -1}',
            r"config\.json does not .*: key 'depth': .* \(found -1\)$",
        ),
        ("model.safetensors", b"not one", r"model\.safetensors is not a whole safetensors file"),
        ("model.safetensors", b"\x10" + bytes(7) + b"{" * 16, r"is not a whole safetensors file"),
        ("model.safetensors", b"\x0a" + bytes(7) + b'{"x": 123}', r"is not a whole safetensors"),
    ],
)
def test_a_model_that_does_not_match_is_refused_before_any_rank(
    stack: Stack, file: str, content: bytes, message: str
) -> None:
    put_many(["1.pt"])
    storage.store(BUCKET).write(f"Anomaly Detection/{file}", content)
    with pytest.raises(ModelMismatch, match=message):
        stack.initialize()
    assert stack.files() == {}


def test_an_empty_partition_is_refused_by_name(stack: Stack) -> None:
    put_many(["1.pt"])
    storage.store(BUCKET).write("100MB/2.pt", b"")
    with pytest.raises(CorruptPartition, match=r"100MB/2\.pt"):
        stack.initialize()


def test_with_fmi_every_rank_must_be_able_to_run_at_once(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_many([f"{number}.pt" for number in range(1, 6)])
    monkeypatch.setenv("MAX_CONCURRENCY", "4")
    with pytest.raises(InvalidInput, match=r"'world_size': a barrier among 5 ranks.*only 4 can"):
        stack.initialize(script="inference_FMI.py")
    plan = stack.initialize(script="inference_FMI.py", world_size=4)
    assert plan.fmi
    assert {item["FMI_CHANNEL"] for item in stack.manifest(plan)} == {"s3"}
    assert not stack.initialize("no-fmi", result_path="other").fmi


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize(
    ("missing", "channel", "refused"),
    [
        (",redis", "redis", True),
        ("direct,", "direct", True),
        ("direct,redis", "direct", True),
        (",", "direct", False),
        ("direct,redis", "s3", False),
    ],
)
def test_a_channel_without_a_server_is_refused_before_any_rank(
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    channel: str,
    refused: bool,
    default: bool,
) -> None:
    put_many(["1.pt"])
    monkeypatch.setenv("FMI_CHANNELS_WITHOUT_SERVER", missing)
    monkeypatch.setenv("FMI_CHANNEL", channel if default else "s3")
    change = {"script": "inference_FMI.py", **({} if default else {"fmi_channel": channel})}
    if refused:
        with pytest.raises(
            InvalidInput, match=f"'fmi_channel': .* without a server for '{channel}'"
        ):
            stack.initialize(**change)
    else:
        assert stack.initialize(**change).fmi
    assert not stack.initialize("no-fmi", result_path="other").fmi


@pytest.mark.parametrize(
    ("parameters", "missing"),
    [
        ({}, {"direct", "redis"}),
        ({"FmiRendezvous": "host:5000"}, {"redis"}),
        ({"FmiRedisUrl": "redis://host"}, {"direct"}),
    ],
)
def test_the_template_says_which_channels_lack_a_server(
    parameters: dict[str, str], missing: set[str]
) -> None:
    stack = load_stack(ROOT / "template.yaml", parameters=parameters)
    variable = "FMI_CHANNELS_WITHOUT_SERVER"
    (listed,) = (f.environment[variable] for f in stack.functions if variable in f.environment)
    assert set(listed.split(",")) - {""} == missing


def test_more_partitions_than_a_rank_can_be_told_of_are_refused(stack: Stack) -> None:
    put_many([f"{'long name ' * 30}{number}.pt" for number in range(700)])
    with pytest.raises(InvalidInput, match=r"'world_size': rank 0 would read 700 partitions"):
        stack.initialize(file_limit=700, world_size=1)
    assert stack.files() == {}
    assert stack.initialize(file_limit=700, world_size=2).world_size == 2


def test_an_engine_whose_layer_is_not_deployed_is_refused(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_many(["1.pt"])
    monkeypatch.setenv("AVAILABLE_ENGINES", "plain,torch")
    with pytest.raises(InvalidInput, match=r"key 'engine': .*plain, torch; deploy .*=openvino"):
        stack.initialize(engine="openvino")
    assert stack.initialize(engine="plain").engine == "plain"


def test_a_path_in_use_is_refused_naming_its_holder(stack: Stack) -> None:
    put_many(["1.pt"])
    stack.initialize("first")
    before = stack.files()
    with pytest.raises(ResultPathInUse, match=r"'result_path': .*inference:first.*overwrite"):
        stack.initialize("second")
    assert stack.files() == before


def test_a_retry_of_the_same_execution_finds_its_own_claim(stack: Stack) -> None:
    stack.put_partitions(["1.pt", "2.pt"])
    plan = stack.initialize("first")
    manifest = stack.manifest(plan)
    stack.run_ranks(plan, [0])
    again = stack.initialize("first")
    assert stack.manifest(again) == manifest
    assert "0.json" in stack.files(), "a retry must not clear what its own ranks wrote"


def test_results_that_nobody_claims_are_not_lost(stack: Stack) -> None:
    put_many(["1.pt"])
    storage.store(BUCKET).write_json("result-partition-100MB/1GB/1/0.json", {"old": 1})
    with pytest.raises(ResultPathInUse, match=r"already holds 1 result files.*0\.json"):
        stack.initialize()
    assert set(stack.files()) == {"0.json"}


def test_overwriting_clears_what_an_execution_writes_and_nothing_else(stack: Stack) -> None:
    stack.put_partitions(["1.pt", "2.pt"])
    first = stack.initialize("first")
    stack.run_ranks(first)
    stack.summarize("first")
    storage.store(BUCKET).write("result-partition-100MB/1GB/1/my notes.txt", b"keep")
    stack.initialize("second", overwrite=True, file_limit=1)
    assert set(stack.files()) == {"claim.json", "manifest.json", "plan.json", "my notes.txt"}
    assert stack.read("claim.json")["execution"].endswith(":second")


def test_an_overwrite_interrupted_while_clearing_is_finished_by_its_retry(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.put_partitions(["1.pt"])
    stack.run_ranks(stack.initialize("first"))

    def crash(store: storage.Store, keys: list[str]) -> int:
        raise TimeoutError

    with monkeypatch.context() as broken:
        broken.setattr(storage.Store, "delete", crash)
        with pytest.raises(TimeoutError):
            stack.initialize("second", overwrite=True)
    stack.initialize("second", overwrite=True)
    assert set(stack.files()) == {"claim.json", "manifest.json", "plan.json"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_executions_racing_for_one_path_exactly_one_wins(stack: Stack, overwrite: bool) -> None:
    put_many(["1.pt"])
    if overwrite:
        stack.initialize("earlier")
    outcomes: dict[str, str] = {}
    start = threading.Barrier(6)

    def run(name: str) -> None:
        start.wait()
        try:
            stack.initialize(name, overwrite=overwrite)
            outcomes[name] = "won"
        except ResultPathInUse:
            outcomes[name] = "refused"

    threads = [threading.Thread(target=run, args=(f"racer-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holder = stack.read("claim.json")["execution"].rsplit(":", 1)[-1]
    assert outcomes[holder] == "won"
    assert stack.read("plan.json")["execution"]["name"] == holder
    if not overwrite:
        assert sorted(outcomes.values()) == ["refused"] * 5 + ["won"]


def test_the_handler_plans_its_sample_event(stack: Stack) -> None:
    put_many(["1.pt"])
    event = json.loads((ROOT / "events/initialize.json").read_text())
    output = load_handler("initialize").handler(event, Context())
    assert output["world_size"] == 1
    assert output["bucket"] == BUCKET
    assert len(json.dumps(output)) < 10_000
