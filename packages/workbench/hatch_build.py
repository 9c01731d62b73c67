"""The wheel carries the application: what deploys is what the local cloud reads and runs."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

APPLICATION = (
    "template.yaml",
    "statemachine",
    "functions",
    "infrastructure",
    "events",
    "experiments",
    "models",
)
PACKAGED = "cosmicai_workbench/packaged"
"""Where the wheel and the source archive hold it; ``application.py`` looks there."""


class ApplicationHook(BuildHookInterface[Any]):
    """Copy the application at the checkout's top into what is built.

    An editable install needs no copy, and a wheel built from a source archive finds it there.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to the build."""
        if version == "editable" or (Path(self.root) / PACKAGED).is_dir():
            return
        top = Path(self.root).parents[1]
        for name in APPLICATION:
            build_data["force_include"][str(top / name)] = f"{PACKAGED}/{name}"
