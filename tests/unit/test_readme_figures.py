"""The README's figures are those of the committed results."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_figures_are_those_of_the_results() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/readme.py"), "--check"]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
