"""Redshift inference for survey-sized sets of galaxies.

>>> import cosmicai
>>> model = cosmicai.open_model("models/astromae-small")
>>> result = model.predict_partitions(["1.pt", "s3://bucket/2.pt"])
>>> table = result.to_table()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cosmicai.built_for import check_processor

if TYPE_CHECKING:
    from cosmicai.models import open_model
    from cosmicai.prediction import Predictions, Predictor

__version__ = "0.2.0"
__all__ = ["Predictions", "Predictor", "open_model"]

_MODULES = {
    "open_model": "cosmicai.models",
    "Predictor": "cosmicai.prediction",
    "Predictions": "cosmicai.prediction",
}

check_processor()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the functions' cold starts do without."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
