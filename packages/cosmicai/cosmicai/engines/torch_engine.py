"""The prepared model in PyTorch: the same rewrites where PyTorch is the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cosmicai.engines.base import check_batch, chunks, one_or_more
from cosmicai.engines.registry import CHUNK
from cosmicai.errors import InvalidInput
from cosmicai.facts import BANDS
from cosmicai.machine import multiplies_bfloat16, processor_features
from cosmicai.model.config import GRID, PATCH_SIZE, PATCHES, TOKENS
from cosmicai.model.prepare import Tensors, build_prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmicai.model.bundle import Bundle
    from cosmicai.model.config import ModelConfig


GPU_CHUNK = 2048
"""Galaxies computed at once on a GPU: enough to fill it."""


class TorchEngine:
    """The prepared graph, eagerly; tokens are (17, B, width), the class token first.

    In bfloat16 the blocks' large products are; everything else, notably the magnitudes' first
    layer, whose large weights cancel, stays float32.
    """

    name = "torch"

    def __init__(
        self,
        tensors: Tensors,
        config: ModelConfig,
        threads: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        torch.set_num_threads(threads)
        self._device = device
        self._chunk = CHUNK if device.type == "cpu" else GPU_CHUNK
        self._config = config
        self._inputs = config.inputs
        self._dtype = dtype
        self._tensors = _as_tensors(tensors, dtype, device)

    def predict(
        self, image: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See ``cosmicai.engines.base.Engine.predict``."""
        check_batch(image, values, self._inputs)
        output = np.empty((len(image), self._config.output.values), np.float32)
        # Convolutions on a GPU would otherwise be rounded to ten bits (TF32).
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for part in chunks(len(image), self._chunk):
                # Copies, because kernels are chosen by alignment and differ in the last bit.
                given = (
                    torch.tensor(array[part], device=self._device) for array in (image, values)
                )
                output[part] = self._forward(*given).cpu().numpy()
        return one_or_more(output)

    def _forward(self, image: Tensor, magnitude: Tensor) -> Tensor:
        encoded = functional.relu_(self._linear(self._encoder(image), "encoder"))
        features = [encoded, self._inception(image), self._magnitudes(magnitude)]
        joint = functional.relu_(self._linear(torch.cat(features, 1), "joint"))
        return self._linear(joint, "output")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return functional.linear(x.to(weight.dtype), weight, bias)

    def _layer_norm(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], eps=self._config.norm_eps)

    def _encoder(self, image: Tensor) -> Tensor:
        tokens = self._embed(image)
        last = self._config.depth - 1
        for block in range(self._config.depth):
            tokens = self._block(tokens, f"blocks.{block}", last=block == last)
        return self._layer_norm(tokens)

    def _embed(self, image: Tensor) -> Tensor:
        batch = len(image)
        cut = image.reshape(batch, BANDS, GRID, PATCH_SIZE, GRID, PATCH_SIZE)
        patches = cut.permute(2, 4, 0, 1, 3, 5).reshape(PATCHES, batch, -1)
        patches = functional.linear(patches, self._tensors["patch.weight"])
        patches += self._tensors["patch.position"]
        return torch.cat((self._tensors["class_token"].expand(1, batch, -1), patches))

    def _block(self, tokens: Tensor, name: str, *, last: bool) -> Tensor:
        convolved = self._convolutions(tokens, name)
        attended = self._attention(self._layer_norm(tokens), name)
        tokens = convolved.add_(tokens).add_(self._linear(attended, f"{name}.proj"))
        if last:
            # Only the patches' mean goes on: the class token stops here, and the mean, being
            # linear, is taken before the MLP's second layer instead of after it.
            tokens = tokens[1:]
        hidden = functional.gelu(self._linear(self._layer_norm(tokens), f"{name}.fc1"))
        if last:
            hidden, tokens = hidden.mean(0), tokens.mean(0)
        return tokens + self._linear(hidden, f"{name}.fc2")

    def _convolutions(self, tokens: Tensor, name: str) -> Tensor:
        # The class token's row of the first result is never read: its column of the next input
        # transform is zero.
        y = self._winograd(tokens, f"{name}.conv1.winograd")
        y = functional.silu(y.add_(self._tensors[f"{name}.conv1.bias"]), inplace=True)
        y = self._winograd(y, f"{name}.conv2.winograd")
        return y.add_(self._tensors[f"{name}.conv2.bias"])

    def _winograd(self, tokens: Tensor, kernel: str) -> Tensor:
        _, batch, channels = tokens.shape
        points = self._tensors["winograd.input"] @ tokens.reshape(TOKENS, -1)
        points = points.view(-1, batch, channels).to(self._dtype)
        products = torch.bmm(points, self._tensors[kernel]).view(len(points), -1).float()
        return (self._tensors["winograd.output"] @ products).view(TOKENS, batch, -1)

    def _attention(self, tokens: Tensor, name: str) -> Tensor:
        _, batch, width = tokens.shape
        qkv = self._linear(tokens, f"{name}.qkv").view(TOKENS, batch, 3, self._config.heads, -1)
        q, k, v = qkv.permute(2, 1, 3, 0, 4)
        # The scale is part of q already.
        mixed = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        return mixed.permute(2, 0, 1, 3).reshape(TOKENS, batch, width)

    def _inception(self, image: Tensor) -> Tensor:
        # Channels last: PyTorch's pooling is vectorised over channels alone.
        maps = functional.avg_pool2d(image.contiguous(memory_format=torch.channels_last), 2)
        last = len(self._config.inception_widths) - 1
        for block in range(last + 1):
            maps = self._inception_block(maps, block, last=block == last)
            if block in (1, 3):
                maps = functional.avg_pool2d(maps, 2)
        return functional.relu_(self._linear(maps.flatten(1), "inception"))

    def _inception_block(self, maps: Tensor, block: int, *, last: bool) -> Tensor:
        name = f"inception.{block}"
        point = functional.relu_(self._convolution(maps, f"{name}.point"))
        first, *firsts = point.chunk(2 if last else 3, dim=1)
        branches = [first, functional.relu_(self._convolution(firsts[0], f"{name}.conv3"))]
        if not last:
            branches.append(functional.relu_(self._convolution(firsts[1], f"{name}.conv5")))
        # A maximum cannot move past the stem, so here the stem is still a layer of its own.
        source = self._convolution(maps, "stem") if block == 0 else maps
        pooled = functional.max_pool2d(source, 3, stride=1, padding=1)
        branches.append(functional.relu_(self._convolution(pooled, f"{name}.pool")))
        return torch.cat(branches, 1)

    def _convolution(self, maps: Tensor, name: str) -> Tensor:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return functional.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2)

    def _magnitudes(self, magnitude: Tensor) -> Tensor:
        x = magnitude
        for layer in range(4):
            x = functional.relu_(self._linear(x, f"magnitude.{layer}"))
        return x


