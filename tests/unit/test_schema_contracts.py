"""Published payloads parse verbatim; every bad input is refused with an error naming the key."""

import json
from pathlib import Path

import pytest
from cosmicai.errors import InvalidInput
from cosmicai.schema import ExecutionInput, ManifestItem, RankRecord, parse

EVENTS = Path(__file__).parents[2] / "events"
SEED = json.loads((EVENTS / "seed-100MB-1GB.json").read_text())
REFERENCE_FIELDS = {
    "total_cpu_time (seconds)", "total_cpu_memory (MB)", "execution_time (seconds/batch)",
    "num_batches", "batch_size", "device", "throughput_bps", "sample_persec", "result_path",
    "data_path", "s3_num_requests", "s3_total_time", "s3_avg_time", "s3_min_time", "s3_max_time",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(path.name for path in EVENTS.glob("seed-*.json")))
def test_a_seeds_payload_is_accepted_verbatim(name: str) -> None:
    request = parse(ExecutionInput, json.loads((EVENTS / name).read_text()))
    assert request.file_limit > 0
    assert request.batch_size == 512
    assert not request.fmi


def test_numbers_written_as_strings_are_numbers() -> None:
    request = parse(ExecutionInput, {**SEED, "world_size": " 7 ", "batch_size": "64"})
    assert (request.file_limit, request.world_size, request.batch_size) == (11, 7, 64)


@pytest.mark.parametrize("key", sorted(SEED))
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(InvalidInput, match=rf"key '{key}' is missing"):
        parse(ExecutionInput, {name: value for name, value in SEED.items() if name != key})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batchsize": 1}, "unknown key 'batchsize'; known keys: bucket, file_limit"),
        ({"batch_size": 0}, "key 'batch_size': .*greater than or equal to 1 .found 0."),
        ({"batch_size": "many"}, "key 'batch_size': expected an integer.*found .many."),
        ({"batch_size": 1.5}, "key 'batch_size': expected an integer"),
        ({"batch_size": True}, "key 'batch_size': expected an integer"),
        ({"file_limit": "0"}, "key 'file_limit'"),
        ({"world_size": 0}, "key 'world_size': .*greater than or equal to 1 .found 0."),
        ({"world_size": 100_001}, "key 'world_size': .*less than or equal to 100000"),
        ({"bucket": 5}, "key 'bucket': .*string.*found 5"),
        ({"bucket": "Not A Bucket"}, "key 'bucket'"),
        ({"object_type": "file"}, "key 'object_type'"),
        ({"script": "/tmp/evil.py"}, "key 'script': 'evil.py' is not a built-in.*inference_FMI.py"),
        ({"script": "inference.py/../x"}, "key 'script'"),
        ({"result_path": "/"}, "key 'result_path': expected a folder"),
        ({"result_path": "a/../b"}, "key 'result_path': .*'..' steps"),
        ({"result_path": "100MB/"}, "result_path must differ from data_prefix"),
        ({"overwrite": "yes"}, "key 'overwrite'"),
        ({"resume": "run-1"}, "key 'resume'"),
        ({"engine": "tensorflow"}, "key 'engine'"),
        ({"tolerated_failure_percentage": 101}, "key 'tolerated_failure_percentage'"),
    ],
)
def test_bad_input_is_refused_naming_the_key(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(ExecutionInput, {**SEED, **change})


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(ExecutionInput, {**SEED, "batch_size": 0, "script": "x.py", "extra": 1})
    assert all(key in str(caught.value) for key in ("batch_size", "script", "extra"))


@pytest.mark.parametrize(
    ("script", "fmi"),
    [
        ("/tmp/Anomaly Detection/Inference/inference.py", False),
        ("/tmp/Anomaly Detection/Inference/Inference.py", False),
        ("inference_FMI.py", True),
        ("/tmp/scripts/inference_FMI.py", True),
    ],
)
def test_the_script_chooses_a_builtin_entry_by_its_base_name(script: str, fmi: bool) -> None:
    assert parse(ExecutionInput, {**SEED, "script": script}).fmi is fmi


def test_the_sample_item_parses_and_a_rank_outside_its_world_does_not() -> None:
    item = json.loads((EVENTS / "model_inference.json").read_text())
    assert parse(ManifestItem, item).data_paths == ["100MB/1.pt"]
    with pytest.raises(InvalidInput, match="RANK 11 is outside of WORLD_SIZE 11"):
        parse(ManifestItem, {**item, "RANK": 11})


def test_a_rank_record_has_the_references_fields_to_the_letter() -> None:
    names = {field.alias or name for name, field in RankRecord.model_fields.items()}
    assert names >= REFERENCE_FIELDS
