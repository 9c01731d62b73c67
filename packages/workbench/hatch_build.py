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


class ApplicationHook(BuildHookInterface[Any]):
    """Copy the application at the checkout's top into the wheel; an editable install needs none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files, unless the build is an editable one."""
        if version == "editable":
            return
        top = Path(self.root).parents[1]
        for name in APPLICATION:
            build_data["force_include"][str(top / name)] = f"cosmicai_workbench/application/{name}"
