"""A model from ONNX in a stack: it is checked, and the engine that runs it is chosen or named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cosmicai import model_cache, storage
from cosmicai.errors import InvalidInput, ModelMismatch, ModelNotFound, PartitionMismatch
from cosmicai_workbench.modeling.onnx_import import import_onnx
from onnx_models import ImageCnn, export
from s3_stack import BUCKET, Stack, running_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REAL_LOAD = model_cache.load
FILES = ("config.json", "model.xml", "model.bin")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    path = export(lambda: ImageCnn(), folder / "model.onnx", ("z",), dynamo=False, side=32)
    return import_onnx(path, folder / "bundle").bundle.path


@pytest.fixture
def stack(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stack]:
    """A stack whose model is one from ONNX, and whose engine is another's."""
    for stack in running_stack(monkeypatch, tmp_path):
        for name in FILES:
            storage.store(BUCKET).write(f"Anomaly Detection/{name}", (bundle / name).read_bytes())
        stack.put_partitions(["1.pt", "2.pt"])
        monkeypatch.setenv("DEFAULT_ENGINE", "native")
        yield stack


def test_where_every_engine_is_the_one_that_runs_the_model_is_chosen(stack: Stack) -> None:
    plan = stack.initialize(file_limit="2")
    assert plan.engine == "openvino"
    assert {item["ENGINE"] for item in stack.manifest(plan)} == {"openvino"}


def test_a_stack_without_that_engine_says_what_to_set(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVAILABLE_ENGINES", "native")
    with pytest.raises(
        ModelMismatch, match=r"the engine openvino, and there is native.*Engine=openvino"
    ):
        stack.initialize(file_limit="2")
    with pytest.raises(InvalidInput, match="deploy it with the parameter Engine=openvino"):
        stack.initialize(file_limit="2", engine="openvino")
    assert not stack.files()


def test_an_engine_that_does_not_run_it_is_refused(stack: Stack) -> None:
    with pytest.raises(ModelMismatch, match="not ONNX; engines that do: openvino"):
        stack.initialize(file_limit="2", engine="native")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named(stack: Stack, name: str) -> None:
    storage.client().delete_object(Bucket=BUCKET, Key=f"Anomaly Detection/{name}")
    with pytest.raises(ModelNotFound, match=name):
        stack.initialize(file_limit="2")


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("model.xml", b"<net ", b'<!DOCTYPE net SYSTEM "file:///etc/passwd"><net ', "document"),
        ("model.xml", b'type="ReLU"', b'type="Evil"', "'Evil'"),
        ("model.xml", b"?,5,32,32", b"?,5,16,16", "image, f32"),
        ("model.bin", b"", None, "cut short"),
    ],
)
def test_the_graph_is_checked_before_any_rank(
    stack: Stack, name: str, old: bytes, new: bytes | None, says: str
) -> None:
    store, key = storage.store(BUCKET), f"Anomaly Detection/{name}"
    content = store.read(key)
    assert old in content
    store.write(key, content[:-8] if new is None else content.replace(old, new, 1))
    with pytest.raises(ModelMismatch, match=says):
        stack.initialize(file_limit="2")
    assert not stack.files()


def test_partitions_of_another_side_are_refused(stack: Stack, tmp_path: Path) -> None:
    path = export(lambda: ImageCnn(), tmp_path / "model.onnx", ("z",), dynamo=False, side=64)
    bundle = import_onnx(path, tmp_path / "bundle").bundle.path
    for name in FILES:
        storage.store(BUCKET).write(f"Anomaly Detection/{name}", (bundle / name).read_bytes())
    with pytest.raises(PartitionMismatch, match="64 × 64 pixels, and these have 32 × 32"):
        stack.initialize(file_limit="2")


def test_a_rank_loads_the_bundle_and_predicts(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(model_cache, "load", REAL_LOAD)
    plan = stack.initialize(file_limit="2")
    stack.run_ranks(plan)
    summary = stack.summarize(file_limit="2")
    assert (summary.status, summary.num_samples) == ("SUCCEEDED", 12)
    assert (summary.engine, summary.quality is not None) == ("openvino", True)
