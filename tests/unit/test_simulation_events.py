"""The simulated services keep their limits, and the arithmetic can be followed by hand."""

import numpy as np
import pytest
from cosmicai_workbench.retries import Retrier
from cosmicai_workbench.simulation.events import simulate
from cosmicai_workbench.simulation.parameters import Limits, Profile, Work


def profile(**changes: object) -> Profile:
    values: dict[str, object] = {
        "source": "by hand",
        "vcpus": 2,
        "initialize_seconds": 1,
        "summarize_seconds": 2,
        "cold_start_seconds": (3,),
        "invoke_seconds": 0,
        "read_bytes_per_second": 100,
        "predict_seconds_per_sample": 0.5,
        "jitter": (1,),
    }
    return Profile(**(values | changes))


def work(ranks: int, **changes: object) -> Work:
    return Work(**({"ranks": ranks, "samples_per_rank": 10, "bytes_per_rank": 400} | changes))


INSTANT = Limits(dispatch_rate=1e9)
RANK = 3 + 4 + 5  # cold start, read, predict


def test_one_rank_takes_the_sum_of_its_parts():
    trace = simulate(work(1), profile(), INSTANT, seed=0)
    assert trace.wall == pytest.approx(1 + RANK + 2)
    assert trace.billed.sum() == pytest.approx(RANK)


def test_same_seed_same_trace_other_seed_another():
    spread = profile(jitter=(1, 2, 3, 7))
    first, again, other = (simulate(work(50), spread, INSTANT, seed=s) for s in (4, 4, 5))
    np.testing.assert_array_equal(first.end, again.end)
    assert (first.end != other.end).any()


def test_map_concurrency_makes_waves_and_reuses_warm_sandboxes():
    limits = Limits(dispatch_rate=1e9, map_concurrency=5)
    trace = simulate(work(15), profile(), limits, seed=0)
    assert trace.peak_concurrency == 5
    assert trace.sandboxes == 5
    assert trace.map_end == pytest.approx(1 + RANK + 2 * (RANK - 3))


def test_dispatch_rate_spaces_the_ranks():
    trace = simulate(work(21), profile(), Limits(dispatch_rate=4), seed=0)
    assert trace.queued[-1] == pytest.approx(1 + 20 / 4)


def test_new_sandboxes_come_at_the_ramp_after_the_burst():
    limits = Limits(dispatch_rate=1e9, burst=10, ramp=5)
    patient = Retrier((), max_attempts=10_000, why="", interval_seconds=0.05, backoff_rate=1)
    trace = simulate(work(35), profile(), limits, throttled=patient, seed=0)
    started = np.sort(trace.started)
    np.testing.assert_allclose(started[:10], 1)
    assert started[34] == pytest.approx(1 + 25 / 5, abs=0.2)
    assert trace.throttles > 0


def test_throttled_beyond_its_retries_a_rank_fails_and_is_counted():
    limits = Limits(dispatch_rate=1e9, concurrency=3)
    trace = simulate(work(9), profile(), limits, throttled=Retrier((), 0, ""), seed=0)
    assert trace.failed.sum() == 6
    assert trace.peak_concurrency == 3


def test_transient_failures_are_retried_and_billed():
    flaky = profile(failure_probability=0.3)
    trace = simulate(work(200), flaky, INSTANT, transient=Retrier((), 20, ""), seed=1)
    assert not trace.failed.any()
    assert trace.attempts == pytest.approx(200 / 0.7, rel=0.15)
    assert trace.billed.sum() > 200 * (RANK - 3)


def test_at_a_barrier_everyone_waits_for_the_last_rank():
    spread = profile(jitter=(1, 4))
    trace = simulate(work(20, barrier=True), spread, INSTANT, seed=0)
    assert (trace.end == trace.map_end).all()
    both = trace.billed + trace.waited
    assert both.sum() == pytest.approx((trace.map_end - trace.started).sum())
    assert trace.waited.min() == 0


def test_a_child_that_outlives_express_has_failed():
    limits = Limits(dispatch_rate=1e9, child_seconds=10)
    assert simulate(work(2), profile(), limits, seed=0).failed.all()


def test_reads_beyond_the_prefix_rate_wait():
    limits = Limits(dispatch_rate=1e9, s3_reads_per_second=10)
    trace = simulate(work(40), profile(), limits, seed=0)
    assert trace.read.max() == pytest.approx(4 + 3)
