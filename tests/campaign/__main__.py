"""All campaigns: every module beside this one that declares trials as ``PARTS``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from campaign.campaign import main


def parts() -> dict[str, Any]:
    """Return the trials of all modules, by the name of their part."""
    found: dict[str, Any] = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        module = importlib.import_module(f"campaign.{path.stem}")
        found.update(getattr(module, "PARTS", {}))
    return found


if __name__ == "__main__":
    raise SystemExit(main(parts()))
