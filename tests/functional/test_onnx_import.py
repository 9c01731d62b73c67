"""Models of other people's kind as bundles, which predict what ONNX Runtime predicts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cosmicai import open_model
from cosmicai.engines.base import load_engine
from cosmicai.errors import InvalidInput, ModelMismatch
from cosmicai.model.bundle import Bundle
from cosmicai.model.config import ModelConfig
from cosmicai.model.onnx_config import OnnxConfig
from cosmicai.partition.catalogue import Catalogue, Column, ColumnInfo
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.data.synthesis import synthesize
from cosmicai_workbench.modeling.onnx_converting import compare, random_galaxies, reference
from cosmicai_workbench.modeling.onnx_import import Choices, import_onnx
from onnx_models import BANDS, GRID, SIDE, ImageCnn, PdfCnn, ReddenedCnn, SmallViT, export
from torch import nn

if TYPE_CHECKING:
    from pydantic import BaseModel

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LEVELS = tuple(round(0.1 * step, 1) for step in range(1, 10))
MODELS: dict[str, tuple[type[nn.Module], tuple[str, ...], Choices]] = {
    "a CNN with p(z)": (PdfCnn, ("pz",), Choices(output="pdf", grid=GRID)),
    "a CNN without magnitudes": (ImageCnn, ("z",), Choices()),
    "a vision transformer": (SmallViT, ("mean", "sigma"), Choices(output="mean,sigma")),
    "a CNN with E(B-V)": (ReddenedCnn, ("q",), Choices(output="quantiles", levels=LEVELS)),
}


@pytest.fixture(scope="module", params=MODELS)
def imported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Bundle]:
    """An ONNX file, and its bundle."""
    make, outputs, choices = MODELS[request.param]
    folder = tmp_path_factory.mktemp("imported")
    path = export(make, folder / "model.onnx", outputs, dynamo=False)
    return path, import_onnx(path, folder / "bundle", choices).bundle


def galaxies(bundle: Bundle, count: int = 150) -> tuple[Any, Any]:
    """More than are computed at once."""
    rng = np.random.default_rng(1)
    image = rng.normal(0.1, 1, (count, BANDS, SIDE, SIDE)).astype(np.float32)
    inputs = bundle.config.inputs
    values = rng.normal(18, 1, (count, inputs.num_values)).astype(np.float32)
    values[:, inputs.num_magnitudes :] = rng.uniform(0, 1, values[:, inputs.num_magnitudes :].shape)
    return image, values


def expected(path: Path, image: Any, values: Any) -> Any:
    """Return what ONNX Runtime says."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = [image, values[:, :BANDS], values[:, BANDS:]]
    feed = {each.name: array for each, array in zip(session.get_inputs(), given, strict=False)}
    return np.concatenate([raw.reshape(len(image), -1) for raw in session.run(None, feed)], 1)


def test_it_predicts_what_onnx_runtime_predicts(imported: tuple[Path, Bundle]) -> None:
    path, bundle = imported
    image, values = galaxies(bundle)
    wanted = expected(path, image, values)
    assert np.ptp(wanted, axis=0).max() > 1e-3  # else any model would do

    raw = load_engine("openvino", bundle, threads=2).predict(image, values)

    assert raw.dtype == np.float32
    assert raw.shape == (150,) if wanted.shape[1] == 1 else wanted.shape
    np.testing.assert_allclose(raw.reshape(150, -1), wanted, rtol=0, atol=1e-4)
    again = load_engine("openvino", bundle, threads=2).predict(image[:1], values[:1])
    np.testing.assert_allclose(again.reshape(1, -1), wanted[:1], rtol=0, atol=1e-4)


def test_the_bundle_says_how_it_was_checked(imported: tuple[Path, Bundle]) -> None:
    path, bundle = imported
    assert bundle.files == ("config.json", "model.xml", "model.bin")
    assert isinstance(bundle.config, OnnxConfig)
    found = bundle.config.imported
    assert found is not None
    assert (found.file, found.onnxruntime) == ("model.onnx", onnxruntime.__version__)
    assert 0 <= found.difference <= 1e-4
    assert found.redshift_difference is not None
    assert 0 <= found.redshift_difference <= 1e-4
    assert found.opset == onnx.load(path).opset_import[0].version
    assert Bundle(bundle.path).digest == bundle.digest


def test_the_same_file_gives_the_same_model(imported: tuple[Path, Bundle], tmp_path: Path) -> None:
    path, bundle = imported
    config = json.loads((bundle.path / "config.json").read_text())
    (tmp_path / "config").write_text(json.dumps({k: config[k] for k in ("inputs", "output")}))
    assert main(
        ["model", "import", str(path), str(tmp_path / "b"), "--config", str(tmp_path / "config")]
    ) == 0  # fmt: skip
    assert (tmp_path / "b/model.bin").read_bytes() == (bundle.path / "model.bin").read_bytes()
    assert json.loads((tmp_path / "b/config.json").read_text()) == config


