"""Bundles: what is written is read back; what does not match is refused by name."""

import json
import os
import re

import numpy as np
import pytest
from cosmicai.engines.base import load_engine
from cosmicai.errors import InvalidInput, ModelMismatch, ModelNotFound
from cosmicai.model.architectures import bundle_files
from cosmicai.model.bundle import Bundle, save_bundle, save_tensors
from cosmicai.model.config import ModelConfig
from cosmicai.model.interface import MixtureOutput, Training, sdss_inputs
from cosmicai.model.layout import (
    CALIBRATION_NAME,
    CONFIG_NAME,
    MAX_CALIBRATION_BYTES,
    WEIGHTS_NAME,
)
from model_fill import CALIBRATION, SMALL, filled_bundle, filled_state, galaxies


def test_a_module_survives_the_round_trip(tmp_path):
    first = filled_bundle(SMALL, tmp_path / "first")

    second = save_bundle(first.module(), tmp_path / "second")

    assert second.config == SMALL
    assert second.digest == first.digest
    for name, array in first.tensors().items():
        np.testing.assert_array_equal(second.tensors()[name], array)


def test_the_digest_names_the_weights_and_the_architecture(tmp_path):
    state = filled_state(SMALL)
    one = save_tensors(SMALL, state, tmp_path / "one")
    other_heads = save_tensors(SMALL.model_copy(update={"heads": 2}), state, tmp_path / "heads")
    state["head.bias"] = state["head.bias"] + 1
    other_weights = save_tensors(SMALL, state, tmp_path / "weights")
    assert len({one.digest, other_heads.digest, other_weights.digest}) == 3


def test_a_config_says_no_more_than_it_did_before_models_declared_their_output():
    found = json.loads(SMALL.to_json())
    assert found.keys() == ModelConfig.model_fields.keys() - {"inputs", "output", "training"}
    assert next(iter(found)) == "architecture"
    config = SMALL.model_copy(
        update={
            "output": MixtureOutput(components=3),
            "training": Training(galaxies=9, redshift=(0.0, 0.4), magnitude={"r": (14, 18)}),
        }
    )
    assert ModelConfig.model_validate_json(config.to_json()) == config
    stated = found | {"inputs": sdss_inputs().model_dump(mode="json")}
    assert ModelConfig.model_validate(stated) == SMALL
    stated["inputs"]["image"]["side"] = 64
    with pytest.raises(ValueError, match=r"inputs: an AstroMAE takes .* and nothing else"):
        ModelConfig.model_validate(stated)


def test_a_calibration_is_part_of_the_bundle(tmp_path):
    bundle = filled_bundle(SMALL, tmp_path)
    plain, file = bundle.digest, tmp_path / CALIBRATION_NAME
    file.write_text(json.dumps(CALIBRATION))
    calibrated = Bundle(tmp_path)
    assert calibrated.digest != plain
    assert calibrated.interface.has_intervals
    assert [path.name for path in bundle_files(tmp_path)] == [
        CONFIG_NAME,
        WEIGHTS_NAME,
        CALIBRATION_NAME,
    ]
    file.write_text("{}")
    with pytest.raises(
        ModelMismatch, match=r"is not a calibration: key 'cell_of' is missing; .*; remove it"
    ):
        _ = Bundle(tmp_path).interface
    os.truncate(file, MAX_CALIBRATION_BYTES + 1)
    with pytest.raises(ModelMismatch, match=r"calibration\.json has 67108865 bytes"):
        Bundle(tmp_path)
    file.unlink()
    assert Bundle(tmp_path).digest == plain
    file.write_text(json.dumps(CALIBRATION))
    assert not filled_bundle(SMALL, tmp_path).interface.has_intervals, "it was another model's"


@pytest.mark.parametrize("name", [CONFIG_NAME, WEIGHTS_NAME, CALIBRATION_NAME])
def test_a_file_of_an_absurd_size_is_refused_unread(tmp_path, name):
    filled_bundle(SMALL, tmp_path)
    (tmp_path / CALIBRATION_NAME).write_text(json.dumps(CALIBRATION))
    os.truncate(tmp_path / name, 500_000_000)
    with pytest.raises(ModelMismatch, match=rf"{name} .*at most \d+ .*expected"):
        Bundle(tmp_path)


