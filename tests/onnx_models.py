"""Models of other people's kind, small and untrained, and their export to ONNX."""

from __future__ import annotations

import contextlib
import io
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

BANDS, SIDE, BINS = 5, 64, 180
GRID = (0.0, 0.895)
"""Centres of the first and the last bin."""


def _pixels(image: Tensor) -> Tensor:
    return torch.sign(image) * torch.log(1 + image.abs())


def convolutions(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class PdfCnn(nn.Module):
    """Image and magnitudes → p(z) in 180 bins."""

    inputs = ("image", "mag")

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.convolutions = convolutions(BANDS, width, 2 * width, 4 * width)
        self.head = nn.Sequential(nn.Linear(4 * width + BANDS, 64), nn.GELU(), nn.Linear(64, BINS))

    def logits(self, image: Tensor, mag: Tensor) -> Tensor:
        features = self.convolutions(_pixels(image))
        return self.head(torch.cat([features, (mag - 18) / 2], 1))

    def forward(self, image: Tensor, mag: Tensor) -> Tensor:
        return torch.softmax(self.logits(image, mag), 1)


class ImageCnn(nn.Module):
    """Image alone → redshift."""

    inputs = ("image",)

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = convolutions(BANDS, 8, 16)
        self.head = nn.Linear(16, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.convolutions(_pixels(image)))[:, 0]


class SmallViT(nn.Module):
    """A vision transformer: image and magnitudes → mean and sigma, two tensors."""

    inputs = ("pixels", "photometry")

    def __init__(self, width: int = 48, depth: int = 2, patch: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(BANDS, width, patch, patch)
        self.position = nn.Parameter(0.1 * torch.randn(1, (SIDE // patch) ** 2 + 1, width))
        self.token = nn.Linear(BANDS, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, pixels: Tensor, photometry: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.embed(_pixels(pixels)).flatten(2).transpose(1, 2)
        token = self.token((photometry - 18) / 2).unsqueeze(1)
        tokens = torch.cat([token, patches], 1) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        mean, sigma = self.head(tokens[:, 0]).unbind(1)
        return mean, nn.functional.softplus(sigma) + 1e-3


class ReddenedCnn(nn.Module):
    """Image, magnitudes and E(B-V) → nine quantiles."""

    inputs = ("image", "mag", "ebv")

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = convolutions(BANDS, 8, 16)
        self.head = nn.Linear(16 + BANDS + 1, 9)

    def forward(self, image: Tensor, mag: Tensor, ebv: Tensor) -> Tensor:
        features = self.convolutions(_pixels(image))
        steps = nn.functional.softplus(self.head(torch.cat([features, (mag - 18) / 2, ebv], 1)))
        return torch.cumsum(0.05 * steps, 1)


def example(module: Any, side: int) -> tuple[Tensor, ...]:
    """Return tensors that a module takes, of two galaxies."""
    image = (BANDS, side, side)
    sizes = {"image": image, "pixels": image, "ebv": (1,)}
    return tuple(torch.rand(2, *sizes.get(name, (BANDS,))) for name in module.inputs)


def export(
    make: Callable[[], Any],
    path: Path,
    outputs: tuple[str, ...],
    *,
    dynamo: bool = True,
    side: int = SIDE,
) -> Path:
    """Export a module, if it is fresh, with weights that are always the same."""
    torch.manual_seed(12)
    module = make().eval()
    for layer in module.modules():
        # As if it was trained, unless it was.
        if isinstance(layer, nn.BatchNorm2d) and not layer.num_batches_tracked:
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.1, 1)
    options: dict[str, Any] = (
        {"dynamic_shapes": tuple({0: "batch"} for _ in module.inputs)}
        if dynamo
        else {"dynamic_axes": {name: {0: "batch"} for name in module.inputs}}
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            example(module, side),
            path,
            input_names=list(module.inputs),
            output_names=list(outputs),
            dynamo=dynamo,
            **options,
        )
    return path
