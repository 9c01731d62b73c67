"""Which model architectures there are, each declared once.

The key ``architecture`` of a bundle's ``config.json`` names one; bundles without it hold an
AstroMAE. Which engines run it, engines declare (``cosmicai.engines.registry``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from cosmicai.errors import ModelMismatch, ModelNotFound, load_json, problems_of
from cosmicai.model.config import ModelConfig
from cosmicai.model.layout import (
    CALIBRATION_NAME,
    CONFIG_NAME,
    CONSTANTS_NAME,
    GRAPH_NAME,
    MAX_CALIBRATION_BYTES,
    MAX_CONFIG_BYTES,
    MAX_CONSTANT_BYTES,
    MAX_GRAPH_BYTES,
    MAX_HEADER_BYTES,
    WEIGHTS_NAME,
    TensorSpec,
    state_dict_layout,
)
from cosmicai.model.onnx_config import OnnxConfig, check_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cosmicai.model.interface import ArchitectureConfig

_NAMES_SHOWN: Final = 8
_MOST_BYTES: Final = {
    CONFIG_NAME: MAX_CONFIG_BYTES,
    GRAPH_NAME: MAX_GRAPH_BYTES,
    CONSTANTS_NAME: MAX_CONSTANT_BYTES,
    CALIBRATION_NAME: MAX_CALIBRATION_BYTES,
}
DEFAULT: Final = "AstroMAE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What is known of an architecture without PyTorch."""

    name: str
    config: type[ArchitectureConfig]
    """Model of ``config.json``."""
    files: tuple[str, ...] = (CONFIG_NAME, WEIGHTS_NAME)
    """The files of a bundle, the config first; its digest is over them in this order."""
    optional_files: tuple[str, ...] = (CALIBRATION_NAME,)
    """Files that a bundle may have behind those."""
    layout: Callable[[Any], dict[str, TensorSpec]] | None = None
    """Maps a config to the name, shape and dtype of every tensor in ``model.safetensors``."""
    check_graph: Callable[[bytes, int, Any, str], None] | None = None
    """Checks ``model.xml``, given the size of ``model.bin``, the config and a label."""


_DECLARED: Final = (
    Architecture(
        name=DEFAULT,
        config=ModelConfig,
        layout=state_dict_layout,
    ),
    Architecture(
        name="ONNX",
        config=OnnxConfig,
        files=(CONFIG_NAME, GRAPH_NAME, CONSTANTS_NAME),
        check_graph=check_graph,
    ),
)
ARCHITECTURES: Final = {architecture.name: architecture for architecture in _DECLARED}


def read_config(content: bytes, where: str) -> tuple[Architecture, ArchitectureConfig]:
    """Read a bundle's ``config.json``.

    Parameters
    ----------
    content
        The file.
    where
        Its name in error messages.

    Raises
    ------
    ModelMismatch
        If it does not describe a model of a known architecture.
    """
    try:
        document = load_json(content)
    except ValueError as error:
        raise ModelMismatch(f"{where} does not describe an architecture: {error}") from None
    name = document.get("architecture", DEFAULT) if isinstance(document, dict) else DEFAULT
    architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None:
        raise ModelMismatch(
            f"{where} does not describe an architecture: {str(name)[:80]!r} is not one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    try:
        return architecture, architecture.config.model_validate_json(content)
    except ValidationError as error:
        raise ModelMismatch(
            f"{where} does not describe an architecture: {problems_of(error)}"
        ) from None


def most_bytes(name: str, config: ArchitectureConfig) -> int:
    """Return how many bytes a file of a bundle may have, before it is read."""
    if name in _MOST_BYTES:
        return _MOST_BYTES[name]
    layout = ARCHITECTURES[config.architecture].layout
    tensors = layout(config).values() if layout else ()
    # A dtype ends in its bits.
    data = sum(math.prod(tensor.shape) * int(tensor.dtype[-2:]) // 8 for tensor in tensors)
    return 8 + MAX_HEADER_BYTES + data


def require_size(name: str, size: int, config: ArchitectureConfig, where: str) -> None:
    """Raise ModelMismatch if a file of a bundle is empty, or larger than its config allows."""
    if not size:
        raise ModelMismatch(f"{where} is empty: writing it was cut short; replace it")
    if size > (most := most_bytes(name, config)):
        raise ModelMismatch(
            f"{where} has {size} bytes, and at most {most} were expected of a model like this "
            f"({config}); it was not read"
        )


def files_of(path: Path, architecture: Architecture) -> tuple[str, ...]:
    """Return the names of a bundle's files, those of its optional ones that folder ``path`` has.

    Raises
    ------
    ModelNotFound
        A file is absent.
    """
    if missing := [name for name in architecture.files if not (path / name).is_file()]:
        raise ModelNotFound(
            f"{path} holds no model: expected {' and '.join(architecture.files)}, found no "
            f"{' and no '.join(missing)}"
        )
    optional = (name for name in architecture.optional_files if (path / name).is_file())
    return (*architecture.files, *optional)


def load_config(path: Path) -> tuple[Architecture, ArchitectureConfig]:
    """Read the architecture and the config of the bundle in folder ``path``.

    Raises
    ------
    ModelNotFound
        There is no ``config.json``.
    ModelMismatch
        It does not describe a model of a known architecture.
    """
    file, files = path / CONFIG_NAME, " and ".join(ARCHITECTURES[DEFAULT].files)
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_CONFIG_BYTES + 1)
    except NotADirectoryError:
        raise ModelNotFound(
            f"{path} is a file, and a model is a folder of {files}; `cosmicai model import {path} "
            "FOLDER` makes one of a checkpoint"
        ) from None
    except FileNotFoundError:
        raise ModelNotFound(
            f"{path} holds no model: expected {files}, found no {CONFIG_NAME}"
        ) from None
    if len(content) > MAX_CONFIG_BYTES:
        raise ModelMismatch(
            f"{file} does not describe an architecture: at most {MAX_CONFIG_BYTES} bytes expected"
        )
    return read_config(content, str(file))


def bundle_files(path: Path) -> list[Path]:
    """Return the files of the bundle in folder ``path``, in the order of its digest.

    Raises
    ------
    ModelNotFound, ModelMismatch
        As :func:`load_config` and :func:`files_of`.
    """
    architecture, _ = load_config(path)
    return [path / name for name in files_of(path, architecture)]


def check_layout(found: Mapping[str, TensorSpec], config: ArchitectureConfig, source: str) -> None:
    """Raise ModelMismatch, naming every difference, unless ``found`` is what ``config`` says."""
    layout = ARCHITECTURES[config.architecture].layout
    expected = layout(config) if layout else {}
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    different = [
        f"{name} is {_describe(found[name])}, expected {_describe(spec)}"
        for name, spec in expected.items()
        if name in found and found[name] != spec
    ]
    if missing or unexpected or different:
        findings = (("missing", missing), ("unexpected", unexpected), ("different", different))
        details = "; ".join(
            f"{len(names)} {label}: {_shorten(names)}" for label, names in findings if names
        )
        raise ModelMismatch(
            f"the tensors in {source} do not match the architecture ({config}): {details}. "
            f"Correct {CONFIG_NAME} or use the weights it was written for"
        )


def _describe(spec: TensorSpec) -> str:
    return f"{spec.dtype}{list(spec.shape)}"


def _shorten(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