def create(bundle: Bundle, threads: int, precision: str, device: str = "cpu") -> TorchEngine:
    """Build the engine.

    Raises
    ------
    InvalidInput
        There is no such device here, PyTorch was built without it, or the processor does not
        multiply bfloat16.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(
            f"device cuda: PyTorch {torch.__version__} finds no NVIDIA GPU here; use device cpu"
        )
    if device == "cpu" and precision == "bfloat16":
        _require_bfloat16(processor_features())
    dtype: torch.dtype = getattr(torch, precision)
    return build_prepared(
        bundle,
        lambda tensors: TorchEngine(tensors, bundle.astromae, threads, dtype, torch.device(device)),
        threads=threads,
    )


def _require_bfloat16(features: frozenset[str] | None) -> None:
    if not multiplies_bfloat16(features):
        raise InvalidInput(
            "precision bfloat16: this processor does not multiply it natively (it lacks "
            "avx512_bf16, amx_bf16 and, on arm64, bf16), and emulating it takes a hundred times "
            "as long as float32; use float32"
        )


def _as_tensors(prepared: Tensors, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Return the prepared tensors, on the CPU uncopied; in ``dtype`` the blocks' products."""
    reduced = (".winograd", ".qkv.", ".proj.", ".fc1.", ".fc2.")
    tensors = {}
    for name in list(prepared):
        tensor = torch.from_numpy(prepared.pop(name))  # popped: a converted one frees its source
        is_reduced = any(part in name for part in reduced)
        tensors[name] = tensor.to(device, dtype if is_reduced else torch.float32)
    return tensors
