"""Which model architectures there are, each declared once.

The key ``architecture`` of a bundle's ``config.json`` names one; bundles without it hold an
AstroMAE. Which engines run it, engines declare (``cosmicai.engines.registry``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from cosmicai.errors import ModelMismatch, load_json
from cosmicai.model.config import ModelConfig
from cosmicai.model.layout import CONFIG_NAME, TensorSpec, state_dict_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NAMES_SHOWN: Final = 8
DEFAULT: Final = "AstroMAE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What is known of an architecture without PyTorch."""

    name: str
    config: type[ModelConfig]
    """Model of ``config.json``."""
    layout: Callable[[Any], dict[str, TensorSpec]]
    """Maps a config to the name, shape and dtype of every tensor."""


_DECLARED: Final = (
    Architecture(
        name=DEFAULT,
        config=ModelConfig,
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
        raise ModelMismatch(f"{where} does not describe an architecture: {error}") from None


def check_layout(found: Mapping[str, TensorSpec], config: ModelConfig, source: str) -> None:
    """Raise ModelMismatch, naming every difference, unless ``found`` is what ``config`` says."""
    expected = ARCHITECTURES[config.architecture].layout(config)
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
            f"the tensors in {source} do not match the architecture (depth {config.depth}, "
            f"width {config.width}): {details}. Correct {CONFIG_NAME} or use the weights it "
            "was written for"
        )


def _describe(spec: TensorSpec) -> str:
    return f"{spec.dtype}{list(spec.shape)}"


def _shorten(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
