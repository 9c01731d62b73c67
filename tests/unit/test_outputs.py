"""Redshifts and distributions from raw outputs, against SciPy."""

import numpy as np
import pytest
from cosmicai.calibration import Calibration
from cosmicai.facts import ODDS_WIDTH
from cosmicai.model.interface import (
    Distribution,
    MixtureOutput,
    NormalOutput,
    PdfOutput,
    PointOutput,
    QuantilesOutput,
    parse_output,
)
from cosmicai.outputs import cdf_at, default_grid, estimate, pdf, quantiles, stored_form
from model_fill import CALIBRATION, calibrated_cell
from scipy import optimize, stats

PDF = PdfOutput(start=0.005, stop=1.995, bins=200, logits=True)
NORMAL = NormalOutput(point="mean")
QUANTILES = QuantilesOutput(levels=(0.05, 0.25, 0.5, 0.75, 0.95))
MIXTURE = MixtureOutput(components=3, point="mode")
OUTPUTS = pytest.mark.parametrize(
    "output", [PDF, NORMAL, QUANTILES, MIXTURE], ids=lambda output: output.kind
)
N = 12


def raw_of(output: Distribution, count: int = N) -> np.ndarray:
    rng = np.random.default_rng(3)
    z, sigma = rng.uniform(0.1, 1.2, (count, 1)), rng.uniform(0.02, 0.1, (count, 1))
    if isinstance(output, PdfOutput):
        grid = default_grid(output, np.empty((0, output.bins)))
        other = np.exp(-0.5 * ((grid - 1.3 * z - 0.1) / (2 * sigma)) ** 2)
        logits = np.log(np.exp(-0.5 * ((grid - z) / sigma) ** 2) + 0.3 * other + 1e-9) + 5
        return logits.astype(np.float32)
    if isinstance(output, NormalOutput):
        return np.concatenate((z, sigma), 1).astype(np.float32)
    if isinstance(output, QuantilesOutput):
        scores = stats.skewnorm.ppf(output.levels, 4)
        return (z + sigma * scores).astype(np.float32)
    logits = rng.normal(0, 1.5, (count, 3))
    means = np.log1p(z) + rng.normal(0, 0.15, (count, 3))
    return np.concatenate((logits, means, rng.uniform(-4, -2, (count, 3))), 1).astype(np.float32)


class Reference:
    """One galaxy's distribution, by SciPy."""

    def __init__(self, output: Distribution, row: np.ndarray) -> None:
        row = row.astype(np.float64)
        if isinstance(output, PdfOutput):
            p = np.exp(row - row.max())
            centres = np.linspace(output.start, output.stop, output.bins)
            edges = np.append(centres - 0.005, centres[-1] + 0.005)
            found = stats.rv_histogram((p / p.sum(), edges), density=False)
            self.cdf, self.pdf, self.mean = found.cdf, found.pdf, found.mean()
            self.mode = centres[p.argmax()]
        elif isinstance(output, NormalOutput):
            found = stats.norm(*row)
            self.cdf, self.pdf, self.mean, self.mode = found.cdf, found.pdf, row[0], row[0]
        elif isinstance(output, QuantilesOutput):
            slopes = np.diff(row) / np.diff(output.levels)
            ends = row[0] - slopes[0] * output.levels[0], row[-1] + slopes[-1] * 0.05
            edges = np.array([ends[0], *row, ends[1]])
            p = np.diff([0, *output.levels, 1])
            found = stats.rv_histogram((p, edges), density=False)
            self.cdf, self.pdf, self.mean = found.cdf, found.pdf, found.mean()
            best = (p / np.diff(edges)).argmax()
            self.mode = None if best == 0 else (edges[best] + edges[best + 1]) / 2
        else:
            weights = np.exp(row[:3]) / np.exp(row[:3]).sum()
            parts = [
                stats.lognorm(s=np.exp(log_sigma), scale=np.exp(mean), loc=-1)
                for mean, log_sigma in zip(row[3:6], row[6:], strict=True)
            ]
            self.cdf = lambda z: sum(w * d.cdf(z) for w, d in zip(weights, parts, strict=True))
            self.pdf = lambda z: sum(w * d.pdf(z) for w, d in zip(weights, parts, strict=True))
            self.mean = sum(w * d.mean() for w, d in zip(weights, parts, strict=True))
            grid = np.linspace(-0.5, 5, 20_001)
            near = grid[self.pdf(grid).argmax()]
            self.mode = optimize.minimize_scalar(
                lambda z: -self.pdf(z), bounds=(near - 0.001, near + 0.001), method="bounded",
                options={"xatol": 1e-9},
            ).x  # fmt: skip

    def ppf(self, level: float) -> float:
        return optimize.brentq(lambda z: self.cdf(z) - level, -0.9, 20, xtol=1e-12)


