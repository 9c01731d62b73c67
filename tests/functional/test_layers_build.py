"""Layers built twice, from two copies of the source: the same bytes, uploaded once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def files(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Return what a zip of the folder would hold: each file's digest, mode and time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (digest, status.st_mode, int(status.st_mtime))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["cosmicai", "native", "openvino", "pytorch_fmi"])
def test_two_builds_have_the_same_bytes(layer: str, tmp_path: Path) -> None:
    built = []
    for name, umask in (("first", 0o022), ("second", 0o077)):
        source = tmp_path / name
        for folder in ("layers", "packages"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
        for path in source.rglob("*"):
            os.utime(path)
        layers = source / "layers"
        command = [sys.executable, str(layers / "build.py"), str(layers / layer)]
        command += [str(tmp_path / f"built-{name}"), "--architecture", "arm64"]
        subprocess.run(command, check=True, timeout=240, umask=umask)
        built.append(files(tmp_path / f"built-{name}"))
    first, second = built
    assert len(first) > 100
    assert first == second
