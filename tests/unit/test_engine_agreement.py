"""Every engine predicts what the plain module does, on ordinary and on extreme input."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cosmicai.engines import torch_engine
from cosmicai.engines.base import chunks, load_engine
from cosmicai.engines.registry import galaxies_at_once
from cosmicai.errors import InvalidInput, ModelMismatch
from cosmicai.machine import multiplies_bfloat16, processor_features
from cosmicai.model.bundle import Bundle, save_tensors
from cosmicai.model.config import ModelConfig
from cosmicai.model.prepare import PREPARED_NAME, build_prepared, prepare, write_prepared
from cosmicai_workbench.cli.model import app
from model_fill import SHARED_MODEL, SMALL, SMALL_MIXTURE, filled_bundle, galaxies
from threadpoolctl import threadpool_info
from typer.testing import CliRunner

PREPARED = ("torch", "openvino")
"""Engines that use the prepared file; the native one starts from the bundle."""
FAST = ("native", *PREPARED)


def loaded(bundle):
    """Return the prepared tensors that an engine of the bundle gets."""
    return build_prepared(bundle, lambda tensors: tensors, threads=1)


@pytest.fixture(scope="module", params=[SMALL, SMALL_MIXTURE], ids=["point", "mixture"])
def bundle(request, tmp_path_factory):
    return filled_bundle(request.param, tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def engines(bundle):
    return {name: load_engine(name, bundle.path, threads=1) for name in ("plain", *FAST)}


def inputs():
    image, magnitude = galaxies(5)
    one = np.ones_like(image)
    yield "galaxies", image, magnitude
    yield "black", 0 * one, magnitude
    yield "constant", 3 * one, magnitude
    yield "negative", -image, magnitude
    yield "bright", 1e4 * image, magnitude
    yield "denormal", np.float32(1e-39) * one, magnitude
    yield "faint magnitudes", image, magnitude + 80
    yield "zero magnitudes", image, 0 * magnitude
    yield "negative magnitudes", image, -magnitude


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(("case", "image", "magnitude"), list(inputs()), ids=lambda v: str(v)[:19])
def test_agrees_with_the_plain_engine(name, case, image, magnitude, engines):
    expected = engines["plain"].predict(image, magnitude)
    found = engines[name].predict(image, magnitude)
    # 1e-4 in redshift; where the input is so extreme that the output is, as many digits.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED_MODEL.is_dir(), reason="../shared/model is absent")
@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("depth", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_agrees_with_the_golden_vectors(name, depth, tmp_path):
    engine = load_engine(name, filled_bundle(ModelConfig(depth=depth), tmp_path).path, threads=2)
    golden = np.load(SHARED_MODEL / "golden_vectors.npz")
    predicted = engine.predict(golden["image"], golden["magnitude"])
    expected = golden[f"depth{depth}_heads4_redshift"]
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAST)
def test_any_batch_size_gives_the_same_redshifts(name, engines):
    image, magnitude = galaxies(300)
    together = engines[name].predict(image, magnitude)
    for size in (1, 7, 129):
        apart = engines[name].predict(image[:size], magnitude[:size])
        np.testing.assert_allclose(apart, together[:size], rtol=1e-5, atol=1e-5)
    assert engines[name].predict(image[:0], magnitude[:0]).shape == together[:0].shape


@pytest.mark.parametrize("name", FAST)
def test_takes_arrays_that_are_read_only_or_views(name, engines):
    image, magnitude = galaxies(6)
    expected = engines[name].predict(image[::2].copy(), magnitude[::2].copy())
    image.flags.writeable = magnitude.flags.writeable = False
    found = engines[name].predict(image[::2], magnitude[::2])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(
    not multiplies_bfloat16(processor_features()), reason="the processor does not multiply bfloat16"
)
def test_bfloat16_is_an_option_of_torch_and_less_accurate(bundle, engines):
    image, magnitude = galaxies(32)
    expected = engines["plain"].predict(image, magnitude)
    reduced = load_engine("torch", bundle.path, threads=1, precision="bfloat16")
    error = np.abs(reduced.predict(image, magnitude) - expected).max()
    assert 1e-6 < error < 0.1
    with pytest.raises(InvalidInput, match="float32 only"):
        load_engine("openvino", bundle.path, threads=1, precision="bfloat16")


@pytest.mark.parametrize(
    ("features", "native"),
    [
        ({"avx2", "fma"}, False),
        ({"avx2", "avx512f", "avx512vl"}, False),
        ({"asimd", "fphp"}, False),
        ({"avx512f", "avx512_bf16"}, True),
        ({"avx512f", "amx_bf16", "amx_tile"}, True),
        ({"asimd", "bf16"}, True),
    ],
)
def test_bfloat16_is_refused_where_the_processor_does_not_multiply_it(
    bundle, monkeypatch, features, native
):
    monkeypatch.setattr(torch_engine, "processor_features", lambda: frozenset(features))
    if native:
        assert load_engine("torch", bundle.path, threads=1, precision="bfloat16").name == "torch"
        return
    with pytest.raises(InvalidInput, match=r"does not multiply it natively .* use float32"):
        load_engine("torch", bundle.path, threads=1, precision="bfloat16")


def test_openvino_needs_no_torch(bundle):
    code = f"""
