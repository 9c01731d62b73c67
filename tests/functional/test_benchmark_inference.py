"""The inference benchmark runs, and finds what must hold on any machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "inference.py"


@pytest.mark.slow
def test_the_benchmark_runs_and_engines_agree(tmp_path):
    out = tmp_path / "results.json"
    sections = ["--sections", "accuracy,memory,growth"]
    command = [sys.executable, str(SCRIPT), "--quick", "--rounds", "1", *sections]
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert out.with_suffix(".txt").read_text() == done.stdout
    for engine in ("torch float32", "openvino float32"):
        assert max(found["accuracy"]["max_abs_dz"][engine].values()) <= 1e-4
    assert max(rank["peak_memory_mb"] for rank in found["memory"].values()) <= 1300
    assert len(found["growth"]["rows"]) >= 4
