"""The prepared model as three OpenVINO graphs.

``front`` cuts and embeds the image, ``block`` is one transformer block, ``rear`` is the last
block with everything after and beside the blocks. A block's tensors are inputs of its graph, so
one graph, compiled once, serves every block: compiling, the largest part of a cold start, takes a
third of the time of one graph for all; and the Winograd kernels, nine tenths of the model, stay
where they are, mapped from their file, instead of being packed into a second copy. Measured, the
products are as fast.

Built from OpenVINO's operators, without PyTorch or an exported file. B is dynamic in every graph:
a fixed one was not faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cosmicai.engines.quiet_openvino import op, ov
from cosmicai.facts import BANDS, IMAGE_SIZE
from cosmicai.model.config import GRID, PATCH_SIZE, PATCHES, TOKENS
from cosmicai.model.winograd import PRODUCTS

if TYPE_CHECKING:
    from openvino import Node

    from cosmicai.model.config import ModelConfig
    from cosmicai.model.prepare import Tensors

BLOCK_TENSORS = (
    "conv1.winograd",
    "conv1.bias",
    "conv2.winograd",
    "conv2.bias",
    *(f"{layer}.{part}" for layer in ("qkv", "proj", "fc1", "fc2") for part in ("weight", "bias")),
)
"""What a block's graph takes after its other inputs, in this order."""


