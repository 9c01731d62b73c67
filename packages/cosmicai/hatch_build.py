"""The package carries the native engine's library, compiled where it is built."""

import platform
import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "cosmicai/engines/_native.so"
ZIG = "ziglang==0.17.1"
"""A C compiler as a wheel, for machines without one of their own."""


class NativeHook(BuildHookInterface[Any]):
    """Compile ``native/`` into the package, for wheels and editable installs alike."""

    def dependencies(self) -> list[str]:
        """Return what the build needs beside hatchling: a compiler, where there is none."""
        return [] if self._script()["find_compiler"]() else [ZIG]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile, and mark the wheel as this machine's."""
        if self.target_name != "wheel":
            return
        self._script()["build"](Path(self.root) / LIBRARY)
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        system = platform.system().lower()
        name = "macosx_11_0" if system == "darwin" else "manylinux_2_34"
        build_data["tag"] = f"py3-none-{name}_{platform.machine()}"

    def _script(self) -> dict[str, Any]:
        return runpy.run_path(str(Path(self.root) / "native" / "build.py"))
