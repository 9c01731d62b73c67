"""The model of a sandbox: downloaded and loaded once, the planned version and no other."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cosmicai import model_cache, storage
from cosmicai.errors import ModelMismatch, ModelNotFound
from cosmicai.facts import MB
from cosmicai.model.architectures import bundle_files
from cosmicai.model.bundle import Bundle
from cosmicai.model.layout import MAX_CALIBRATION_BYTES
from cosmicai.schema import ManifestItem, parse
from model_fill import CALIBRATION, SMALL, filled_bundle
from s3_stack import BUCKET, ROOT, MeanEngine, Stack, running_stack

REAL_LOAD = model_cache.load


@pytest.fixture
def item(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ManifestItem]:
    for stack in running_stack(monkeypatch, tmp_path):
        stack.put_model()
        monkeypatch.setattr(model_cache, "load", REAL_LOAD)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        model_cache._load.cache_clear()
        yield planned()
        model_cache._load.cache_clear()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Count engine loads instead of importing torch."""
    calls: list[Path] = []

    def load_engine(
        name: str, bundle: Path, *, threads: int, precision: str, device: str
    ) -> MeanEngine:
        calls.append(bundle)
        return MeanEngine()

    monkeypatch.setattr("cosmicai.engines.base.load_engine", load_engine)
    return calls


def planned(**change: Any) -> ManifestItem:
    document = json.loads((ROOT / "events/model_inference.json").read_text())
    version = model_cache.check(BUCKET, "Anomaly Detection").version
    return parse(ManifestItem, {**document, "MODEL_VERSION": version, **change})


def test_a_warm_sandbox_neither_downloads_nor_loads_again(
    item: ManifestItem, loaded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seconds = model_cache.load(item, 1)
    assert seconds > 0
    assert len(model.digest) == 64
    with monkeypatch.context() as offline:
        offline.setattr(storage, "client", lambda: pytest.fail("a warm sandbox asked S3"))
        again, seconds = model_cache.load(item, 1)
    assert again is model
    assert seconds == 0
    assert len(loaded) == 1


def test_another_version_is_loaded_when_it_is_planned(
    item: ManifestItem, loaded: list[Path], tmp_path: Path
) -> None:
    first, _ = model_cache.load(item, 1)
    config = SMALL.model_copy(update={"norm_eps": 1e-5})
    path = filled_bundle(config, tmp_path / "new").path
    for file in bundle_files(path):
        storage.store(BUCKET).write(f"Anomaly Detection/{file.name}", file.read_bytes())
    second, _ = model_cache.load(planned(), 1)
    assert second.digest != first.digest
    assert len(loaded) == 2


def test_a_bundle_is_loaded_with_the_calibration_that_was_planned(
    item: ManifestItem, loaded: list[Path]
) -> None:
    plain, _ = model_cache.load(item, 1)
    assert not plain.interface.has_intervals
    key = "Anomaly Detection/calibration.json"
    storage.store(BUCKET).write_json(key, CALIBRATION)
    again = planned()
    assert again.MODEL_VERSION
    assert again.MODEL_VERSION.split()[:2] == (item.MODEL_VERSION or "").split()
    model, _ = model_cache.load(again, 1)
    assert model.interface.has_intervals
    assert model.digest != plain.digest
    storage.store(BUCKET).write_json(key, CALIBRATION | {"redshift_edges": [0.3]})
    model_cache._load.cache_clear()
    assert model_cache.load(again, 1)[0].digest == model.digest, "this machine has that version"
    storage.store(BUCKET).write_json(key, {})
    with pytest.raises(ModelMismatch, match=r"calibration\.json is not a calibration"):
        planned()
    storage.store(BUCKET).write(key, bytes(MAX_CALIBRATION_BYTES + 1))
    with pytest.raises(ModelMismatch, match=r"calibration\.json has 67108865 bytes"):
        planned()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda content: content + b" " * MB, r"config\.json has \d+ bytes, and at"),
        ("model.safetensors", lambda content: content + bytes(17 * MB), r"safetensors has \d+ byt"),
        ("calibration.json", lambda _: bytes(MAX_CALIBRATION_BYTES + 1), r"on\.json has 67108865 "),
        ("calibration.json", lambda _: b"", r"calibration\.json is empty"),
    ],
)
@pytest.mark.parametrize("look_up", [model_cache.check, model_cache.current_version])
def test_a_file_of_an_absurd_size_is_refused_unread(
    item: ManifestItem,
    name: str,
    change: Callable[[bytes], bytes],
    message: str,
    look_up: Callable[[str, str], object],
) -> None:
    store, key = storage.store(BUCKET), f"{item.S3_OBJECT_NAME}/{name}"
    store.write(key, change(store.read(key) if store.find(key) else b""))
    with pytest.raises(ModelMismatch, match=message):
        look_up(BUCKET, item.S3_OBJECT_NAME)


