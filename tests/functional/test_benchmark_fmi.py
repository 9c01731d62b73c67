"""The fmilib benchmark runs, compares with the right figures, and keeps what it did not measure."""

import json
import subprocess
import sys
from pathlib import Path

import fmi as benchmark
import pytest

SCRIPT = Path(benchmark.__file__)


def run(output: Path, *options: str) -> tuple[dict, str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(output), *options],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text()), done.stdout


@pytest.mark.slow
def test_the_benchmark_measures_every_system_and_adds_to_its_results(tmp_path):
    output = tmp_path / "fmi.json"
    output.write_text(json.dumps({"rows": [{"row": "barrier", "ranks": 32, "median": {}}]}))
    found, printed = run(output, "--quick", "--json")
    assert json.loads(printed) == found
    measured = [record for record in found["rows"] if record["ranks"] == 2]
    assert [record["row"] for record in measured] == list(benchmark.ROWS)
    for record in measured:
        assert set(record["median"]) == set(benchmark.SYSTEMS) - set(found["skipped"])
        assert all(value > 0 for value in record["median"].values())
        ratio = record["median"]["direct"] / record["direct_cpp_scaled"]
        assert record["direct_to_cpp"] == pytest.approx(ratio, rel=0.05, abs=0.005)
    assert [r["ranks"] for r in found["rows"] if r["row"] == "barrier"] == [2, 32]

    found, printed = run(output, "--quick", "--algorithms")
    assert len(found["algorithms"]["2"]) > 10
    assert "Rabenseifner" in printed
    assert output.with_suffix(".txt").read_text() == printed


def test_cpp_figures_are_scaled_by_gloo_and_missed_aims_are_named():
    by_system = {
        # Twice the gloo of the C++ library's measurement at N = 8, where C++ took 69 ms.
        "gloo": {"allreduce_1mb": [51.0, 52.0, 60.0]},
        "direct": {"allreduce_1mb": [13.0, 13.8, 20.0]},
        "redis": {"allreduce_1mb": [80.0]},
        "s3": {"allreduce_1mb": [900.0]},
    }
    record = benchmark.record_of("allreduce_1mb", 8, by_system)
    assert record["median"]["gloo"] == 52.0
    assert record["range"]["direct"] == [13.0, 20.0]
    assert record["direct_cpp_scaled"] == 138.0
    assert record["direct_to_cpp"] == 0.1
    assert record["redis_to_cpp"] == pytest.approx(80 / 110, abs=1e-3)
    assert record["missed"] == ["redis to C++"]
    assert (
        "direct" not in benchmark.record_of("allreduce_1mb", 8, {"s3": by_system["s3"]})["median"]
    )
    assert "missed: redis to C++" in benchmark.table({"rows": [record]})
