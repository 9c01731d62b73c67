"""The simulation reproduces the published executions that it was not calibrated on."""

import csv
import json
import re
import statistics
from pathlib import Path

import pytest
from cosmicai_workbench.published import executions, published, rank_times
from cosmicai_workbench.simulation.published import check_published

SHARED = Path(__file__).parents[2].parent / "shared" / "reference_results"
DOCUMENT = Path(__file__).parents[2] / "docs" / "planning.md"
BOUND = 0.25


@pytest.fixture(scope="module")
def checks():
    return check_published()


def test_held_out_executions_are_within_a_quarter(checks):
    held_out = {c.what: c.error for c in checks if c.held_out}
    assert len(held_out) == 6  # 12.6 GB in four partition sizes, 100 GB, 1 TB
    assert {what: error for what, error in held_out.items() if abs(error) > BOUND} == {}


def test_calibration_runs_are_close_on_average(checks):
    errors = [abs(c.error) for c in checks if not c.held_out]
    assert statistics.fmean(errors) < 0.15


def test_the_documented_table_is_current(checks):
    rows = re.findall(
        r"^\| (.+?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([+-][\d.]+) % \|$",
        DOCUMENT.read_text(),
        re.MULTILINE,
    )
    held_out = [check for check in checks if check.held_out]
    assert [row[0] for row in rows] == [check.what for check in held_out]
    for (_, ranks, theirs, simulated, error), check in zip(rows, held_out, strict=True):
        assert int(ranks.replace(",", "")) == check.ranks
        assert float(theirs) == pytest.approx(check.published_seconds, abs=0.06)
        assert float(simulated) == pytest.approx(check.simulated_seconds, abs=0.06)
        assert float(error) == pytest.approx(100 * check.error, abs=0.06)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/reference_results is absent")
def test_shipped_figures_are_the_published_files():
    def seconds(text: str) -> float:
        minutes, rest = text.split(":")
        return 60 * int(minutes) + float(rest)

    with (SHARED / "total_execution_time.csv").open() as file:
        theirs = [(int(r["partition(MB)"]), seconds(r["duration"])) for r in csv.DictReader(file)]
    ours = [(r["partition_mb"], r["total_seconds"]) for r in executions()]
    assert ours == [(p, pytest.approx(s, abs=1e-3)) for p, s in theirs]

    with (SHARED / "result_stats_adjusted.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["run"] != "mean"]
    assert [r["total_seconds"] for r in published()["scale_executions"]] == [
        float(r["total_duration (s)"]) for r in rows
    ]
    for size in (25, 100):
        shipped = rank_times(size)
        records = json.loads((SHARED / shipped.source).read_text())
        assert shipped.rank_seconds == tuple(
            round(r["total_cpu_time (seconds)"], 3) for r in records
        )
