"""Engines declare themselves once; everything that names engines follows, an added one included."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from cosmicai.engines.base import load_engine
from cosmicai.engines.registry import (
    BUILT_IN,
    DEFAULT_ENGINE,
    find_engine,
    installed_engine,
)
from cosmicai.errors import InvalidInput, ModelMismatch
from cosmicai.machine import architecture
from cosmicai.model.architectures import ARCHITECTURES, Architecture
from cosmicai.model.bundle import Bundle, save_tensors
from cosmicai.model.config import ModelConfig
from cosmicai.model.layout import TensorSpec
from cosmicai.schema import ExecutionInput, parse
from cosmicai_workbench.data.partition_writer import write_partition
from model_fill import SMALL, filled_bundle
from s3_stack import make_galaxies
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).parents[2]
TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
TOY = ROOT / "tests" / "toy_engine"
PAIRS = [
    (engine.name, precision)
    for engine in BUILT_IN.values()
    for precision in ("float32", "bfloat16", "float16")
]
INPUT = json.loads((ROOT / "events/seed-100MB-1GB.json").read_text())


def cosmicai(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line where the toy engine's package is installed."""
    environment = {**os.environ, "PYTHONPATH": str(TOY)}
    command = [str(Path(sys.executable).parent / "cosmicai"), *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def test_the_template_offers_the_declared_engines_and_no_others() -> None:
    parameter = TEMPLATE["Parameters"]["Engine"]
    assert set(parameter["AllowedValues"]) == set(BUILT_IN)
    assert parameter["Default"] == DEFAULT_ENGINE


def test_a_stack_offers_the_engines_whose_layer_it_carries() -> None:
    resources = TEMPLATE["Resources"]
    offered = resources["InitializeFunction"]["Properties"]["Environment"]["Variables"]
    names = offered["AVAILABLE_ENGINES"]
    (choice,) = resources["ModelInferenceFunction"]["Properties"]["Layers"]
    pairs = []
    while "Fn::If" in choice:
        assert names["Fn::If"][0] == choice["Fn::If"][0]
        pairs.append((choice["Fn::If"][1], names["Fn::If"][1]))
        choice, names = choice["Fn::If"][2], names["Fn::If"][2]
    for layer, engines_there in (*pairs, (choice, names)):
        carried = {e.name for e in BUILT_IN.values() if e.layer in (layer["Ref"], None)}
        assert set(engines_there.split(",")) == carried


@pytest.mark.parametrize(("engine", "precision"), PAIRS)
def test_a_precision_that_an_engine_lacks_is_refused_before_anything_starts(
    engine: str, precision: str, tmp_path: Path
) -> None:
    content = {**INPUT, "engine": engine, "precision": precision}
    if precision in BUILT_IN[engine].precisions:
        assert parse(ExecutionInput, content).precision == precision
        return
    offered = " and ".join(BUILT_IN[engine].precisions)
    others = {"bfloat16": "torch", "float16": "native"}[precision]
    message = (
        f"{precision}: engine '{engine}' computes in {offered} only; engines with it: {others}"
    )
    with pytest.raises(InvalidInput, match=message):
        parse(ExecutionInput, content)
    with pytest.raises(InvalidInput, match=message):
        load_engine(engine, tmp_path / "absent", threads=1, precision=precision)


def test_an_unknown_engine_or_precision_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="'tpu' is not one of native, openvino, torch, plain"):
        parse(ExecutionInput, {**INPUT, "engine": "tpu"})
    with pytest.raises(InvalidInput, match="'int4' is not one of float32, float16, bfloat16"):
        parse(ExecutionInput, {**INPUT, "precision": "int4"})


def test_a_precision_may_be_for_some_processors_only() -> None:
    engine = BUILT_IN["native"]
    engine.check("float16", "arm64")
    with pytest.raises(InvalidInput, match="offers it on arm64 only, and this is x86_64"):
        engine.check("float16", "x86_64")


@pytest.mark.skipif(architecture() != "x86_64", reason="the processor offers float16")
def test_float16_is_refused_on_x86_64_before_the_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="on arm64 only, and this is x86_64; use float32"):
        load_engine("native", tmp_path / "absent", threads=1, precision="float16")


def test_an_engine_whose_library_is_absent_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = filled_bundle(SMALL, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "cosmicai.engines.plain_engine", raising=False)
    with pytest.raises(InvalidInput, match=r"needs torch, not installed here; pip install cosm"):
        load_engine("plain", bundle.path, threads=1)


