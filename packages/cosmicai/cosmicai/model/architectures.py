"""Which model architectures there are, each declared once.

The key ``architecture`` of a bundle's ``config.json`` names one; bundles without it hold an
AstroMAE. Which engines run it, engines declare (``cosmicai.engines.registry``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from cosmicai.errors import ModelMismatch
from cosmicai.model.config import ModelConfig
from cosmicai.model.layout import CONFIG_NAME, WEIGHTS_NAME, TensorSpec, state_dict_layout

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT: Final = "AstroMAE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What is known of an architecture without PyTorch."""

    name: str
    config: type[ModelConfig]
    """Model of ``config.json``."""
    files: tuple[str, ...]
    """Names of a bundle's files, ``config.json`` first."""
    layout: Callable[[Any], dict[str, TensorSpec]]
    """Maps a config to the name, shape and dtype of every tensor."""


_DECLARED: Final = (
    Architecture(
        name=DEFAULT,
        config=ModelConfig,
        files=(CONFIG_NAME, WEIGHTS_NAME),
        layout=state_dict_layout,
    ),
)
ARCHITECTURES: Final = {architecture.name: architecture for architecture in _DECLARED}


def read_config(content: bytes, where: str) -> tuple[Architecture, ModelConfig]:
    """Read a bundle's ``config.json``.

    Parameters
    ----------
    content
        The file.
    where
        What messages call it.

    Raises
    ------
    ModelMismatch
        It does not describe a model of an architecture that is known.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
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
        raise ModelMismatch(f"{where} does not describe an architecture: {error}") from None
