"""A profile taken from a run reproduces that run, and scales to another."""

import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.results.run import load_run
from cosmicai_workbench.simulation.calibration import calibrate_run, limits_of, profile_of, slots_of
from cosmicai_workbench.simulation.events import simulate
from cosmicai_workbench.simulation.model import Retry, Work
from run_folders import BYTES_PER_SAMPLE, make_run


def wall(run, profile, limits):
    ranks = run.summary.world_size
    samples = run.summary.num_samples // ranks
    work = Work(ranks=ranks, samples_per_rank=samples, bytes_per_rank=samples * BYTES_PER_SAMPLE)
    walls = sorted(simulate(work, profile, limits, Retry(), seed=seed).wall for seed in range(15))
    return walls[7]


def test_reproduces_its_run_and_predicts_a_larger_one(tmp_path):
    small = load_run(make_run(tmp_path, name="small", ranks=12, straggler=None))
    large = load_run(
        make_run(tmp_path, name="large", ranks=40, samples=700, straggler=None, seed=3)
    )
    profile, limits = calibrate_run(small), limits_of(small)
    assert slots_of(small) == 4
    assert wall(small, profile, limits) == pytest.approx(small.summary.wall_seconds, rel=0.1)
    assert wall(large, profile, limits) == pytest.approx(large.summary.wall_seconds, rel=0.1)


def test_cold_starts_come_from_the_report_lines(tmp_path):
    folder = make_run(tmp_path, ranks=8, straggler=None)
    with_lines = profile_of(folder)
    assert len(with_lines.cold_start_seconds) == 4
    assert 1.5 < min(with_lines.cold_start_seconds) < max(with_lines.cold_start_seconds) < 1.9
    (folder / "invocations.jsonl").unlink()
    assert max(profile_of(folder).cold_start_seconds) == pytest.approx(0.4, abs=0.01)


def test_a_run_without_ranks_cannot_calibrate(tmp_path):
    with pytest.raises(InvalidInput, match="no rank predicted anything"):
        profile_of(make_run(tmp_path, ranks=1, failed=(0,)))
