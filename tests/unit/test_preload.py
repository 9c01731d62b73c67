"""The stack's model is loaded ahead of the first rank where a sandbox starts ahead of its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cosmicai import storage
from cosmicai.preload import preload
from s3_stack import BUCKET, ROOT, running_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = ROOT / "models/astromae-small"
FOLDER = "models/astromae-small"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for variable, value in (("BUCKET", BUCKET), ("MODEL", FOLDER), ("ENGINE", "plain")):
        monkeypatch.setenv(f"PRELOAD_{variable}", value)
    for _ in running_stack(monkeypatch, tmp_path):
        yield


def upload(folder: str = FOLDER) -> None:
    for file in ("config.json", "model.safetensors"):
        storage.store(BUCKET).write(f"{folder}/{file}", (MODEL / file).read_bytes())


def downloaded(folder: Path) -> bool:
    return any(folder.glob("cosmicai-models-*/*/model.safetensors"))


@pytest.mark.parametrize("how", ["snap-start", "provisioned-concurrency"])
def test_a_sandbox_that_starts_ahead_loads_the_model(
    stack: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    folder = f"models/{how}"  # not the model that another test loaded
    upload(folder)
    monkeypatch.setenv("PRELOAD_MODEL", folder)
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", how)
    preload()
    assert downloaded(tmp_path)


@pytest.mark.parametrize(("how", "folder"), [("on-demand", FOLDER), ("snap-start", "")])
def test_nothing_is_loaded_on_demand_or_where_no_model_is_named(
    stack: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, folder: str
) -> None:
    upload()
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", how)
    monkeypatch.setenv("PRELOAD_MODEL", folder)
    preload()
    assert not downloaded(tmp_path)


def test_a_missing_model_does_not_keep_the_function_from_starting(
    stack: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    preload()
    assert not downloaded(tmp_path)
