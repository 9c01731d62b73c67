"""Where the application is: template, definition, handlers, sample events, the shipped model.

In a checkout they are the files at its top, the same that `sam deploy` takes. The wheel carries a
copy of them, made when it is built (``packages/workbench/pyproject.toml``).
"""

from pathlib import Path

_CHECKOUT = Path(__file__).parents[3]
_PACKAGED = Path(__file__).parent / "application"

ROOT = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
"""Folder of the application."""

TEMPLATE = ROOT / "template.yaml"
EVENTS = ROOT / "events"
EXPERIMENTS = ROOT / "experiments"
SMALL_MODEL = ROOT / "models" / "astromae-small"
"""The small trained model that ships."""
