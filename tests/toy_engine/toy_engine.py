"""An engine of another package: it predicts a twentieth of the mean pixel."""

import numpy as np
from cosmicai.engines.base import check_batch
from cosmicai.engines.registry import EngineDeclaration
from cosmicai.model.bundle import Bundle
from cosmicai.model.interface import Inputs
from numpy.typing import NDArray

TOY = EngineDeclaration(name="toy", module="toy_engine", requires=(), layer=None)


class ToyEngine:
    """See ``cosmicai.engines.base.Engine``."""

    name = "toy"

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs

    def predict(
        self, image: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        check_batch(image, values, self._inputs)
        mean: NDArray[np.float32] = image.mean(axis=(1, 2, 3), dtype=np.float32) / np.float32(20)
        return mean


def create(bundle: Bundle, _threads: int, _precision: str) -> ToyEngine:
    """Build the engine."""
    return ToyEngine(bundle.config.inputs)
