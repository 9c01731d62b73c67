"""The contract of an engine, and how one is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from cosmicai.engines.registry import find_engine
from cosmicai.errors import InvalidInput
from cosmicai.machine import architecture
from cosmicai.model.bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from cosmicai.model.interface import Inputs


class Engine(Protocol):
    """A loaded model that predicts redshifts; NumPy in, NumPy out.

    What it takes and what its numbers mean, the bundle's config declares
    (``cosmicai.model.interface``).
    """

    @property
    def name(self) -> str:
        """The engine's name in the registry."""

    def predict(
        self, image: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Compute the raw output of a batch of any size.

        Parameters
        ----------
        image
            float32 (B, bands, side, side), in the units that the config declares; the engine
            applies the config's offsets and scales.
        values
            float32 (B, m + s): the magnitudes, then the scalars, in the config's order; (B, 0)
            where the model takes none.

        Returns
        -------
        NDArray[np.float32]
            (B,) if the model's output has one value, else (B, n). Where a number is not finite,
            the galaxy has no prediction.

        Raises
        ------
        InvalidInput
            The arrays have another shape or dtype.
        """


def load_engine(
    name: str,
    bundle: Path | Bundle,
    *,
    threads: int,
    precision: str = "float32",
    device: str = "cpu",
) -> Engine:
    """Load a model into the engine called ``name``.

    Parameters
    ----------
    name
        Its name in ``cosmicai.engines.registry``.
    bundle
        The bundle, or its folder.
    threads
        Threads that the engine computes with: the vCPUs of the function.
    precision
        ``float32``, or ``bfloat16`` or ``float16`` where the engine and the processor support it.
    device
        ``cpu``, or ``cuda`` for an NVIDIA GPU.

    Raises
    ------
    InvalidInput
        No such engine or precision, the engine does not offer the precision or the device, there
        is no such device, or the engine's libraries are not installed.
    ModelNotFound, ModelMismatch
        From the bundle, or the engine does not run its architecture.
    """
    declaration = find_engine(name)
    declaration.check(precision, architecture())
    declaration.check_device(device)
    if threads < 1:
        raise InvalidInput(f"threads must be at least 1, not {threads}")
    checked = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    declaration.check_model(checked.architecture.name)
    checked.start_digest()  # while the engine's libraries load, which takes about as long
    try:
        engine = declaration.create(checked, threads, precision, device)
    except ModuleNotFoundError as error:
        missing = declaration.missing()
        if not missing:
            raise
        raise InvalidInput(
            f"engine {name!r} needs {' and '.join(missing)}, not installed here; "
            f"pip install cosmicai[{name}], or choose another engine"
        ) from error
    _ = checked.digest  # whose computation finds values that no engine should compute with
    return engine


def check_batch(image: NDArray[np.float32], values: NDArray[np.float32], inputs: Inputs) -> None:
    """Raise InvalidInput unless the arrays are a batch as the contract and ``inputs`` say."""
    beside = "values" if inputs.scalars else "magnitude"
    for label, array, shape in (
        ("image", image, inputs.image_shape),
        (beside, values, (inputs.num_values,)),
    ):
        if array.dtype != np.float32 or array.shape[1:] != shape:
            expected = ", ".join(map(str, shape))
            raise InvalidInput(
                f"{label} must be float32 (B, {expected}), not {array.dtype} {array.shape}"
            )
    if len(image) != len(values):
        raise InvalidInput(f"{len(image)} images but {len(values)} {beside} vectors")


def one_or_more(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a model's outputs (B, n) in the contract's shape: (B,) if n is 1."""
    return output[:, 0] if output.shape[1] == 1 else output


def chunks(count: int, size: int) -> Iterator[slice]:
    """Yield slices that cut ``count`` galaxies into nearly equal parts of at most ``size``."""
    parts = -(-count // size)
    for part in range(parts):
        yield slice(count * part // parts, count * (part + 1) // parts)