class GraphBuilder:
    """Builds the graphs of one model from its prepared tensors."""

    def __init__(self, tensors: Tensors, config: ModelConfig) -> None:
        self._tensors = tensors
        self._config = config

    def front(self) -> ov.Model:
        """Return the graph: image (B, 5, 32, 32) → tokens (17, B, width)."""
        image = _image()
        return ov.Model([op.result(self._embed(image))], [image], "front")

    def block(self) -> ov.Model:
        """Return the graph: tokens, the tensors of a block → tokens."""
        tokens, own = self._tokens(), self._block_inputs()
        result = self._block(tokens, own, last=False)
        return ov.Model([op.result(result)], [tokens, *own.values()], "block")

    def rear(self) -> ov.Model:
        """Return the graph: tokens, image, magnitude, tensors of the last block → (B, outputs)."""
        tokens, image, own = self._tokens(), _image(), self._block_inputs()
        magnitude = op.parameter([-1, BANDS], np.float32, name="magnitude")
        encoded = self._layer_norm(self._block(tokens, own, last=True))
        features = [
            op.relu(self._linear(encoded, "encoder")),
            self._inception(image),
            self._magnitudes(magnitude),
        ]
        joint = op.relu(self._linear(op.concat(features, 1), "joint"))
        output = self._linear(joint, "output")
        inputs = [tokens, image, magnitude, *own.values()]
        return ov.Model([op.result(output)], inputs, "rear")

    def _tokens(self) -> Any:
        return op.parameter([TOKENS, -1, self._config.width], np.float32, name="tokens")

    def _block_inputs(self) -> dict[str, Any]:
        return {
            name: op.parameter(list(self._tensors[f"blocks.0.{name}"].shape), np.float32, name=name)
            for name in BLOCK_TENSORS
        }

    def _constant(self, name: str, *shape: int) -> Node:
        array = self._tensors[name]
        # Shared, not copied: the engine keeps the tensors.
        return op.constant(array.reshape(shape) if shape else array, shared_memory=True)

    def _linear(self, x: Node, name: str) -> Node:
        product = op.matmul(x, self._constant(f"{name}.weight"), False, True)
        return op.add(product, self._constant(f"{name}.bias"))

    def _layer_norm(self, x: Node) -> Node:
        return op.mvn(x, _shape(-1), True, self._config.norm_eps, "inside_sqrt")

    # -- the encoder branch: tokens are (17, B, width), the class token first -----------------

    def _embed(self, image: Node) -> Node:
        width = self._config.width
        cut = op.reshape(image, _shape(-1, BANDS, GRID, PATCH_SIZE, GRID, PATCH_SIZE), False)
        patches = op.transpose(cut, _shape(2, 4, 0, 1, 3, 5))
        patches = op.reshape(patches, _shape(PATCHES, -1, BANDS * PATCH_SIZE**2), False)
        patches = op.matmul(patches, self._constant("patch.weight"), False, True)
        patches = op.add(patches, self._constant("patch.position"))
        batch = op.gather(op.shape_of(image), _shape(0), op.constant(np.int64(0)))
        shape = op.concat([_shape(1), batch, _shape(width)], 0)
        return op.concat([op.broadcast(self._constant("class_token"), shape), patches], 0)

    def _block(self, tokens: Node, own: dict[str, Any], *, last: bool) -> Node:
        convolved = self._convolutions(tokens, own)
        attended = _apply(self._attention(self._layer_norm(tokens), own), own, "proj")
        tokens = op.add(op.add(tokens, attended), convolved)
        if last:
            # Only the patches' mean goes on: the class token stops here, and the mean, being
            # linear, is taken before the MLP's second layer instead of after it.
            tokens = op.slice(tokens, _shape(1), _shape(TOKENS), _shape(1), _shape(0))
        hidden = _apply(self._layer_norm(tokens), own, "fc1")
        hidden = op.gelu(hidden, "erf")
        if last:
            hidden = op.reduce_mean(hidden, _shape(0), False)
            tokens = op.reduce_mean(tokens, _shape(0), False)
        return op.add(tokens, _apply(hidden, own, "fc2"))

    def _convolutions(self, tokens: Node, own: dict[str, Any]) -> Node:
        width, hidden = self._config.width, self._config.conv_width
        y = self._winograd(tokens, own["conv1.winograd"], width, hidden)
        # The class token's row of the result is never read: its column of the next input
        # transform is zero.
        y = op.add(y, own["conv1.bias"])
        y = op.swish(y)
        y = self._winograd(y, own["conv2.winograd"], hidden, width)
        return op.add(y, own["conv2.bias"])

    def _winograd(self, tokens: Node, kernel: Node, inputs: int, outputs: int) -> Node:
        points = op.matmul(
            self._constant("winograd.input"),
            op.reshape(tokens, _shape(TOKENS, -1), False),
            False,
            False,
        )
        points = op.reshape(points, _shape(PRODUCTS, -1, inputs), False)
        products = op.matmul(points, kernel, False, False)
        products = op.reshape(products, _shape(PRODUCTS, -1), False)
        mixed = op.matmul(self._constant("winograd.output"), products, False, False)
        return op.reshape(mixed, _shape(TOKENS, -1, outputs), False)

    def _attention(self, tokens: Node, own: dict[str, Any]) -> Node:
        config = self._config
        qkv = _apply(tokens, own, "qkv")
        qkv = op.reshape(qkv, _shape(TOKENS, -1, 3, config.heads, config.head_dim), False)
        # 3, B, heads, tokens, head_dim
        qkv = op.transpose(qkv, _shape(2, 1, 3, 0, 4))
        parts = op.split(qkv, op.constant(np.int64(0)), 3).outputs()
        q, k, v = (op.squeeze(part, _shape(0)) for part in parts)
        one = op.constant(np.float32(1.0))  # the scale is part of q already
        mixed = op.scaled_dot_product_attention(q, k, v, None, one)
        mixed = op.transpose(mixed, _shape(2, 0, 1, 3))
        return op.reshape(mixed, _shape(TOKENS, -1, config.width), False)

    # -- the inception and magnitude branches ----------------------------------------------------

    def _inception(self, image: Node) -> Node:
        maps = _average_pool(image)
        last = len(self._config.inception_widths) - 1
        for block in range(last + 1):
            maps = self._inception_block(maps, block, last=block == last)
            if block in (1, 3):
                maps = _average_pool(maps)
        flat = op.reshape(maps, _shape(-1, self._config.inception_features), False)
        return op.relu(self._linear(flat, "inception"))

    def _inception_block(self, maps: Node, block: int, *, last: bool) -> Node:
        name = f"inception.{block}"
        point = op.relu(self._convolution(maps, f"{name}.point"))
        first, *firsts = op.split(point, op.constant(np.int64(1)), 2 if last else 3).outputs()
        branches = [first, op.relu(self._convolution(firsts[0], f"{name}.conv3"))]
        if not last:
            branches.append(op.relu(self._convolution(firsts[1], f"{name}.conv5")))
        # A maximum cannot move past the stem, so here the stem is still a layer of its own.
        pooled = _max_pool(self._convolution(maps, "stem") if block == 0 else maps)
        branches.append(op.relu(self._convolution(pooled, f"{name}.pool")))
        return op.concat(branches, 1)

    def _convolution(self, maps: Any, name: str) -> Node:
        side = self._tensors[f"{name}.weight"].shape[-1]
        pad = [side // 2, side // 2]
        weight = self._constant(f"{name}.weight")
        convolved = op.convolution(maps, weight, [1, 1], pad, pad, [1, 1])
        return op.add(convolved, self._constant(f"{name}.bias", 1, -1, 1, 1))

    def _magnitudes(self, magnitude: Node) -> Node:
        x = magnitude
        for layer in range(4):
            x = op.relu(self._linear(x, f"magnitude.{layer}"))
        return x


def _image() -> Any:
    return op.parameter([-1, BANDS, IMAGE_SIZE, IMAGE_SIZE], np.float32, name="image")


def _apply(x: Node, own: dict[str, Any], layer: str) -> Node:
    """Apply a linear layer of a block, whose tensors are inputs of the graph."""
    product = op.matmul(x, own[f"{layer}.weight"], False, True)
    return op.add(product, own[f"{layer}.bias"])


def _shape(*sizes: int) -> Node:
    return op.constant(np.array(sizes, np.int64))


def _average_pool(maps: Node) -> Any:
    return op.avg_pool(maps, [2, 2], [0, 0], [0, 0], [2, 2], False)


def _max_pool(maps: Node) -> Any:
    pooled = op.max_pool(maps, [1, 1], [1, 1], [1, 1], [1, 1], [3, 3])
    return pooled.output(0)