def test_weights_with_bytes_behind_their_last_tensor_are_refused(item: ManifestItem) -> None:
    store, key = storage.store(BUCKET), f"{item.S3_OBJECT_NAME}/model.safetensors"
    store.write(key, store.read(key) + b"more")
    with pytest.raises(ModelMismatch, match=r"is not a whole safetensors file: \d+ bytes expected"):
        model_cache.check(BUCKET, item.S3_OBJECT_NAME)


def test_a_model_replaced_after_planning_is_refused(item: ManifestItem, loaded: list[Path]) -> None:
    storage.store(BUCKET).write("Anomaly Detection/model.safetensors", b"another")
    with pytest.raises(ModelMismatch, match="changed since this execution was planned"):
        model_cache.load(item, 1)
    assert loaded == []


def test_a_model_deleted_after_planning_is_not_found(
    item: ManifestItem, loaded: list[Path]
) -> None:
    storage.store(BUCKET).delete(["Anomaly Detection/config.json"])
    with pytest.raises(ModelNotFound, match=r"config\.json does not exist any more"):
        model_cache.load(item, 1)


def test_a_failed_download_leaves_nothing_and_the_retry_succeeds(
    item: ManifestItem, loaded: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = storage.Store.download

    def cut(store: storage.Store, key: str, path: Path, **options: Any) -> None:
        real(store, key, path, **options)
        if key.endswith("safetensors"):
            raise TimeoutError

    with monkeypatch.context() as broken:
        broken.setattr(storage.Store, "download", cut)
        with pytest.raises(TimeoutError):
            model_cache.load(item, 1)
    (root,) = tmp_path.glob("cosmicai-models-*")
    assert list(root.iterdir()) == []
    model_cache.load(item, 1)
    assert len(loaded) == 1


def test_sandboxes_on_one_machine_share_one_whole_copy(
    item: ManifestItem, loaded: list[Path], tmp_path: Path
) -> None:
    start = threading.Barrier(4)
    found: list[Path] = []

    def download() -> None:
        start.wait()
        found.append(
            model_cache.with_bundle(
                BUCKET, "Anomaly Detection", item.MODEL_VERSION, lambda bundle: bundle.path
            )
        )

    threads = [threading.Thread(target=download) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert sorted(found[0].iterdir()) == sorted(bundle_files(found[0]))
    assert len(list(found[0].parent.iterdir())) == 1


def test_an_item_without_a_version_takes_the_current_one(
    item: ManifestItem, loaded: list[Path]
) -> None:
    model, _ = model_cache.load(planned(MODEL_VERSION=""), 1)
    assert model.digest == model_cache.load(item, 1)[0].digest


def test_a_rank_predicts_with_the_real_engine(item: ManifestItem, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from cosmicai.inference import run_rank

    Stack(tmp_path).put_partitions(["1.pt"])
    report = run_rank(planned(ENGINE="plain"), "request-1")
    assert report["num_samples"] == 6
    record = storage.store(BUCKET).read_json(report["record"])
    assert record["engine"] == "plain"
    assert record["num_unpredicted"] == 0


def empty(path: Path) -> None:
    for file in path.iterdir():
        file.write_bytes(b"")


def clean(path: Path) -> None:
    (path / "config.json").unlink()


def flip(path: Path) -> None:
    weights = path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize("damage", [empty, clean, flip])
def test_a_damaged_copy_of_the_model_is_replaced(
    item: ManifestItem,
    loaded: list[Path],
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    """As a power cut, a cleaner of temporary files, or a bad disk leaves it."""
    first, _ = model_cache.load(item, 1)
    (root,) = tmp_path.glob("cosmicai-models-*")
    (copy,) = root.iterdir()
    damage(copy)
    model_cache._load.cache_clear()
    again, _ = model_cache.load(item, 1)
    assert again.digest == first.digest
    (copy,) = root.iterdir()
    assert Bundle(copy).digest == first.digest


def writable(root: Path, _: Path) -> None:
    root.mkdir()
    root.chmod(0o777)


def link(root: Path, elsewhere: Path) -> None:
    elsewhere.mkdir()
    root.symlink_to(elsewhere)


def file(root: Path, _: Path) -> None:
    root.write_text("in the way")


@pytest.mark.parametrize("plant", [writable, link, file])
def test_a_folder_that_another_user_could_have_planted_is_not_used(
    item: ManifestItem,
    loaded: list[Path],
    tmp_path: Path,
    plant: Callable[[Path, Path], None],
) -> None:
    root = tmp_path / f"cosmicai-models-{os.getuid()}"
    plant(root, tmp_path / "elsewhere")
    model_cache._own_folder.cache_clear()
    model, _ = model_cache.load(item, 1)
    assert len(model.digest) == 64
    assert not (root.is_dir() and list(root.iterdir()))
    model_cache._own_folder.cache_clear()