@OUTPUTS
def test_estimates_are_those_of_scipy(output: Distribution) -> None:
    raw = raw_of(output)
    found = estimate(output, raw)
    assert np.array_equal(found["redshift"], found[f"z_{output.point}"])
    for row in range(N):
        expected = Reference(output, raw[row])
        for name, level in (("median", 0.5), ("lo68", 0.16), ("hi68", 0.84), ("lo95", 0.025),
                            ("hi95", 0.975)):  # fmt: skip
            assert found[f"z_{name}"][row] == pytest.approx(expected.ppf(level), abs=2e-6)
        assert found["z_mean"][row] == pytest.approx(expected.mean, abs=2e-6)
        if expected.mode is None:
            continue
        assert found["z_mode"][row] == pytest.approx(expected.mode, abs=2e-6)
        reach = ODDS_WIDTH * (1 + expected.mode)
        odds = expected.cdf(expected.mode + reach) - expected.cdf(expected.mode - reach)
        assert found["odds"][row] == pytest.approx(odds, abs=1e-5)


@OUTPUTS
def test_density_and_probability_are_those_of_scipy(output: Distribution) -> None:
    raw, z = raw_of(output), np.linspace(-1.2, 2.2, N)
    grid = np.linspace(-1.2, 2.2, 57)
    density, below, many = pdf(output, raw, grid), cdf_at(output, raw, z), None
    many = cdf_at(output, raw, np.tile(grid, (N, 1)))
    for row in range(N):
        expected = Reference(output, raw[row])
        np.testing.assert_allclose(density[row], expected.pdf(grid), atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(many[row], expected.cdf(grid), atol=1e-6)
        assert below[row] == pytest.approx(expected.cdf(z[row]), abs=1e-6)


@OUTPUTS
def test_what_is_stored_says_the_same(output: Distribution) -> None:
    raw = raw_of(output)
    meaning, kept = stored_form(output, raw)
    assert kept.dtype == (np.float16 if output.kind == "pdf" else np.float32)
    assert kept.shape == (N, output.values)
    again = parse_output(meaning.model_dump_json())
    grid = default_grid(output, raw)
    near = 1e-3 if output.kind == "pdf" else 1e-6
    for level in (0.025, 0.5, 0.975):
        z = quantiles(output, raw, [level])[:, 0]
        np.testing.assert_allclose(cdf_at(again, kept, z), level, atol=near)
    peak = pdf(output, raw, grid)
    np.testing.assert_allclose(pdf(again, kept, grid), peak, atol=near * peak.max())


@OUTPUTS
def test_rows_that_describe_nothing_have_no_prediction(output: Distribution) -> None:
    raw = raw_of(output)
    raw[0, -1], raw[1, 0], raw[2] = np.nan, np.inf, -np.inf
    if output.kind == "normal":
        raw[3, 1] = 0
    elif output.kind == "mixture":
        raw[3, -1] = 100  # the logarithm of a sigma
    else:
        raw[3] = np.nan
    found = estimate(output, raw)
    for values in found.values():
        assert np.isnan(values[:4]).all()
        assert np.isfinite(values[4:]).all()
    kept = stored_form(output, raw)[1]
    assert np.isnan(kept[:4]).all()
    assert np.isfinite(kept[4:]).all()
    assert np.isnan(pdf(output, raw, [0.1, 0.2])[:4]).all()
    assert np.isnan(cdf_at(output, raw, np.full(N, 0.3))[:4]).all()
    assert np.isnan(cdf_at(output, raw, np.full(N, np.nan))).all()


@OUTPUTS
def test_no_galaxies_give_no_rows(output: Distribution) -> None:
    none = np.empty((0, output.values), np.float32)
    assert all(values.shape == (0,) for values in estimate(output, none).values())
    assert pdf(output, none, [0.1, 0.2]).shape == (0, 2)
    assert cdf_at(output, none, np.empty(0)).shape == (0,)
    assert stored_form(output, none)[1].shape == none.shape
    assert np.isfinite(default_grid(output, none)).all()


def test_probabilities_need_not_be_normalised_and_crossing_quantiles_are_sorted() -> None:
    logits = raw_of(PDF)
    plain = PdfOutput(start=0.005, stop=1.995, bins=200)
    powers = 7 * np.exp(logits - logits.max(axis=1, keepdims=True))
    expected, found = estimate(PDF, logits), estimate(plain, powers)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
    assert np.isnan(estimate(plain, np.zeros((1, 200)))["redshift"]).all()
    raw = raw_of(QUANTILES)
    expected, found = estimate(QUANTILES, raw), estimate(QUANTILES, raw[:, ::-1])
    assert all(np.array_equal(found[name], values) for name, values in expected.items())


def test_a_point_has_no_intervals_unless_it_is_calibrated() -> None:
    raw = np.array([0.1, np.nan, 0.4, np.inf], np.float32)
    assert list(estimate(PointOutput(), raw)) == ["redshift"]
    calibration = Calibration.model_validate(CALIBRATION)
    found = estimate(PointOutput(), raw[:, None], calibration, np.full(4, 19, np.float32))
    assert list(found) == ["redshift", "z_lo68", "z_hi68", "z_lo95", "z_hi95"]
    np.testing.assert_allclose(found["redshift"], [0.1, np.nan, 0.4, np.nan])
    np.testing.assert_allclose(
        found["z_lo68"], [0.1 - 0.01 * 1.1, np.nan, 0.4 - 0.03 * 1.4, np.nan]
    )
    np.testing.assert_allclose(
        found["z_hi95"], [0.1 + 0.04 * 1.1, np.nan, 0.4 + 0.08 * 1.4, np.nan]
    )


def test_a_calibrations_cells_are_those_of_redshift_and_magnitude() -> None:
    calibration = Calibration.model_validate(CALIBRATION)
    redshift = np.array([0.1, 0.2, 0.3, 0.3, np.nan, 0.3], np.float32)
    magnitude = np.array([19, 16, 17.5, 18, 18, np.nan], np.float32)
    assert calibration.cells_of(redshift, magnitude)[:4].tolist() == [0, 1, 1, 2]
    lo68, hi68, lo95, hi95 = calibration.intervals(redshift, magnitude)
    for bound, factor in ((lo68, -0.03), (hi68, 0.04), (lo95, -0.06), (hi95, 0.08)):
        assert bound.dtype == np.float32
        assert bound[3] == pytest.approx(0.3 + factor * 1.3)
        assert np.isnan(bound[4:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"redshift_edges": [0.2, 0.1], "cell_of": [[0] * 3] * 3}, "rising numbers expected"),
        ({"cell_of": [[0, 0, 0]]}, "2 rows of 3 cells expected"),
        ({"cell_of": [[0, 0, 0], [1, 1, 3]]}, "numbers below 3 expected"),
        ({"cells": [calibrated_cell(0.2, 0.1)] * 3}, "lower: at most upper"),
        ({"cells": []}, "at least 1 item"),
        ({"spare": 1}, "Extra inputs"),
    ],
)
def test_a_damaged_calibration_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibration.model_validate(CALIBRATION | change)