import sys; sys.modules["torch"] = None  # importing it would raise
import numpy as np, pathlib
from cosmicai.engines.base import load_engine
engine = load_engine("openvino", pathlib.Path({str(bundle.path)!r}), threads=1)
print(engine.predict(np.ones((2, 5, 32, 32), np.float32), np.ones((2, 5), np.float32)).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    values = bundle.config.output.values
    assert done.stdout.strip() == ("(2,)" if values == 1 else f"(2, {values})"), done.stderr


# -- prepared files -------------------------------------------------------------------------------


def test_the_prepared_file_is_what_preparing_gives_and_deterministic(tmp_path):
    bundle = filled_bundle(SMALL, tmp_path / "bundle")
    path = write_prepared(bundle, bundle.path)
    again = write_prepared(bundle, tmp_path / "again")

    assert path.read_bytes() == again.read_bytes()
    mapped, prepared = loaded(bundle), prepare(bundle, threads=2)
    assert mapped.keys() == prepared.keys()
    for name, array in prepared.items():
        np.testing.assert_array_equal(mapped[name], array)


def test_the_command_prepares_a_bundle_in_place(tmp_path):
    bundle = filled_bundle(SMALL, tmp_path)
    result = CliRunner().invoke(app, ["prepare", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    path = Path(json.loads(result.stdout)["path"])
    assert path == tmp_path / PREPARED_NAME
    assert loaded(bundle).keys() == prepare(bundle).keys()


def test_the_prepared_file_is_a_safetensors_file(tmp_path):
    from safetensors.numpy import load_file

    bundle = filled_bundle(SMALL, tmp_path)
    tensors = load_file(write_prepared(bundle, tmp_path))
    np.testing.assert_array_equal(tensors["blocks.1.fc1.weight"].shape, (40, 24))


@pytest.mark.parametrize("name", PREPARED)
def test_engines_use_the_prepared_file(name, tmp_path, caplog):
    caplog.set_level(logging.INFO, "cosmicai.model.prepare")
    bundle = filled_bundle(SMALL, tmp_path)
    image, magnitude = galaxies(3)
    prepared_now = load_engine(name, bundle.path, threads=1).predict(image, magnitude)
    assert f"has no {PREPARED_NAME}" in caplog.text
    caplog.clear()
    write_prepared(bundle, bundle.path)

    mapped = load_engine(name, bundle.path, threads=1).predict(image, magnitude)

    assert not caplog.text
    np.testing.assert_array_equal(mapped, prepared_now)


def test_a_prepared_file_of_another_architecture_is_not_used(tmp_path, caplog):
    other = filled_bundle(SMALL.model_copy(update={"depth": 1}), tmp_path / "other")
    bundle = filled_bundle(SMALL, tmp_path / "bundle")
    write_prepared(other, bundle.path)
    assert "blocks.1.qkv.weight" in loaded(Bundle(bundle.path))
    assert "was made from another model" in caplog.text


@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_file_of_other_weights_predicts_nothing(name, tmp_path, caplog):
    bundle = filled_bundle(SMALL, tmp_path / "bundle")
    image, magnitude = galaxies(3)
    expected = load_engine(name, bundle.path, threads=1).predict(image, magnitude)
    state = bundle.tensors()
    other = save_tensors(SMALL, state | {"cls_token": state["cls_token"] + 1}, tmp_path / "other")
    write_prepared(other, bundle.path)

    found = load_engine(name, bundle.path, threads=1).predict(image, magnitude)

    np.testing.assert_array_equal(found, expected)
    assert "was made from another model" in caplog.text


def test_preparing_leaves_blas_its_threads(tmp_path):
    bundle = filled_bundle(SMALL, tmp_path)

    def blas_threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = blas_threads()
    prepare(bundle)
    assert before
    assert blas_threads() == before


def test_a_damaged_prepared_file_says_so(tmp_path):
    bundle = filled_bundle(SMALL, tmp_path)
    path = write_prepared(bundle, tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelMismatch, match="run it again"):
        loaded(bundle)


def flipped(content):
    content[-1000] ^= 64
    return content


def swapped_names(content):
    """Two tensors of one shape under each other's name."""
    return (
        content.replace(b'"magnitude.1.', b'"magnitude.?.')
        .replace(b'"magnitude.2.', b'"magnitude.1.')
        .replace(b'"magnitude.?.', b'"magnitude.2.')
    )


def shifted(content):
    """A header that places every tensor elsewhere in the file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    entry, other = header["output.bias"], header["joint.bias"]
    entry["data_offsets"] = [other["data_offsets"][0], other["data_offsets"][0] + 4]
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    return content[:8] + text + content[8 + length :]


@pytest.mark.parametrize("damage", [flipped, swapped_names, shifted])
@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_file_that_was_damaged_predicts_nothing(name, damage, tmp_path, caplog):
    bundle = filled_bundle(SMALL, tmp_path)
    image, magnitude = galaxies(3)
    expected = load_engine(name, bundle.path, threads=1).predict(image, magnitude)
    path = write_prepared(bundle, bundle.path)
    content = path.read_bytes()
    damaged = bytes(damage(bytearray(content)))
    assert damaged != content
    path.write_bytes(damaged)

    found = load_engine(name, bundle.path, threads=1).predict(image, magnitude)

    np.testing.assert_array_equal(found, expected)
    assert "was damaged since it was made" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, (2).to_bytes(8, "little") + b"[]"])
def test_a_prepared_file_that_is_none_says_so(content, tmp_path):
    bundle = filled_bundle(SMALL, tmp_path)
    write_prepared(bundle, tmp_path).write_bytes(content)
    with pytest.raises(ModelMismatch, match="run it again"):
        loaded(bundle)


def test_small_batches_are_computed_together():
    assert [galaxies_at_once("openvino", size) for size in (1, 32, 96, 128, 200, 512)] == [
        128, 128, 192, 128, 200, 512,
    ]  # fmt: skip
    assert galaxies_at_once("plain", 32) == 32


def test_chunks_cover_everything_in_nearly_equal_parts():
    for count in (0, 1, 127, 128, 129, 511, 512):
        parts = list(chunks(count, 128))
        assert [i for part in parts for i in range(count)[part]] == list(range(count))
        sizes = [len(range(count)[part]) for part in parts]
        assert max(sizes, default=0) <= 128
        assert max(sizes, default=0) - min(sizes, default=0) <= 1