@pytest.mark.parametrize("name", [CONFIG_NAME, WEIGHTS_NAME, CALIBRATION_NAME])
def test_an_empty_file_is_refused_by_name(tmp_path, name):
    filled_bundle(SMALL, tmp_path)
    (tmp_path / CALIBRATION_NAME).write_text(json.dumps(CALIBRATION))
    os.truncate(tmp_path / name, 0)
    with pytest.raises(ModelMismatch, match=re.escape(name)):
        _ = Bundle(tmp_path).digest


def test_a_wrong_architecture_names_what_differs(tmp_path):
    bundle = filled_bundle(SMALL, tmp_path)
    config = json.loads((bundle.path / CONFIG_NAME).read_text())
    (bundle.path / CONFIG_NAME).write_text(json.dumps(config | {"depth": 3, "mlp_width": 41}))

    with pytest.raises(ModelMismatch) as caught:
        Bundle(bundle.path)

    message = str(caught.value)
    assert "missing: blocks.2.norm1.weight" in message
    assert "blocks.0.mlp.fc1.weight is float32[40, 24], expected float32[41, 24]" in message


def test_an_unexpected_tensor_is_named(tmp_path):
    state = filled_state(SMALL) | {"decoder.weight": np.zeros(3, np.float32)}
    with pytest.raises(ModelMismatch, match=r"1 unexpected: decoder\.weight"):
        save_tensors(SMALL, state, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_wrong_dtype_is_named(tmp_path):
    state = filled_state(SMALL)
    state["head.bias"] = state["head.bias"].astype(np.float64)
    with pytest.raises(ModelMismatch, match=r"head.bias is float64\[24\], expected float32\[24\]"):
        save_tensors(SMALL, state, tmp_path)


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(ModelNotFound, match=f"found no {CONFIG_NAME}"):
        Bundle(tmp_path)


def test_a_config_without_weights_is_no_model(tmp_path):
    bundle = filled_bundle(SMALL, tmp_path)
    bundle.weights_path.unlink()
    with pytest.raises(ModelNotFound, match=f"found no {WEIGHTS_NAME}"):
        Bundle(tmp_path)


def test_truncated_weights_are_refused(tmp_path):
    bundle = filled_bundle(SMALL, tmp_path)
    whole = bundle.weights_path.read_bytes()
    bundle.weights_path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelMismatch, match="not a whole safetensors file"):
        Bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"heads": 5}, "width 24 is not divisible by heads 5"),
        ({"depth": 0}, "greater than 0"),
        ({"layers": 3}, "unknown key 'layers'"),
        ({"architecture": "ResNet"}, "AstroMAE"),
    ],
)
def test_a_bad_config_says_what_is_wrong(change, complaint, tmp_path):
    bundle = filled_bundle(SMALL, tmp_path)
    config = json.loads((bundle.path / CONFIG_NAME).read_text())
    (bundle.path / CONFIG_NAME).write_text(json.dumps(config | change))
    with pytest.raises(ModelMismatch, match=complaint):
        Bundle(bundle.path)


def test_the_defaults_are_the_full_architecture():
    config = ModelConfig()
    assert (config.depth, config.width, config.concat_width) == (12, 192, 3216)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "cuda"}, "engine 'cuda' is not one of native, openvino, torch, plain"),
        ({"precision": "int8"}, "precision 'int8' is not one of"),
        ({"precision": "bfloat16"}, "float32 only"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_engine_options_are_checked(options, complaint, tmp_path):
    bundle = filled_bundle(SMALL, tmp_path)
    arguments = {"name": "plain", "threads": 1} | options
    with pytest.raises(InvalidInput, match=complaint):
        load_engine(arguments.pop("name"), bundle.path, **arguments)


def test_a_batch_of_another_shape_is_refused(tmp_path):
    engine = load_engine("plain", filled_bundle(SMALL, tmp_path).path, threads=1)
    image, magnitude = galaxies(3)
    with pytest.raises(InvalidInput, match=r"image must be float32 \(B, 5, 32, 32\)"):
        engine.predict(image[:, :4], magnitude)
    with pytest.raises(InvalidInput, match="magnitude must be float32"):
        engine.predict(image, magnitude.astype(np.float64))
    with pytest.raises(InvalidInput, match="3 images but 2 magnitude vectors"):
        engine.predict(image, magnitude[:2])
