"""Name, shape and dtype of every tensor that an architecture's state dict holds.

Written out beside the PyTorch module because engines without PyTorch check and read
bundles too; a test holds the two together.
"""

from collections.abc import Iterator
from typing import NamedTuple

from cosmicai.facts import BANDS, MB
from cosmicai.model.config import MAGNITUDE_LAYERS, PATCH_SIZE, TOKENS, ModelConfig

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
GRAPH_NAME = "model.xml"
CONSTANTS_NAME = "model.bin"
CALIBRATION_NAME = "calibration.json"
"""An optional file of a bundle, of whatever architecture."""
MAX_CONFIG_BYTES = MB
MAX_GRAPH_BYTES = 16 * MB
"""Of ``model.xml``."""
MAX_CONSTANT_BYTES = 400 * MB
"""Of ``model.bin``: a function's /tmp, which holds a bundle while it loads, has 512 MB."""
MAX_CALIBRATION_BYTES = 64 * MB
MAX_HEADER_BYTES = 16 * MB
"""Of the JSON that ``model.safetensors`` begins with."""

SAFETENSORS_DTYPES = {
    "F32": "float32",
    "F64": "float64",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
}
"""NumPy's names of the dtypes in a safetensors header."""

INCEPTION_POSITIONS = (2, 3, 5, 6, 8)
"""Where the inception blocks stand in ``inception_model.vis_inception``."""

STEM = "inception_model.vis_inception.0"
STEM_ALIAS = "inception_model.conv2d_init"
"""A second name of the stem; both hold the same tensor."""


class TensorSpec(NamedTuple):
    """Shape and dtype (NumPy's name) of one tensor."""

    shape: tuple[int, ...]
    dtype: str = "float32"


Entries = Iterator[tuple[str, TensorSpec]]


def state_dict_layout(config: ModelConfig) -> dict[str, TensorSpec]:
    """Return the layout of a state dict, in the order of the reference's."""
    width = config.width
    entries = [
        ("cls_token", TensorSpec((1, 1, width))),
        ("pos_embed", TensorSpec((1, TOKENS, width))),
        *_scale_and_shift("fc_norm", width),
        *_affine("head", width, width),
        *_inception_model(config),
    ]
    for block in range(config.depth):
        entries += _block(f"blocks.{block}", config)
    entries += _affine("patch_embed.proj", width, BANDS, PATCH_SIZE, PATCH_SIZE)
    entries += _affine("vit_block.0", config.branch_width, width)
    entries += _affine("vit_block.2", config.branch_width, config.branch_width)
    entries += _affine("concat_block.0", config.head_width, config.concat_width)
    entries += _affine("concat_block.2", config.output.values, config.head_width)
    return dict(entries)


def _scale_and_shift(name: str, width: int) -> Entries:
    yield f"{name}.weight", TensorSpec((width,))
    yield f"{name}.bias", TensorSpec((width,))


def _affine(name: str, *shape: int) -> Entries:
    yield f"{name}.weight", TensorSpec(shape)
    yield f"{name}.bias", TensorSpec(shape[:1])


def _batch_norm(name: str, width: int) -> Entries:
    yield from _scale_and_shift(name, width)
    yield f"{name}.running_mean", TensorSpec((width,))
    yield f"{name}.running_var", TensorSpec((width,))
    yield f"{name}.num_batches_tracked", TensorSpec((), "int64")


def _conv_block(name: str, *shape: int) -> Entries:
    yield from _affine(f"{name}.conv", *shape)
    yield from _batch_norm(f"{name}.bn", shape[0])


def _inception_model(config: ModelConfig) -> Entries:
    yield from _affine(STEM_ALIAS, config.stem_width, BANDS, 1, 1)
    magnitude, inputs = config.magnitude_width, BANDS
    for layer in range(MAGNITUDE_LAYERS):
        yield from _affine(f"inception_model.magnitude_block.{2 * layer}", magnitude, inputs)
        inputs = magnitude
    yield from _affine(STEM, config.stem_width, BANDS, 1, 1)
    for position, channels, width in zip(
        INCEPTION_POSITIONS, config.inception_inputs, config.inception_widths, strict=True
    ):
        name = f"inception_model.vis_inception.{position}"
        yield from _conv_block(f"{name}.branch1", width, channels, 1, 1)
        yield from _conv_block(f"{name}.branch2.0", width, channels, 1, 1)
        yield from _conv_block(f"{name}.branch2.1", width, width, 3, 3)
        yield from _conv_block(f"{name}.branch3.0", width, channels, 1, 1)
        yield from _conv_block(f"{name}.branch3.1", width, width, 5, 5)
        yield from _conv_block(f"{name}.branch4.1", width, channels, 1, 1)
    branch = config.branch_width
    yield from _affine("inception_model.vis_inception.10", branch, config.inception_features)
    yield from _affine("inception_model.vis_inception.12", branch, branch)


def _block(name: str, config: ModelConfig) -> Entries:
    width, hidden = config.width, config.conv_width
    yield from _scale_and_shift(f"{name}.norm1", width)
    yield f"{name}.attn.q_bias", TensorSpec((width,))
    yield f"{name}.attn.v_bias", TensorSpec((width,))
    yield f"{name}.attn.qkv.weight", TensorSpec((3 * width, width))
    yield from _affine(f"{name}.attn.proj", width, width)
    yield from _scale_and_shift(f"{name}.norm2", width)
    yield from _affine(f"{name}.mlp.fc1", config.mlp_width, width)
    yield from _affine(f"{name}.mlp.fc2", width, config.mlp_width)
    yield from _affine(f"{name}.PCM.0", hidden, width, 3, 3)
    yield from _batch_norm(f"{name}.PCM.1", hidden)
    yield from _affine(f"{name}.PCM.3", width, hidden, 3, 3)
