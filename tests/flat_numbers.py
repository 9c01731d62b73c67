"""Compare documents of numbers, whatever order the numbers were added up in."""

from typing import Any

import pytest
from pydantic import BaseModel


def same_numbers(a: BaseModel, b: BaseModel, rel: float = 1e-9) -> bool:
    """Say whether two models hold the same values, the numbers to rounding."""
    return _flat(a.model_dump(mode="json")) == pytest.approx(
        _flat(b.model_dump(mode="json")), rel=rel
    )


def _flat(document: Any, name: str = "") -> dict[str, float]:
    if isinstance(document, dict | list):
        pairs = document.items() if isinstance(document, dict) else enumerate(document)
        return {k: v for key, value in pairs for k, v in _flat(value, f"{name}.{key}").items()}
    return {} if document is None else {name: document}
