"""Figures of merit against NumPy's direct computation, merged any way."""

import itertools
import math

import numpy as np
import pytest
from cosmicai.errors import CosmicAIError
from cosmicai.quality import BIN_WIDTH, figures, merge, pack, statistics, unpack
from hypothesis import given, settings
from hypothesis import strategies as st

RNG = np.random.default_rng(7)


def sample(n: int, sigma: float = 0.02, bias: float = 0.003):
    true = RNG.uniform(0.01, 0.4, n).astype(np.float32)
    predicted = true + ((1 + true) * (bias + sigma * RNG.standard_t(4, n))).astype(np.float32)
    return predicted, true


def direct(predicted, true):
    error = predicted.astype(float) - true.astype(float)
    relative = error / (1 + true.astype(float))
    return {
        "mae": np.abs(error).mean(),
        "mse": (error**2).mean(),
        "bias": error.mean(),
        "r2": 1 - (error**2).sum() / ((true.astype(float) - true.astype(float).mean()) ** 2).sum(),
        "outlier_fraction": (np.abs(relative) > 0.05).mean(),
        "nmad": 1.4826 * np.median(np.abs(relative - np.median(relative))),
    }


@pytest.mark.parametrize("n", [3, 10, 1000, 50_000])
@pytest.mark.parametrize("sigma", [0.002, 0.02, 0.1])
def test_figures_equal_the_direct_computation(n: int, sigma: float) -> None:
    predicted, true = sample(n, sigma)
    expected = direct(predicted, true)
    found = figures(statistics(predicted, true)).model_dump()
    for name in ("mae", "mse", "bias", "r2", "outlier_fraction"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name
    assert found["nmad"] == pytest.approx(expected["nmad"], abs=1.4826 * 2 * BIN_WIDTH)
    if n >= 1000:
        assert found["nmad"] == pytest.approx(expected["nmad"], abs=3e-5 + 0.002 * sigma)


@given(cuts=st.lists(st.integers(0, 500), max_size=6), shuffle=st.randoms())
@settings(max_examples=25, deadline=None)
def test_merging_any_split_in_any_order_is_the_whole(cuts: list[int], shuffle) -> None:
    predicted, true = sample(500)
    edges = [0, *sorted(cuts), 500]
    parts = [statistics(predicted[a:b], true[a:b]) for a, b in itertools.pairwise(edges)]
    shuffle.shuffle(parts)
    whole, merged = statistics(predicted, true), merge(parts)
    assert (merged.count, merged.outliers, merged.histogram) == (
        whole.count, whole.outliers, whole.histogram,
    )  # fmt: skip
    assert figures(merged).model_dump() == pytest.approx(figures(whole).model_dump(), rel=1e-9)


def test_galaxies_without_a_finite_pair_are_left_out() -> None:
    predicted = np.array([0.1, np.nan, 0.3, np.inf, 0.5], np.float32)
    true = np.array([0.1, 0.2, np.nan, 0.4, 0.5], np.float32)
    assert statistics(predicted, true).count == 2
    assert figures(statistics(predicted, true)).mae == 0


def test_no_galaxies_have_no_figures() -> None:
    nothing = figures(merge([]))
    assert nothing.num_galaxies == 0
    assert nothing.r2 is nothing.nmad is nothing.mae is None


def test_one_redshift_has_no_r2_and_a_wild_model_no_nmad() -> None:
    true = np.full(10, 0.1, np.float32)
    assert figures(statistics(true, true)).r2 is None
    wild = figures(statistics(true + 5, true))
    assert wild.nmad is None
    assert wild.outlier_fraction == 1


def test_ten_thousand_ranks_reduce_quickly_and_small() -> None:
    predicted, true = sample(5000)
    part = statistics(predicted, true)
    assert len(part.histogram) < 4000
    total = merge(part for _ in range(1000))
    assert total.count == 5_000_000
    assert len(total.histogram) < 8000


def test_a_damaged_histogram_is_an_error() -> None:
    packed = pack({5: 1, 9999: 3})
    assert unpack(packed) == {5: 1, 9999: 3}
    for damaged in (packed[:-8], "not base64!", pack({10_000: 1})):
        with pytest.raises(CosmicAIError, match="histogram is damaged"):
            unpack(damaged)


def test_an_even_count_takes_the_middle_of_the_two_medians() -> None:
    true = np.zeros(4, np.float32)
    predicted = np.array([-0.1, -0.02, 0.02, 0.1], np.float32)
    nmad = figures(statistics(predicted, true)).nmad
    assert nmad is not None
    assert math.isclose(nmad, 1.4826 * 0.06, abs_tol=3e-4)
