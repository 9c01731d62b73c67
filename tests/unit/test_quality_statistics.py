"""Figures of merit against NumPy's direct computation, merged any way."""

import itertools
import math

import numpy as np
import pytest
from cosmicai.errors import CosmicAIError
from cosmicai.histograms import pack, unpack
from cosmicai.quality import (
    CHANCE,
    MAGNITUDE_EDGES,
    OVERALL,
    REDSHIFT_EDGES,
    figures,
    merge,
    statistics,
    warnings,
)
from cosmicai.schema import Quality, QualityStatistics, parse
from cosmicai.scores import Scores
from flat_numbers import same_numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

RNG = np.random.default_rng(7)
BIN_WIDTH = OVERALL.relative.width


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
        "bias": relative.mean(),
        "r2": 1 - (error**2).sum() / ((true.astype(float) - true.astype(float).mean()) ** 2).sum(),
        "outlier_fraction": (np.abs(relative) > 0.05).mean(),
        "outlier_fraction_15": (np.abs(relative) > 0.15).mean(),
        "nmad": stats.median_abs_deviation(relative, scale="normal"),
    }


@pytest.mark.parametrize("n", [3, 10, 1000, 50_000])
@pytest.mark.parametrize("sigma", [0.002, 0.02, 0.1])
def test_figures_equal_the_direct_computation(n: int, sigma: float) -> None:
    predicted, true = sample(n, sigma)
    expected = direct(predicted, true)
    found = figures(statistics(predicted, true)).model_dump()
    for name in ("mae", "mse", "bias", "r2", "outlier_fraction", "outlier_fraction_15"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name
    assert found["nmad"] == pytest.approx(expected["nmad"], abs=1.4826 * 2 * BIN_WIDTH)
    if n >= 1000:
        relative = (predicted.astype(float) - true) / (1 + true.astype(float))
        beyond = (np.abs(relative) > 3 * expected["nmad"]).mean()
        assert found["outlier_fraction_3sigma"] == pytest.approx(beyond, abs=5e-3)
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
    assert same_numbers(figures(merged), figures(whole))


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
    assert unpack(packed, 10_000) == {5: 1, 9999: 3}
    for damaged in (packed[:-8], "not base64!", pack({10_000: 1})):
        with pytest.raises(CosmicAIError, match="histogram is damaged"):
            unpack(damaged, 10_000)


def test_an_even_count_takes_the_middle_of_the_two_medians() -> None:
    true = np.zeros(4, np.float32)
    predicted = np.array([-0.1, -0.02, 0.02, 0.1], np.float32)
    nmad = figures(statistics(predicted, true)).nmad
    assert nmad is not None
    assert math.isclose(nmad, 1.4826 * 0.06, abs_tol=3e-4)


def observed(n: int, spread: float = 1.0):
    """Galaxies whose p(z) are normal, with intervals of them; ``spread`` 1 is a perfect model."""
    predicted, sigma = RNG.uniform(0.01, 0.4, n), RNG.uniform(0.005, 0.03, n)
    true = predicted + spread * sigma * RNG.normal(size=n)
    scores = Scores(
        pit=stats.norm.cdf(true, predicted, sigma),
        crps=RNG.uniform(0, 0.02, n),
        density=stats.norm.pdf(true, predicted, sigma),
        squared_density=1 / (2 * sigma * np.sqrt(np.pi)),
    )
    intervals = {
        f"z_{side}{level}": predicted + sign * stats.norm.ppf(0.5 + level / 200) * sigma
        for level in (68, 95)
        for side, sign in (("lo", -1), ("hi", 1))
    }
    return predicted, true, RNG.uniform(14.5, 17.8, n), intervals, scores


@pytest.mark.parametrize(("n", "spread"), [(50, 1.0), (3000, 1.0), (3000, 1.6), (3000, 0.5)])
def test_pit_and_coverage_are_those_of_scipy_and_of_counting(n: int, spread: float) -> None:
    predicted, true, magnitude, intervals, scores = observed(n, spread)
    found = figures(statistics(predicted, true, magnitude, intervals=intervals, scores=scores))
    pit = scores.pit
    assert found.pit_ks == pytest.approx(stats.kstest(pit, "uniform").statistic, abs=1e-3)
    expected = stats.cramervonmises(pit, "uniform").statistic
    assert found.pit_cvm == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert found.pit_histogram == tuple(np.histogram(pit, 20, (0, 1))[0])
    assert found.num_distributions == found.num_intervals == n
    for level in (68, 95):
        inside = (intervals[f"z_lo{level}"] <= true) & (true <= intervals[f"z_hi{level}"])
        assert getattr(found, f"coverage_{level}") == inside.mean()
    assert found.crps == pytest.approx(scores.crps.mean())
    loss = scores.squared_density.mean() - 2 * scores.density.mean()
    assert found.cde_loss == pytest.approx(loss)


def test_bins_hold_the_figures_of_their_galaxies() -> None:
    predicted, true, magnitude, intervals, scores = observed(4000)
    found = figures(statistics(predicted, true, magnitude, intervals=intervals, scores=scores))
    for bins, values, edges in (
        (found.by_redshift, predicted, REDSHIFT_EDGES),
        (found.by_magnitude, magnitude, MAGNITUDE_EDGES),
    ):
        assert sum(bin_.num_galaxies for bin_ in bins) == 4000
        assert len(bins) > 5
        assert all(a.high == b.low for a, b in itertools.pairwise(bins))
        for bin_ in bins:
            assert {bin_.low, bin_.high} <= {None, *edges}
            low, high = bin_.low or -np.inf, bin_.high or np.inf
            here = (values >= low) & (values < high)
            assert bin_.num_galaxies == here.sum()
            expected = direct(predicted[here], true[here])
            for name in ("mae", "mse", "bias", "r2", "outlier_fraction", "outlier_fraction_15"):
                assert getattr(bin_, name) == pytest.approx(expected[name], rel=1e-6), name
            assert bin_.nmad == pytest.approx(expected["nmad"], abs=3e-3)
            inside = (intervals["z_lo68"] <= true) & (true <= intervals["z_hi68"])
            assert bin_.coverage_68 == inside[here].mean()
            ks = stats.kstest(scores.pit[here], "uniform").statistic
            assert bin_.pit_ks == pytest.approx(ks, abs=1e-2 + 1 / here.sum())


def test_everything_merges() -> None:
    predicted, true, magnitude, intervals, scores = observed(900)
    cuts = [slice(0, 10), slice(10, 400), slice(400, 900)]
    parts = [
        statistics(
            predicted[cut], true[cut], magnitude[cut],
            intervals={name: values[cut] for name, values in intervals.items()},
            scores=Scores(*(values[cut] for values in scores)),
        )
        for cut in cuts
    ]  # fmt: skip
    whole = statistics(predicted, true, magnitude, intervals=intervals, scores=scores)
    read = [parse(QualityStatistics, part.model_dump(mode="json")) for part in parts]
    assert same_numbers(figures(merge(read)), figures(whole))


def test_galaxies_without_intervals_or_distributions_are_counted_apart() -> None:
    predicted, true, magnitude, intervals, scores = observed(100)
    for values in (*intervals.values(), *scores):
        values[:30] = np.nan
    found = figures(statistics(predicted, true, magnitude, intervals=intervals, scores=scores))
    assert (found.num_galaxies, found.num_intervals, found.num_distributions) == (100, 70, 70)
    assert found.coverage_68 == pytest.approx(0.68, abs=0.2)
    plain = figures(statistics(predicted, true))
    assert plain.coverage_68 is plain.pit_ks is plain.crps is plain.cde_loss is None
    assert plain.by_magnitude == ()


def test_a_record_from_before_merges_and_leaves_the_bias_open() -> None:
    predicted, true = sample(500)
    new = statistics(predicted, true)
    kept = {
        "count", "sum_true", "sum_true_squared", "sum_error", "sum_absolute_error",
        "sum_squared_error", "outliers", "below", "above", "histogram",
    }  # fmt: skip
    old = parse(QualityStatistics, new.model_dump(include=kept))
    found = figures(merge([old, new, QualityStatistics()]))
    assert found.bias is None
    assert (found.num_galaxies, found.mae) == (1000, figures(new).mae)
    assert figures(merge([new, QualityStatistics()])).bias is not None


def test_a_summary_from_before_does_not_pass_its_mean_error_off_as_bias() -> None:
    old = {"num_galaxies": 3, "mae": 0.1, "mse": 0.02, "bias": 0.05, "nmad": 0.1, "r2": 0.5}
    found = parse(Quality, {**old, "outlier_fraction": 0.0})
    assert (found.bias, found.mae) == (None, 0.1)
    now = figures(statistics(*sample(50)))
    assert parse(Quality, now.model_dump(mode="json")) == now


@pytest.mark.parametrize("n", [20, 200, 5000, 300_000])
@pytest.mark.parametrize("nominal", [0.68, 0.95])
def test_under_coverage_is_the_exact_binomial_test(n: int, nominal: float) -> None:
    level = round(100 * nominal)
    tolerated = nominal - {68: 0.02, 95: 0.01}[level]
    limit = stats.binom.ppf(CHANCE, n, tolerated)  # the fewest that chance may explain
    true = np.zeros(n)
    for inside, told in ((limit, False), (limit - 1, True)):
        high = np.where(np.arange(n) < inside, 1.0, -1.0)
        other = 163 - level
        intervals = {f"z_lo{level}": true - 2, f"z_hi{level}": high}
        intervals |= {f"z_lo{other}": true - 2, f"z_hi{other}": true + 2}
        quality = figures(statistics(true + 0.1, true, intervals=intervals))
        assert (level in quality.under_covered) is told
        assert any(f"the {level} %" in text for text in warnings(quality)) is told


def test_a_warning_names_the_bins() -> None:
    predicted, true, magnitude, intervals, _ = observed(20_000)
    assert warnings(figures(statistics(predicted, true, magnitude, intervals=intervals))) == []
    wrong = (predicted > 0.2) & (predicted < 0.25)
    intervals["z_hi95"][wrong] = intervals["z_lo95"][wrong]
    (text,) = warnings(figures(statistics(predicted, true, magnitude, intervals=intervals)))
    assert "95 %" in text
    assert "predicted redshift 0.2 to 0.25: 0.0%" in text
    assert "0.25 to 0.3" not in text
