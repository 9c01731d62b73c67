"""Bad partitions and models through the Model Inference function: a named error, nothing left."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cosmicai import model_cache, storage
from cosmicai.errors import CorruptPartition, ModelMismatch, UnsafePickle
from cosmicai_workbench.data.partition_writer import PartitionWriter
from model_fill import SMALL, filled_bundle
from s3_stack import BUCKET, Context, Stack, load_handler, running_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cosmicai.schema import Plan

MODEL = "Anomaly Detection"
Spoil = "Callable[[bytes], bytes]"


class Touch:
    """Makes a file when the standard unpickler reads it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return open, (self.path, "w")


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stack]:
    for stack in running_stack(monkeypatch, tmp_path):
        stack.put_model()
        stack.put_partitions(["1.pt", "2.pt"], galaxies=60)
        yield stack


def invoke(stack: Stack, plan: Plan, rank: int) -> dict[str, Any]:
    """Call the deployed handler with a rank's manifest item."""
    result: dict[str, Any] = load_handler("model_inference").handler(
        stack.manifest(plan)[rank], Context()
    )
    return result


def replace_member(content: bytes, name: str, data: bytes) -> bytes:
    """Return the archive with other bytes for one member, and checksums that match them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(packed, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, data if info.filename == name else source.read(info))
    return packed.getvalue()


def with_pickle(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def spoil(content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            original = archive.read("archive/data.pkl")
        changed = change(original)
        assert changed != original
        return replace_member(content, "archive/data.pkl", changed)

    return spoil


def flip_a_pixel(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


BAD_PARTITIONS: dict[str, tuple[Callable[[bytes], bytes], type[Exception], str]] = {
    "cut off": (lambda b: b[:-5000], CorruptPartition, "cut off or damaged"),
    "cut in half": (lambda b: b[: len(b) // 2], CorruptPartition, "cut off or damaged"),
    "no archive": (lambda _: b"hello" * 100, CorruptPartition, "zip archive"),
    "a damaged pixel": (flip_a_pixel, CorruptPartition, "checksum"),
    "doubles": (
        with_pickle(lambda p: p.replace(b"FloatStorage", b"DoubleStorage")),
        CorruptPartition,
        "bytes expected",
    ),
    "integers": (
        with_pickle(lambda p: p.replace(b"FloatStorage", b"IntStorage")),
        CorruptPartition,
        "float32 or float16 expected, found int32",
    ),
    "other shapes": (
        with_pickle(lambda p: p.replace(b"K K ", b"K K\x10")),
        CorruptPartition,
        r"\(galaxies, bands, side, side\) expected, found \(60, 5, 32, 16\)",
    ),
    "another class": (
        with_pickle(lambda p: p.replace(b"dataset\nTensorDataset", b"dataset\nUnknownDataset")),
        UnsafePickle,
        "UnknownDataset",
    ),
    "hostile": (
        with_pickle(lambda _: pickle.dumps(Touch("canary"), protocol=2)),
        UnsafePickle,
        "open.*nothing of it was executed",
    ),
    "hostile, bare": (
        lambda _: pickle.dumps(Touch("canary")),
        UnsafePickle,
        "open.*nothing of it was executed",
    ),
}


@pytest.mark.parametrize("name", BAD_PARTITIONS)
def test_a_bad_partition_is_a_named_error_and_nothing_is_written(
    stack: Stack, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil, error, message = BAD_PARTITIONS[name]
    content = storage.store(BUCKET).read("100MB/2.pt")
    storage.store(BUCKET).write("100MB/2.pt", spoil(content))
    plan = stack.initialize(batch_size=64)
    before = stack.files()

    with pytest.raises(error, match=rf"(?s)100MB/2\.pt.*{message}"):
        invoke(stack, plan, 1)

    assert stack.files() == before
    assert not (tmp_path / "canary").exists()
    assert invoke(stack, plan, 0)["num_samples"] == 60  # its neighbour is unharmed


def test_a_batch_of_nothing_but_nan_is_counted(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "nan.pt"
    with PartitionWriter(path, 3, {}) as writer:
        writer.write(
            np.full((3, 5, 32, 32), np.nan, np.float32),
            np.full((3, 5), np.inf, np.float32),
            np.zeros(3, np.float32),
        )
    storage.store(BUCKET).write("100MB/2.pt", path.read_bytes())

    invoke(stack, stack.initialize(), 1)

    record = stack.read("1.json")
    assert record["num_samples"] == record["num_unpredicted"] == 3
    assert record["num_nonfinite_pixels"] == 3 * 5 * 32 * 32
    assert record["num_nonfinite_magnitudes"] == 15


# -- models -------------------------------------------------------------------------------------


@pytest.fixture
def with_real_models(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Stack]:
    """The stack with a real bundle, loaded by the real cache."""
    pytest.importorskip("torch")
    bundle = filled_bundle(SMALL, tmp_path / "bundle")
    for name in ("config.json", "model.safetensors"):
        storage.store(BUCKET).write(f"{MODEL}/{name}", (bundle.path / name).read_bytes())
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(model_cache, "load", REAL_LOAD)
    model_cache._load.cache_clear()
    yield stack
    model_cache._load.cache_clear()


REAL_LOAD = model_cache.load


def change_config(**values: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **values}).encode()


BAD_MODELS: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "deeper than its tensors": (
        "config.json", change_config(depth=3), r"missing: blocks\.2\.norm1\.weight",
    ),
    "shallower": ("config.json", change_config(depth=1), r"unexpected: blocks\.1\.PCM"),
    "wider": ("config.json", change_config(mlp_width=41), r"mlp\.fc1\.weight is float32\[40, 24\]"),
    "an unknown key": ("config.json", change_config(layers=3), "layers"),
    "no JSON": ("config.json", lambda _: b"{", "does not describe an architecture"),
    "heads that do not divide": ("config.json", change_config(heads=5), "not divisible by heads"),
    "cut off": ("model.safetensors", lambda b: b[:-100], "bytes expected, found"),
    "empty": ("model.safetensors", lambda _: b"", "is empty: writing it was cut short"),
    "a hostile pickle": (
        "model.safetensors",
        lambda _: pickle.dumps(Touch("canary")),
        "not a whole safetensors file",
    ),
}  # fmt: skip


def test_a_sound_model_predicts(with_real_models: Stack) -> None:
    plan = with_real_models.initialize(engine="plain")

    assert invoke(with_real_models, plan, 0)["num_samples"] == 60
    assert with_real_models.read("0.json")["num_unpredicted"] == 0


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_is_refused_before_any_rank_starts(
    with_real_models: Stack, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    file, spoil, message = BAD_MODELS[name]
    key = f"{MODEL}/{file}"
    storage.store(BUCKET).write(key, spoil(storage.store(BUCKET).read(key)))

    with pytest.raises(ModelMismatch, match=f"(?s)s3://{BUCKET}/{MODEL}/.*{message}"):
        with_real_models.initialize(engine="plain")

    assert with_real_models.files() == {}
    assert not (tmp_path / "canary").exists()


def test_a_rank_checks_the_model_again(with_real_models: Stack) -> None:
    """A rank may be called without Initialize, or with a manifest of an older one."""
    item = with_real_models.manifest(with_real_models.initialize(engine="plain"))[0]
    item["MODEL_VERSION"] = ""
    key = f"{MODEL}/config.json"
    spoiled = change_config(depth=3)(storage.store(BUCKET).read(key))
    storage.store(BUCKET).write(key, spoiled)

    with pytest.raises(ModelMismatch, match=r"missing: blocks\.2\.norm1\.weight"):
        load_handler("model_inference").handler(item, Context())


def test_a_model_changed_after_the_plan_is_not_mixed_in(with_real_models: Stack) -> None:
    plan = with_real_models.initialize(engine="plain")
    key = f"{MODEL}/config.json"
    storage.store(BUCKET).write(key, storage.store(BUCKET).read(key) + b"\n")

    with pytest.raises(ModelMismatch, match="changed since this execution was planned"):
        invoke(with_real_models, plan, 0)