def test_the_fastest_installed_engine_is_the_default() -> None:
    assert installed_engine("AstroMAE").name == DEFAULT_ENGINE
    assert installed_engine("AstroMAE", "bfloat16").name == "torch"
    for unknown in (("Unknown",), ("AstroMAE", "float8"), ("AstroMAE", "float32", "tpu")):
        with pytest.raises(InvalidInput, match=r"no engine runs .* There are native: AstroMAE in"):
            installed_engine(*unknown)


def test_an_engine_of_another_package_works_from_the_command_line_on(tmp_path: Path) -> None:
    galaxies = make_galaxies(5)
    write_partition(tmp_path / "1.pt", galaxies, {})
    filled_bundle(SMALL, tmp_path / "model")
    words = ("infer", "model", "1.pt", "--json", "--engine", "toy", "-o")
    outcome = cosmicai(*words, "run", folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    summary = json.loads(outcome.stdout)
    assert (summary["engine"], summary["num_samples"]) == ("toy", 5)
    assert summary["quality"]["nmad"] < 0.01
    refused = cosmicai(*words, "again", "--precision", "bfloat16", folder=tmp_path)
    assert not (tmp_path / "again").exists()
    assert refused.returncode != 0
    assert "bfloat16: engine 'toy' computes in float32 only" in " ".join(refused.stderr.split())


def test_initialize_and_the_local_cloud_know_an_engine_of_another_package() -> None:
    code = (
        "from cosmicai.schema import ExecutionInput, parse;"
        "from cosmicai.settings import InitializeSettings;"
        "from cosmicai_workbench.cloud.pool import sandbox_environment;"
        "from cosmicai_workbench.cloud.template import Function;"
        "from pathlib import Path; import json, sys;"
        "content = json.loads(sys.argv[1]) | {'engine': 'toy'};"
        "assert parse(ExecutionInput, content).engine == 'toy';"
        "function = Function('f', 'arn', Path(), 'app.handler', 3, 128, {}, ());"
        "found = sandbox_environment(function, {}, 1);"
        "assert 'toy' in InitializeSettings.read(found).available_engines"
    )
    environment = {**os.environ, "PYTHONPATH": str(TOY)}
    command = [sys.executable, "-c", code, json.dumps(INPUT)]
    outcome = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert outcome.returncode == 0, outcome.stderr


def test_an_engine_refuses_a_model_that_it_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(ARCHITECTURES["AstroMAE"], name="Other")
    monkeypatch.setitem(ARCHITECTURES, "AstroMAE", other)
    bundle = filled_bundle(SMALL, tmp_path / "model")
    with pytest.raises(ModelMismatch, match="'torch' runs models of AstroMAE, not Other"):
        load_engine("torch", bundle.path, threads=1)


def test_a_config_without_an_architecture_is_astromaes_and_an_unknown_one_is_refused(
    tmp_path: Path,
) -> None:
    bundle = filled_bundle(SMALL, tmp_path / "model")
    config = json.loads((bundle.path / "config.json").read_text())
    del config["architecture"]
    (bundle.path / "config.json").write_text(json.dumps(config))
    assert Bundle(bundle.path).architecture.name == "AstroMAE"
    for unknown in ("ResNet", 7, ["AstroMAE"]):
        (bundle.path / "config.json").write_text(json.dumps(config | {"architecture": unknown}))
        with pytest.raises(ModelMismatch, match="is not one of AstroMAE"):
            Bundle(bundle.path)


def test_a_new_architecture_takes_one_declaration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ToyConfig(ModelConfig):
        architecture: Literal["Toy"] = "Toy"  # type: ignore[assignment]

    toy = Architecture(
        name="Toy",
        config=ToyConfig,
        layout=lambda config: {"weight": TensorSpec((config.width,))},
    )
    monkeypatch.setitem(ARCHITECTURES, "Toy", toy)
    state = {"weight": np.ones(192, np.float32)}
    bundle = save_tensors(ToyConfig(), state, tmp_path / "toy")
    assert (bundle.architecture, bundle.config) == (toy, ToyConfig())
    assert len(bundle.digest) == 64
    with pytest.raises(ModelMismatch, match=r"weight is float32\[3\], expected float32\[192\]"):
        save_tensors(ToyConfig(), {"weight": np.ones(3, np.float32)}, tmp_path / "wrong")
    with pytest.raises(ModelMismatch, match="runs models of AstroMAE, not Toy"):
        load_engine("native", bundle.path, threads=1)


def test_every_declared_engine_says_what_it_needs() -> None:
    for name in BUILT_IN:
        engine = find_engine(name)
        assert engine.name == name
        assert "float32" in engine.precisions
        assert "AstroMAE" in engine.architectures
