"""Where the application is: template, definition, handlers, sample events, the shipped model.

In a checkout these are the files at its top, which ``sam deploy`` takes. A wheel carries a copy,
made when it is built (``packages/workbench/hatch_build.py``).
"""

from pathlib import Path

_CHECKOUT = Path(__file__).parents[3]
_PACKAGED = Path(__file__).parent / "packaged"

ROOT = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
"""Folder of the application."""

TEMPLATE = ROOT / "template.yaml"
EXPERIMENTS = ROOT / "experiments"
SMALL_MODEL = ROOT / "models" / "astromae-small"
"""The small trained model that ships."""
