"""The plain PyTorch module, run eagerly: the yardstick of every other engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cosmicai.engines.base import check_batch, one_or_more

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cosmicai.model.bundle import Bundle


class PlainEngine:
    """Runs ``AstroMAE.forward`` as it is written, on batches as they come."""

    name = "plain"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        torch.set_num_threads(threads)
        self._inputs = bundle.config.inputs
        self._module = bundle.module()

    def predict(
        self, image: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See ``cosmicai.engines.base.Engine.predict``."""
        check_batch(image, values, self._inputs)
        with torch.inference_mode():
            # Copies, because kernels are chosen by alignment and differ in the last bit.
            output = self._module(torch.tensor(image), torch.tensor(values))
        return one_or_more(output.numpy())


def create(bundle: Bundle, threads: int, _precision: str) -> PlainEngine:
    """Build the engine."""
    return PlainEngine(bundle, threads)
