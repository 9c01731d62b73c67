"""A profile taken from a run reproduces that run, and scales to another."""

import json
from datetime import datetime, timedelta

import numpy as np
import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.results.run_folder import load_run
from cosmicai_workbench.simulation.calibration import calibrate, limits_of, profile_of, slots_of
from cosmicai_workbench.simulation.events import simulate
from cosmicai_workbench.simulation.parameters import Work
from run_folders import BYTES_PER_SAMPLE, make_run


def wall(run, profile, limits):
    ranks = run.summary.world_size
    samples = run.summary.num_samples // ranks
    work = Work(ranks=ranks, samples_per_rank=samples, bytes_per_rank=samples * BYTES_PER_SAMPLE)
    walls = sorted(simulate(work, profile, limits, seed=seed).wall for seed in range(15))
    return walls[7]


def test_reproduces_its_run_and_predicts_a_larger_one(tmp_path):
    small = load_run(make_run(tmp_path, name="small", ranks=12, straggler=None))
    large = load_run(
        make_run(tmp_path, name="large", ranks=40, samples=700, straggler=None, seed=3)
    )
    profile, limits = calibrate([small]), limits_of(small)
    assert slots_of(small) == 4
    assert wall(small, profile, limits) == pytest.approx(small.summary.wall_seconds, rel=0.1)
    assert wall(large, profile, limits) == pytest.approx(large.summary.wall_seconds, rel=0.1)


def test_cold_starts_come_from_the_report_lines(tmp_path):
    folder = make_run(tmp_path, ranks=8, straggler=None)
    with_lines = profile_of([folder])
    assert len(with_lines.cold_start_seconds) == 4
    # Loading and init take 1.5 to 1.8 s; how long a rank predicts differs by some 0.15 s.
    assert 1.2 < min(with_lines.cold_start_seconds) < max(with_lines.cold_start_seconds) < 2.1
    (folder / "invocations.jsonl").unlink()
    assert np.mean(profile_of([folder]).cold_start_seconds) == pytest.approx(0.4, abs=0.2)


def test_a_run_without_ranks_cannot_calibrate(tmp_path):
    with pytest.raises(InvalidInput, match="no rank predicted anything"):
        profile_of([make_run(tmp_path, ranks=1, failed=(0,))])


def rewrite_records(folder, change):
    """Change the records of a run folder; return the run."""
    path = folder / "combined_data.json"
    rows = json.loads(path.read_text())
    for row in rows:
        change(row)
    path.write_text(json.dumps(rows))
    return load_run(folder)


def test_a_slow_first_batch_is_part_of_the_cold_start(tmp_path):
    def slow_first_batch(row):
        if row["cold_start"]:
            row["total_cpu_time (seconds)"] += 3.0
            finished = datetime.fromisoformat(row["finished_at"]) + timedelta(seconds=3)
            row["finished_at"] = finished.isoformat()

    folder = make_run(tmp_path, ranks=8, straggler=None)
    usual = calibrate([load_run(folder)])
    slow = calibrate([rewrite_records(folder, slow_first_batch)])
    assert min(slow.cold_start_seconds) > min(usual.cold_start_seconds) + 2.5
    assert slow.predict_seconds_per_sample == pytest.approx(usual.predict_seconds_per_sample)
    assert max(slow.jitter) == pytest.approx(max(usual.jitter))


def test_runs_of_two_sizes_tell_what_grows_with_the_data(tmp_path):
    def slower_by_a_tenth(row):
        row["total_cpu_time (seconds)"] = 0.1 + 0.002 * row["num_samples"]
        row["wait_seconds"] = 0.05 + row["num_bytes"] / 1e8
        seconds = row["total_cpu_time (seconds)"] + row["wait_seconds"] + 0.06
        started = datetime.fromisoformat(row["started_at"])
        row["finished_at"] = (started + timedelta(seconds=seconds)).isoformat()
        row["cold_start"], row["model_load_seconds"] = False, 0

    runs = [
        rewrite_records(
            make_run(tmp_path, name=f"of{n}", samples=n, straggler=None), slower_by_a_tenth
        )
        for n in (200, 1000)
    ]
    both = calibrate(runs)
    assert both.predict_seconds_per_sample == pytest.approx(0.002)
    assert both.read_bytes_per_second == pytest.approx(1e8)
    assert both.rank_seconds_fixed == pytest.approx(0.1 + 0.05 + 0.06)
    assert calibrate(runs[:1]).predict_seconds_per_sample == pytest.approx(0.0025)


def test_runs_of_different_models_do_not_calibrate_one_profile(tmp_path):
    folders = [
        make_run(tmp_path, name=name, digest=digit * 64)
        for name, digit in (("one", "1"), ("two", "2"))
    ]
    with pytest.raises(InvalidInput, match="different models"):
        profile_of(folders)
