"""PIT, CRPS and the CDE loss's terms against their definitions, integrated by scipy."""

import itertools

import numpy as np
import pytest
from cosmicai.model.interface import MixtureOutput, NormalOutput, PdfOutput, QuantilesOutput
from cosmicai.outputs import stored_form
from cosmicai.quality import figures, statistics_of
from cosmicai.scores import scores_of
from scipy import integrate, stats

RNG = np.random.default_rng(5)
N = 7
MEAN, SIGMA = RNG.uniform(0.08, 0.4, N), RNG.uniform(0.008, 0.04, N)
TRUE = MEAN + SIGMA * np.linspace(-3, 3, N)
EDGES = np.linspace(0, 0.6, 121)
LEVELS = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
LOGS = np.log1p(MEAN)[:, None] + [[-0.02, 0.0, 0.05]]
LOG_SIGMAS = np.log(np.outer(SIGMA, (0.5, 1.0, 2.0)))
LOGITS = RNG.normal(size=(N, 3))


def normal(i):
    found = stats.norm(MEAN[i], SIGMA[i])
    return found.pdf, found.cdf


def histogram(i):
    counts = np.diff(stats.norm.cdf(EDGES, MEAN[i], SIGMA[i]))
    found = stats.rv_histogram((counts, EDGES), density=False)
    return found.pdf, found.cdf


def quantiles(i):
    z = stats.norm.ppf(LEVELS, MEAN[i], SIGMA[i])
    first = z[0] - LEVELS[0] * (z[1] - z[0]) / (LEVELS[1] - LEVELS[0])
    last = z[-1] + (1 - LEVELS[-1]) * (z[-1] - z[-2]) / (LEVELS[-1] - LEVELS[-2])
    knots = np.array([first, *z, last])
    found = stats.rv_histogram((np.diff([0, *LEVELS, 1]), knots), density=False)
    return found.pdf, found.cdf


def mixture(i):
    weights = np.exp(LOGITS[i]) / np.exp(LOGITS[i]).sum()
    parts = [
        (w, stats.norm(m, np.exp(s)))
        for w, m, s in zip(weights, LOGS[i], LOG_SIGMAS[i], strict=True)
    ]
    return (
        lambda z: sum(w * part.pdf(np.log1p(z)) / (1 + z) for w, part in parts),
        lambda z: sum(w * part.cdf(np.log1p(z)) for w, part in parts),
    )


CASES = {
    "normal": (NormalOutput(), np.stack([MEAN, SIGMA], 1), normal),
    "pdf": (
        PdfOutput(start=0.0025, stop=0.5975, bins=120),
        np.diff(stats.norm.cdf(EDGES, MEAN[:, None], SIGMA[:, None]), axis=1),
        histogram,
    ),
    "quantiles": (
        QuantilesOutput(levels=LEVELS),
        stats.norm.ppf(LEVELS, MEAN[:, None], SIGMA[:, None]),
        quantiles,
    ),
    "mixture": (
        MixtureOutput(components=3),
        np.concatenate([LOGITS, LOGS, LOG_SIGMAS], 1),
        mixture,
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stored", [False, True])
def test_scores_are_their_definitions(name: str, stored: bool) -> None:
    output, raw, expected = CASES[name]
    if stored:  # as predictions files keep them: bins in half precision
        output, raw = stored_form(output, raw)
    found = scores_of(output, raw, TRUE)
    rel = 1e-3 if stored else 4e-4
    for i, z in enumerate(TRUE):
        density, cdf = expected(i)
        x = np.linspace(MEAN[i] - 30 * SIGMA[i], MEAN[i] + 30 * SIGMA[i], 40_001)
        assert found.pit[i] == pytest.approx(cdf(z), abs=rel)
        assert found.density[i] == pytest.approx(density(z), rel=rel, abs=rel)
        crps = integrate.trapezoid((cdf(x) - (x >= z)) ** 2, x)
        assert found.crps[i] == pytest.approx(crps, rel=rel)
        square = integrate.trapezoid(density(x) ** 2, x)
        assert found.squared_density[i] == pytest.approx(square, rel=rel)


@pytest.mark.parametrize("sigma", [1e-4, 0.01, 0.5])
def test_scores_of_mixtures_are_exact_however_narrow_and_far_apart_they_are(sigma: float) -> None:
    means, weights = np.log1p([0.1, 0.9]), [0.3, 0.7]
    raw = np.array([[*np.log(weights), *means, np.log(sigma), np.log(2 * sigma)]])
    parts = [stats.norm(m, s) for m, s in zip(means, (sigma, 2 * sigma), strict=True)]

    def cdf(t):
        return sum(w * part.cdf(t) for w, part in zip(weights, parts, strict=True))

    def density(t):
        return sum(w * part.pdf(t) for w, part in zip(weights, parts, strict=True))

    for z in (0.1, 0.2, 0.9):
        found = scores_of(MixtureOutput(components=2), raw, np.array([z]))
        t = np.log1p(z)
        ends = np.unique([*means, t, *means - 20 * sigma, *means + 20 * sigma, -9, 12])
        integrands = (
            lambda x, t=t: (cdf(x) - (x >= t)) ** 2 * np.exp(x),
            lambda x: density(x) ** 2 * np.exp(-x),
        )
        crps, squares = (
            sum(
                integrate.quad(f, low, high, limit=200, epsabs=1e-14)[0]
                for low, high in itertools.pairwise(ends)
            )
            for f in integrands
        )
        assert found.crps[0] == pytest.approx(crps, rel=1e-6)
        assert found.squared_density[0] == pytest.approx(squares, rel=1e-6)


def test_what_double_precision_cannot_hold_has_no_scores() -> None:
    raw = np.array([[0.0, 0.1, 40.0], [0.0, 0.1, -3.0]])
    found = np.stack(scores_of(MixtureOutput(components=1), raw, np.array([0.1, 0.1])))
    assert np.isnan(found[:, 0]).all()
    assert np.isfinite(found[:, 1]).all()


def test_a_true_redshift_far_away_costs_its_distance() -> None:
    for output, raw, _ in CASES.values():
        for z in (5.0, -0.9):
            found = scores_of(output, raw, np.full(N, z))
            np.testing.assert_allclose(found.crps, np.abs(MEAN - z), atol=0.1)
            np.testing.assert_allclose(found.pit, z > 0, atol=1e-9)
            np.testing.assert_allclose(found.density, 0, atol=1e-9)


def test_unknown_and_unpredicted_galaxies_have_none() -> None:
    true = np.where(np.arange(N) == 2, np.nan, TRUE)
    for output, raw, _ in CASES.values():
        given = raw.copy()
        given[5] = np.nan
        lost = np.isnan(np.stack(scores_of(output, given, true)))
        assert (lost == np.isin(np.arange(N), (2, 5))).all()


def test_figures_of_stored_columns_have_them() -> None:
    output, raw, _ = CASES["mixture"]
    meaning, kept = stored_form(output, raw)
    columns = {
        "redshift": MEAN,
        "true_redshift": TRUE,
        "magnitude_r": np.full(N, 17.2),
        "pdf": kept,
        "output": np.array(meaning.model_dump_json()),
    }
    quality = figures(statistics_of(columns))
    scores = scores_of(meaning, kept, TRUE)
    assert quality.num_distributions == sum(quality.pit_histogram) == N
    assert quality.crps == pytest.approx(scores.crps.mean())
    assert quality.cde_loss == pytest.approx((scores.squared_density - 2 * scores.density).mean())
    assert quality.by_magnitude[0].crps == pytest.approx(quality.crps)
