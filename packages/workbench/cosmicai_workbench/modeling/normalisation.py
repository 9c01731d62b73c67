"""Inputs on a common scale for training, and their exact removal before a model is saved.

A network trains badly on magnitudes near 17 that differ by hundredths. Both inputs are therefore
mapped linearly first: magnitudes to uncorrelated values of unit variance, pixels by one factor a
band. What follows each input is a linear layer, and two linear maps are one: :func:`fold` moves
the mapping into the weights, so that the saved model is a plain AstroMAE that takes raw inputs.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cosmicai.model.astromae import AstroMAE


@dataclass(frozen=True)
class Normalisation:
    """The linear maps: ``pixel * pixel_scale`` and ``(magnitude - mean) @ whitening``.

    Attributes
    ----------
    pixel_scale
        float64 (5,).
    mean
        float64 (5,).
    whitening
        float64 (5, 5).
    """

    pixel_scale: NDArray[np.float64]
    mean: NDArray[np.float64]
    whitening: NDArray[np.float64]

    @classmethod
    def fit(cls, image: NDArray[np.float32], magnitude: NDArray[np.float64]) -> "Normalisation":
        """Measure the maps on training galaxies: image (N, 5, 32, 32), magnitude (M, 5)."""
        # The 99th percentile: a few bright, near galaxies must not set the scale of all.
        scale = 1 / np.percentile(image, 99, axis=(0, 2, 3))
        mean = magnitude.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(magnitude.T))
        return cls(scale, mean, vectors / np.sqrt(values))

    def image(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale pixels."""
        return image * self.pixel_scale.astype(np.float32)[:, None, None]

    def magnitude(self, magnitude: NDArray[Any]) -> NDArray[np.float32]:
        """Whiten magnitudes."""
        return ((magnitude - self.mean) @ self.whitening).astype(np.float32)


def fold(module: "AstroMAE", normalisation: Normalisation) -> None:
    """Change ``module``, which takes normalised inputs, into one that takes raw ones."""
    import torch

    state = module.state_dict()
    scale = torch.from_numpy(normalisation.pixel_scale)[None, :, None, None]
    # vis_inception.0 is the same layer as conv2d_init, and its tensors share their memory.
    for name in ("patch_embed.proj.weight", "inception_model.conv2d_init.weight"):
        state[name].copy_(state[name].double() * scale)
    weight = state["inception_model.magnitude_block.0.weight"]
    bias = state["inception_model.magnitude_block.0.bias"]
    mapped = weight.double() @ torch.from_numpy(normalisation.whitening).T
    bias.copy_(bias.double() - mapped @ torch.from_numpy(normalisation.mean))
    weight.copy_(mapped)
