"""A model on disk: ``config.json`` (the architecture) and the files that it declares.

AstroMAE's tensors are in ``model.safetensors``; a ``calibration.json`` may give any model's
redshifts their intervals.

Nothing in a bundle is executable, and reading one needs no PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from cosmicai.errors import ModelMismatch, ModelNotFound
from cosmicai.facts import INPUT_LIMIT
from cosmicai.model.architectures import check_layout, files_of, load_config, require_size
from cosmicai.model.layout import (
    CALIBRATION_NAME,
    CONFIG_NAME,
    CONSTANTS_NAME,
    GRAPH_NAME,
    SAFETENSORS_DTYPES,
    WEIGHTS_NAME,
    TensorSpec,
)
from cosmicai.whole_files import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cosmicai.model.astromae import AstroMAE
    from cosmicai.model.config import ModelConfig
    from cosmicai.model.interface import Interface


class Bundle:
    """A bundle whose config is valid and whose tensors match it.

    Parameters
    ----------
    path
        The folder.

    Raises
    ------
    ModelNotFound
        A file of the bundle is absent.
    ModelMismatch
        The config is not valid, the weights are not a safetensors file, or tensors are
        missing, unexpected, or of another shape or dtype; each is named. Or the graph is not one
        that may be run, or not the config's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.architecture, self.config = load_config(path)
        self.weights_path = path / WEIGHTS_NAME
        self.files = files_of(path, self.architecture)
        for name in self.files:
            require_size(name, (path / name).stat().st_size, self.config, str(path / name))
        self._digest: Future[str] | None = None
        if self.architecture.layout:
            check_layout(_read_layout(self.weights_path), self.config, str(self.weights_path))
        if self.architecture.check_graph:
            description = (path / GRAPH_NAME).read_bytes()
            constant_bytes = (path / CONSTANTS_NAME).stat().st_size
            self.architecture.check_graph(description, constant_bytes, self.config, str(path))

    @property
    def astromae(self) -> ModelConfig:
        """The config of an AstroMAE.

        Raises
        ------
        ModelMismatch
            The model is another one.
        """
        from cosmicai.model.config import ModelConfig

        if not isinstance(self.config, ModelConfig):
            raise ModelMismatch(f"{self.path}: an AstroMAE expected, found {self.config}")
        return self.config

    @cached_property
    def interface(self) -> Interface:
        """What the model takes and gives, and its calibration.

        Raises
        ------
        ModelMismatch
            ``calibration.json`` is not a calibration.
        """
        from cosmicai.model.interface import Interface

        calibration = None
        if CALIBRATION_NAME in self.files:
            from cosmicai.calibration import read_calibration

            file = self.path / CALIBRATION_NAME
            calibration = read_calibration(file.read_bytes(), str(file))
        config = self.config
        return Interface(config.inputs, config.output, config.training, calibration)

    def start_digest(self) -> Future[str]:
        """Compute the digest in the background, for when it is asked for."""
        if self._digest is None:
            pool = ThreadPoolExecutor(1)
            self._digest = pool.submit(self._hash)
            pool.shutdown(wait=False)
        return self._digest

    @property
    def digest(self) -> str:
        """SHA-256 over its files: it names the model, whatever the folder is called.

        Raises
        ------
        ModelMismatch
            A tensor holds NaN, infinity, or a number that is out of all proportion.
        """
        return self.start_digest().result()

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for name in self.files:
            # Mapped, not read: one call for the whole file needs Python's lock once, which the
            # engine's imports hold meanwhile.
            with (
                (self.path / name).open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                digest.update(hashlib.sha256(content).digest())
        if self.architecture.layout:
            self._check_values()
        return digest.hexdigest()

    def _check_values(self) -> None:
        """Make sure that a tensor holds no value that some engine would hide in a prediction."""
        with safe_open(self.weights_path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (no dict)
                array = file.get_tensor(name)
                smallest = 0 if name.endswith(".running_var") else -INPUT_LIMIT
                # NaN compares as false.
                if array.size and not smallest <= array.min() <= array.max() <= INPUT_LIMIT:
                    raise ModelMismatch(
                        f"{self.weights_path}: tensor {name} holds values from {array.min():g} to "
                        f"{array.max():g}; numbers from {smallest:g} to {INPUT_LIMIT:g} expected"
                    )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors as read-only NumPy arrays, mapped from the file, not read.

        Raises
        ------
        ModelMismatch
            The model is a graph, not tensors by name.
        """
        if not self.architecture.layout:
            raise ModelMismatch(f"{self.path}: a model of tensors by name expected, found a graph")
        with self.weights_path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # The header was checked when this bundle was opened: every tensor is inside the file.
        start = 8 + int.from_bytes(memory[:8], "little")
        header: dict[str, Any] = json.loads(memory[8:start])
        header.pop("__metadata__", None)
        return {
            name: np.frombuffer(
                memory,
                SAFETENSORS_DTYPES[entry["dtype"]],
                math.prod(entry["shape"]),
                start + entry["data_offsets"][0],
            ).reshape(entry["shape"])
            for name, entry in header.items()
        }

    def module(self) -> AstroMAE:
        """Return the plain PyTorch module with the bundle's weights, in evaluation mode."""
        import torch
        from safetensors.torch import load_file

        from cosmicai.model.astromae import AstroMAE

        with torch.device("meta"):
            module = AstroMAE(self.astromae)
        module.load_state_dict(load_file(self.weights_path), assign=True)
        return module.eval()


def save_bundle(module: AstroMAE, path: Path) -> Bundle:
    """Write ``module`` as a bundle into folder ``path`` (made if absent); return it.

    The same weights give the same bytes. Each file is written whole or not at all.
    """
    state = {
        name: np.array(tensor.detach().cpu().numpy(), order="C")
        for name, tensor in module.state_dict().items()
    }
    return save_tensors(module.config, state, path)


def save_tensors(config: ModelConfig, state: Mapping[str, NDArray[Any]], path: Path) -> Bundle:
    """Write a state dict of NumPy arrays as a bundle into folder ``path``; return it.

    Raises
    ------
    ModelMismatch
        The tensors do not match ``config``; nothing is written.
    """
    from safetensors.numpy import save

    found = {name: TensorSpec(array.shape, str(array.dtype)) for name, array in state.items()}
    check_layout(found, config, "the state dict")
    path.mkdir(parents=True, exist_ok=True)
    with whole_file(path / WEIGHTS_NAME) as file:
        file.write_bytes(save(dict(state)))
        (path / CALIBRATION_NAME).unlink(missing_ok=True)  # it was another model's
    with whole_file(path / CONFIG_NAME) as file:
        file.write_text(config.to_json())
    return Bundle(path)


def _read_layout(weights: Path) -> dict[str, TensorSpec]:
    try:
        with safe_open(weights, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            return {
                name: TensorSpec(
                    tuple(part.get_shape()),
                    SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype()),
                )
                for name, part in slices.items()
            }
    except FileNotFoundError:
        raise ModelNotFound(f"{weights} was removed while it was read") from None
    except SafetensorError as error:
        raise ModelMismatch(f"{weights} is not a whole safetensors file: {error}") from None