def test_a_model_is_opened_with_the_engine_that_runs_it(imported: tuple[Path, Bundle]) -> None:
    _, bundle = imported
    predictor = open_model(bundle.path)
    assert predictor.engine == "openvino"
    image, values = galaxies(bundle, 5)
    inputs = bundle.config.inputs
    magnitudes, scalars = np.split(values, [inputs.num_magnitudes], axis=1)
    given = {scalar.name: scalars[:, column] for column, scalar in enumerate(inputs.scalars)}
    predicted = predictor.predict(image, magnitudes if inputs.magnitude else None, given or None)
    assert np.isfinite(predicted.redshift).all()
    assert ("z_lo68" in predicted.columns) == (bundle.config.output.kind != "point")
    with pytest.raises(ModelMismatch, match="engines that do: openvino"):
        open_model(bundle.path, engine="native")


def test_what_is_for_tensors_alone_says_so(
    imported: tuple[Path, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    _, bundle = imported
    assert main(["model", "prepare", str(bundle.path)]) != 0
    assert "a model of tensors by name expected, found a graph" in capsys.readouterr().err
    with pytest.raises(ModelMismatch, match="an AstroMAE expected, found ONNX"):
        _ = bundle.astromae


def test_it_is_evaluated_on_galaxies_painted_for_it(
    imported: tuple[Path, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    _, bundle = imported
    code = main(["model", "evaluate", str(bundle.path), "-n", "20", "--json"])
    told = capsys.readouterr()
    if bundle.config.inputs.scalars:
        assert code != 0
        assert "name partitions with known redshifts" in told.err
    else:
        assert (code, json.loads(told.out)["num_galaxies"]) == (0, 20)


def test_it_is_evaluated_on_labelled_partitions(
    imported: tuple[Path, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scalars included: the figures are those of the predictions themselves."""
    _, bundle = imported
    inputs = bundle.config.inputs
    image, values = galaxies(bundle, 40)
    true = np.linspace(0.1, 0.4, 40, dtype=np.float32)
    known = np.where(np.arange(40) % 4, true, np.float32(np.nan))
    magnitudes, scalars = np.split(values, [inputs.num_magnitudes], axis=1)
    columns = [
        Column(ColumnInfo(scalar.name, "float32", ""), numbers, np.zeros(40, np.bool_))
        for scalar, numbers in zip(inputs.scalars, scalars.T, strict=True)
    ]
    for name, redshift in (("some", known), ("none", np.full_like(true, np.nan))):
        path = tmp_path / name / "1.pt"
        path.parent.mkdir()
        with PartitionWriter(path, 40, {}, shape=inputs.galaxy) as writer:
            writer.write(image, magnitudes, redshift)
            if columns:
                writer.write_catalogue(Catalogue(columns))
    assert path.stat().st_size >= 40 * inputs.galaxy.nbytes

    assert main(["model", "evaluate", str(bundle.path), str(tmp_path / "some"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    predicted = open_model(bundle.path).predict_partitions([tmp_path / "some/1.pt"]).redshift
    off = (predicted - true)[np.isfinite(known)].astype(np.float64)
    assert told["num_galaxies"] == 30
    assert told["mae"] == pytest.approx(np.abs(off).mean(), rel=1e-4)

    assert main(["model", "evaluate", str(bundle.path), str(tmp_path / "none")]) != 0
    assert "known redshifts expected, found none among 40" in capsys.readouterr().err


class Channels(nn.Module):
    """Means of the bands, which tell in what order they come."""

    inputs = ("image",)

    def forward(self, image: Any) -> Any:
        return image.mean((2, 3)) @ torch.tensor([0.1, 0.2, 0.4])


def test_some_of_the_painted_bands_in_another_order_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.onnx"
    torch.onnx.export(
        Channels(), (torch.zeros(2, 3, 16, 16),), model, input_names=["image"],
        output_names=["z"], dynamic_axes={"image": {0: "batch"}}, dynamo=False,
    )  # fmt: skip
    bundle = import_onnx(model, tmp_path / "b", Choices(bands=("z", "r", "g"))).bundle
    assert main(["model", "evaluate", str(bundle.path), "-n", "30", "--json"]) == 0
    (painted,) = synthesize(30, "test", 0, 16)
    wanted = painted.image[:, [4, 2, 1]].mean((2, 3)) @ np.array([0.1, 0.2, 0.4])
    error = np.abs(wanted - painted.redshift).mean()
    assert json.loads(capsys.readouterr().out)["mae"] == pytest.approx(error, rel=1e-4)


class OfTwoSizes(nn.Module):
    """A small redshift beside large logits, or logits so large that they hide one."""

    inputs = ("image",)

    def forward(self, image: Any) -> Any:
        level = image.mean((1, 2, 3))
        return 0.01 * torch.tanh(level) + 0.1, 1e4 * level.abs() + 1


class LargeLogits(nn.Module):
    inputs = ("image",)

    def forward(self, image: Any) -> Any:
        peaks = torch.cos(torch.linspace(0, 6, 90)) + 0.1 * image.mean((1, 2, 3))[:, None]
        return torch.cat([peaks, torch.full_like(peaks, -1e5)], 1)


@pytest.mark.parametrize(
    ("make", "outputs", "choices", "change", "says"),
    [
        (OfTwoSizes, ("m", "s"), Choices(output="mean,sigma"), (0, 1e-4), "'m' of 24 random"),
        (OfTwoSizes, ("m", "s"), Choices(output="mean,sigma"), (1, 1e6), "'s' of 24 random"),
        (LargeLogits, ("p",), Choices(output="pdf", grid=GRID), (0, 1.0), "the redshift of 24"),
    ],
)
def test_each_output_and_the_redshift_are_judged_on_their_own_scale(
    make: type[nn.Module],
    outputs: tuple[str, ...],
    choices: Choices,
    change: tuple[int, float],
    says: str,
    tmp_path: Path,
) -> None:
    """As if ONNX Runtime had said something else, by what is little beside the largest value."""
    path = export(make, tmp_path / "model.onnx", outputs, dynamo=False)
    bundle = import_onnx(path, tmp_path / "bundle", choices).bundle
    config = bundle.config
    assert isinstance(config, OnnxConfig)
    drawn = random_galaxies(config.inputs)
    said = reference(path.read_bytes(), config.inputs, list(outputs), drawn, "model")
    most = compare(bundle.path, config, drawn, said, "model")
    assert max(most) <= 1e-4
    tensor, by = change
    said[tensor][:, 0] += by
    with pytest.raises(ModelMismatch, match=says):
        compare(bundle.path, config, drawn, said, "model")


class Plain(nn.Module):
    """Image and magnitudes → redshift, however it is written."""

    inputs = ("image", "mag")

    def forward(self, image: Any, mag: Any) -> Any:
        return image.mean((1, 2, 3)) + 0.01 * mag.mean(1)


class FixedInside(nn.Module):
    inputs = ("image",)

    def forward(self, image: Any) -> Any:
        return image.reshape(2, -1).mean(1)


def plain(folder: Path, make: type[nn.Module] = Plain, change: Any = None) -> Path:
    path = export(make, folder / "plain.onnx", ("z",), dynamo=False)
    if change is not None:
        model = onnx.load(path)
        change(model)
        onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def plain_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain(tmp_path_factory.mktemp("plain"))


def _fix_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def test_a_fixed_batch_is_freed_where_that_works(tmp_path: Path) -> None:
    done = import_onnx(plain(tmp_path, change=_fix_batch), tmp_path / "bundle")
    assert "batches of 2" in done.notes[0]
    image, values = galaxies(done.bundle, 7)
    raw = load_engine("openvino", done.bundle, threads=1).predict(image, values)
    np.testing.assert_allclose(
        raw, image.mean((1, 2, 3)) + 0.01 * values.mean(1), rtol=0, atol=1e-5
    )


def test_a_fixed_batch_is_refused_where_it_does_not(tmp_path: Path) -> None:
    with pytest.raises((ModelMismatch, InvalidInput), match=r"batch|does not take"):
        import_onnx(plain(tmp_path, FixedInside, _fix_batch), tmp_path / "bundle")


def test_offsets_and_scales_of_the_config_are_applied(tmp_path: Path) -> None:
    config = {
        "inputs": {
            "image": {"offset": 0.5, "scale": [1, 2, 3, 4, 5], "pixel_scale": 0.262},
            "magnitude": {"offset": [1, 2, 3, 4, 5], "scale": 2},
        }
    }
    bundle = import_onnx(plain(tmp_path), tmp_path / "bundle", Choices(config=config)).bundle
    assert bundle.config.inputs.image.pixel_scale == 0.262
    image, values = galaxies(bundle, 9)
    raw = load_engine("openvino", bundle, threads=1).predict(image, values)
    bands = np.arange(1, 6)
    scaled = (image - 0.5) / bands[:, None, None]
    wanted = scaled.mean((1, 2, 3)) + 0.01 * ((values - bands) / 2).mean(1)
    np.testing.assert_allclose(raw, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--image", "nothing"], "no input 'nothing'"),
        (["--magnitude", "nothing"], "no input 'nothing'"),
        (["--magnitude", "image"], "no input 'image'"),
        (["--scalar", "mag"], "an image, magnitudes and scalars|not"),
        (["--scalar", "ebv"], "no input 'ebv' is left"),
        (["--bands", "g,r"], "2 bands are declared"),
        (["--bands", "g,g,r,i,z"], "different names expected"),
        (["--output", "sigma"], "one of redshift"),
        (["--output", "pdf", "--grid", "0,1"], "pdf|values"),
        (["--output", "pdf"], "--grid"),
        (["--output", "quantiles"], "--levels"),
        (["--output", "mean,sigma"], "2 values of a galaxy expected"),
        (["--output", "mixture"], "values of a galaxy expected|not right"),
        (["--grid", "0"], "two numbers"),
        (["--levels", "a,b"], "numbers with commas"),
        (["--output-tensor", "other"], "no output 'other'; the model's outputs: 'z'"),
        (["--heads", "4"], "--heads: only for a checkpoint"),
        (["--pixel-scale", "0"], r"right: key 'image.pixel_scale': .* \(found 0.0\)$"),
    ],
)
def test_what_is_said_wrong_is_refused(
    words: list[str],
    says: str,
    plain_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["model", "import", str(plain_file), str(tmp_path / "bundle"), *words]) != 0
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "bundle").exists()


def test_a_checkpoint_takes_no_options_of_onnx(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pt")
    words = ["model", "import", str(tmp_path / "model.pt"), str(tmp_path / "bundle")]
    assert main([*words, "--output", "pdf", "--bands", "r"]) != 0
    assert "--output, --bands: only for an ONNX file" in capsys.readouterr().err
    assert main(words) != 0
    assert "attention heads" in capsys.readouterr().err


# -- the page --------------------------------------------------------------------------------------


def test_the_recipe_of_the_page_works(tmp_path: Path) -> None:
    """Weights of PyTorch → the twelve lines → the command, as they stand in docs/models.md."""
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block
    assert len(block[1].splitlines()) <= 12
    torch.save(PdfCnn().state_dict(), tmp_path / "my_model.pt")
    (tmp_path / "my_models.py").write_text("from onnx_models import PdfCnn as MyModel\n")
    (tmp_path / "recipe.py").write_text(block[1])
    done = subprocess.run(
        [sys.executable, "recipe.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{Path(__file__).parents[1]}:{tmp_path}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my_model.onnx.data").exists()
    command = re.search(r"```sh\n(cosmicai model import .*?)\n", PAGE.read_text())
    assert command
    _, *words = shlex.split(command[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(words) == 0
        bundle = Bundle(Path("my-model"))
        assert bundle.config.output.values == 180
        image, values = galaxies(bundle, 3)
        raw = load_engine("openvino", bundle, threads=1).predict(image, values)
        wanted = expected(Path("my_model.onnx"), image, values)
    np.testing.assert_allclose(raw, wanted, rtol=0, atol=1e-4)


def keys(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def test_the_page_names_every_key_of_the_config() -> None:
    from cosmicai.model import interface
    from cosmicai.model.onnx_config import Imported

    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    named = {key: set(re.findall(r"`(\w+)`", text)) for key, text in rows.items()}
    outputs = (
        interface.PointOutput, interface.PdfOutput, interface.NormalOutput,
        interface.QuantilesOutput, interface.MixtureOutput,
    )  # fmt: skip
    kinds = {output.model_fields["kind"].default for output in outputs}
    assert named["inputs.image"] == keys(interface.ImageInput)
    assert named["inputs.magnitude"] == keys(interface.MagnitudeInput)
    assert named["inputs.scalars"] == keys(interface.ScalarInput)
    assert named["imported"] == keys(Imported)
    assert named["training"] == keys(interface.Training)
    assert set().union(*map(keys, outputs)) | kinds <= named["output"]
    assert keys(OnnxConfig) == {"architecture", "inputs", "output", "training", "imported"}
    assert keys(ModelConfig) >= {"architecture", "inputs", "output", "training"}


def test_the_json_of_the_page_is_a_config(tmp_path: Path) -> None:
    block = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block
    path = plain(tmp_path)
    bundle = import_onnx(path, tmp_path / "b", Choices(config=json.loads(block[1]))).bundle
    assert bundle.config.inputs.magnitude is not None
    assert bundle.config.inputs.magnitude.offset == 18
