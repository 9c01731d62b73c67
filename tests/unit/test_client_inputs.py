"""An execution's input as the command line reads it."""

import io
import json
from pathlib import Path

import pytest
from cosmicai.errors import InvalidInput, ModelNotFound
from cosmicai.schema import ExecutionInput
from cosmicai_workbench.client.execution import check_input, new_name
from cosmicai_workbench.client.inputs import pairs, read_input
from cosmicai_workbench.client.upload import files_to_upload

SEED = Path(__file__).parents[2] / "events/seed-100MB-1GB.json"


def test_overrides_are_json_where_they_are_and_text_where_not(tmp_path: Path) -> None:
    source = tmp_path / "input.json"
    source.write_text('{"file_limit": "11", "kept": [1]}')
    words = ["file_limit=2", "overwrite=true", "result_path=a/b", "note=x=y"]
    assert read_input(str(source), words) == {
        "file_limit": 2,
        "kept": [1],
        "overwrite": True,
        "result_path": "a/b",
        "note": "x=y",
    }


def test_the_input_may_come_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"a": 1}'))
    assert read_input("-") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not JSON"), ("[1]", "must be a JSON object"), (None, "cannot be read")],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    source = tmp_path / "input.json"
    if text is not None:
        source.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        read_input(str(source))


@pytest.mark.parametrize("text", ["novalue", "=value"])
def test_a_pair_needs_a_key_and_an_equals_sign(text: str) -> None:
    with pytest.raises(InvalidInput, match="--set expects KEY=VALUE"):
        pairs([text], "--set")


def test_every_fault_of_the_input_is_told_before_anything_starts() -> None:
    content = {**json.loads(SEED.read_text()), "batch_size": 0, "scripd": "x"}
    with pytest.raises(InvalidInput) as caught:
        check_input(content)
    assert "batch_size" in str(caught.value)
    assert "scripd" in str(caught.value)


def test_names_of_executions_differ_and_suit_step_functions() -> None:
    names = {new_name() for _ in range(50)}
    assert len(names) > 45
    assert all(len(name) <= 80 and name.replace("-", "").isalnum() for name in names)


def test_files_go_where_the_input_looks_for_them(tmp_path: Path) -> None:
    content = ExecutionInput.model_validate_json(SEED.read_text())
    for name in ("model.safetensors", "1.pt", "10.pt"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text("{}")
    files = files_to_upload(content, model=tmp_path, data=tmp_path)
    assert {f"{bucket}/{key}" for bucket, key in files} == {
        "cosmicai-data/Anomaly Detection/config.json",
        "cosmicai-data/Anomaly Detection/model.safetensors",
        "cosmicai-data/100MB/1.pt",
        "cosmicai-data/100MB/10.pt",
    }
    (tmp_path / "calibration.json").touch()
    files = files_to_upload(content, model=tmp_path, data=None)
    assert [key.rpartition("/")[2] for _, key in files] == [
        "config.json",
        "model.safetensors",
        "calibration.json",
    ]


def test_folders_that_hold_nothing_of_use_are_refused(tmp_path: Path) -> None:
    content = ExecutionInput.model_validate_json(SEED.read_text())
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        files_to_upload(content, model=tmp_path, data=None)
    with pytest.raises(InvalidInput, match="no partitions"):
        files_to_upload(content, model=None, data=tmp_path)
    assert files_to_upload(content, model=None, data=None) == {}
