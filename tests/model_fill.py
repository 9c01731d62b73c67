"""Deterministic parameters for tests: the values depend on a tensor's name and shape alone.

The same rule as ``../shared/model/fill_parameters.py``, which made the golden vectors.
"""

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from cosmicai.model.bundle import Bundle, save_tensors
from cosmicai.model.config import ModelConfig
from cosmicai.model.interface import MixtureOutput
from cosmicai.model.layout import STEM, STEM_ALIAS, state_dict_layout
from numpy.typing import NDArray

SMALL = ModelConfig(
    depth=2,
    width=24,
    heads=3,
    mlp_width=40,
    conv_width=36,
    branch_width=28,
    magnitude_width=20,
    head_width=18,
    stem_width=6,
    inception_widths=(4, 5, 3, 3, 2),
)
"""Every width another number, so that a mix-up of two cannot pass."""

SMALL_MIXTURE = SMALL.model_copy(update={"output": MixtureOutput(components=7)})
"""21 outputs: more than a vector of any processor holds, and no whole number of them."""


def calibrated_cell(lower: float, upper: float) -> dict[str, Any]:
    return {
        "galaxies": 500,
        "level68": {"lower": lower, "upper": upper, "coverage": 0.68},
        "level95": {"lower": 2 * lower, "upper": 2 * upper, "coverage": 0.95},
    }


CALIBRATION = {
    "redshift_edges": [0.2],
    "magnitude_edges": [17.0, 18.0],
    "cell_of": [[0, 0, 0], [1, 1, 2]],
    "cells": [
        calibrated_cell(-0.01, 0.02),
        calibrated_cell(-0.02, 0.02),
        calibrated_cell(-0.03, 0.04),
    ],
    "labelled": {"galaxies": 1500},
}

SHARED_MODEL = Path(__file__).parents[1] / ".." / "shared" / "model"


def fill(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if name.endswith("running_var"):
        return (0.5 + rng.random(shape)).astype(np.float32)
    noise = rng.standard_normal(shape)
    if name.endswith("running_mean"):
        return (0.1 * noise).astype(np.float32)
    if len(shape) >= 2 and name not in ("cls_token", "pos_embed"):
        return (noise / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
    if len(shape) == 1 and name.endswith(".weight"):
        return (1.0 + 0.1 * noise).astype(np.float32)
    return (0.1 * noise).astype(np.float32)


def filled_state(config: ModelConfig) -> dict[str, NDArray[Any]]:
    state = {name: fill(name, spec.shape) for name, spec in state_dict_layout(config).items()}
    for part in ("weight", "bias"):  # two names of one tensor
        state[f"{STEM_ALIAS}.{part}"] = state[f"{STEM}.{part}"]
    return state


def filled_bundle(config: ModelConfig, path: Path) -> Bundle:
    return save_tensors(config, filled_state(config), path)


def point_of(mixture: Path, path: Path) -> Bundle:
    """Write the model of a mixture as one that gives a point: the mean of the mixture's means."""
    bundle = Bundle(mixture)
    state = dict(bundle.tensors())
    for name in ("concat_block.2.weight", "concat_block.2.bias"):
        _, means, _ = np.split(state[name], 3)
        state[name] = means.mean(axis=0, keepdims=True)
    fields = bundle.config.model_dump(exclude={"output", "training"})
    return save_tensors(ModelConfig.model_validate(fields), state, path)


def galaxies(count: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Random images of plausible range and magnitudes around 18."""
    rng = np.random.default_rng(seed)
    image = rng.gamma(0.5, 2.0, (count, 5, 32, 32)).astype(np.float32)
    magnitude = rng.normal(18.0, 1.5, (count, 5)).astype(np.float32)
    return image, magnitude
