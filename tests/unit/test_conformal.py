"""Conformal intervals against those of crepes, and what they promise."""

import crepes
import numpy as np
import pytest
from cosmicai.calibration import Calibration, LabelledSet
from cosmicai.errors import InvalidInput
from cosmicai.model.bundle import Bundle
from cosmicai.quality import MAGNITUDE_EDGES, REDSHIFT_EDGES
from cosmicai_workbench.modeling.calibrating import Labelled, write_calibrated
from cosmicai_workbench.modeling.conformal import FEWEST, fit, quantiles
from model_fill import SMALL, filled_bundle

LABELLED = LabelledSet(galaxies=1)


def galaxies(n: int, seed: int = 0):
    """A model that is biased, and worse on faint and on distant galaxies."""
    rng = np.random.default_rng(seed)
    true, magnitude = rng.gamma(4, 0.03, n), 17.8 - rng.exponential(0.7, n)
    scatter = 0.01 + 0.02 * (magnitude > 17) + 0.05 * true
    redshift = true + 0.01 * (true - 0.1) + (1 + true) * scatter * rng.standard_t(4, n)
    return redshift, true, magnitude


def cells_in_use(calibration: Calibration, redshift, magnitude) -> np.ndarray:
    cells = calibration.cells_of(redshift, magnitude)
    assert set(cells) == set(range(len(calibration.cells)))
    return cells


def test_intervals_are_those_of_crepes_with_mondrian_categories() -> None:
    redshift, true, magnitude = galaxies(6000)
    calibration = fit(redshift, true, magnitude, LABELLED, minimum=300)
    assert len(calibration.cells) > 8
    judge = crepes.ConformalPredictiveSystem()
    cells = cells_in_use(calibration, redshift, magnitude)
    judge.fit(true - redshift, 1 + redshift, cells)
    new_redshift, _, new_magnitude = galaxies(500, seed=1)
    new_cells = calibration.cells_of(new_redshift, new_magnitude)
    found = calibration.intervals(new_redshift, new_magnitude)
    for percent, *bounds in ((68, *found[:2]), (95, *found[2:])):
        expected = judge.predict_int(
            new_redshift, 1 + new_redshift, new_cells, confidence=percent / 100
        )
        np.testing.assert_allclose(np.transpose(bounds), expected, atol=1e-6)


@pytest.mark.parametrize("n", [39, 40, 199, 1000, 12_345])
@pytest.mark.parametrize("percent", [68, 95])
def test_the_promise_is_kept_on_average(n: int, percent: int) -> None:
    rng = np.random.default_rng(n)
    covered = []
    for _ in range(400):
        residual = rng.gumbel(size=n)
        low, high, promised = quantiles(residual, percent)
        assert promised >= percent / 100
        new = rng.gumbel(size=200)
        covered.append(((low <= new) & (new <= high)).mean())
    assert np.mean(covered) == pytest.approx(promised, abs=0.006)
    assert promised <= percent / 100 + 2 / (n + 1)


@pytest.mark.parametrize("minimum", [50, 500, 5000, 10**6])
def test_cells_have_the_minimum_and_follow_the_bins_of_the_quality_figures(minimum: int) -> None:
    redshift, true, magnitude = galaxies(20_000)
    calibration = fit(redshift, true, magnitude, LABELLED, minimum=minimum)
    cells = cells_in_use(calibration, redshift, magnitude)
    for number, cell in enumerate(calibration.cells):
        assert cell.galaxies == (cells == number).sum()
        assert cell.galaxies >= min(minimum, 20_000)
    assert set(calibration.redshift_edges) <= set(REDSHIFT_EDGES)
    assert set(calibration.magnitude_edges) <= set(MAGNITUDE_EDGES)
    assert sum(cell.galaxies for cell in calibration.cells) == 20_000
    if minimum == 10**6:
        assert calibration.cell_of == ((0,),)


def test_measured_coverage_is_near_the_promise() -> None:
    calibration = fit(*galaxies(20_000), LABELLED)
    for cell in calibration.cells:
        for level in (cell.level68, cell.level95):
            assert level.measured == pytest.approx(level.coverage, abs=0.03)


def test_without_magnitudes_cells_are_bins_of_redshift() -> None:
    redshift, true, _ = galaxies(5000)
    calibration = fit(redshift, true, None, LABELLED)
    assert calibration.magnitude_edges == ()
    assert len(calibration.cells) == len(calibration.redshift_edges) + 1 > 3
    assert np.isfinite(calibration.intervals(redshift)[0]).all()


def test_a_cell_needs_enough_galaxies_for_its_widest_interval() -> None:
    redshift, true, magnitude = galaxies(FEWEST)
    assert fit(redshift, true, magnitude, LABELLED).cells[0].galaxies == FEWEST == 39
    with pytest.raises(InvalidInput, match=r"39 galaxies .* found 38"):
        fit(redshift[1:], true[1:], magnitude[1:], LABELLED)


def test_galaxies_that_lack_something_are_left_out(tmp_path) -> None:
    redshift, true, magnitude = (values.astype(np.float32) for values in galaxies(600))
    true[:50], magnitude[50:80], redshift[80:90] = np.nan, np.nan, np.inf
    bundle = filled_bundle(SMALL, tmp_path / "model")
    with_r = write_calibrated(bundle, tmp_path / "a", Labelled("x", redshift, true, magnitude))
    assert with_r.labelled.galaxies == 600 - 90
    no_r = Labelled("x", redshift, true, np.full_like(magnitude, np.nan))
    without = write_calibrated(bundle, tmp_path / "b", no_r)
    assert without.labelled.galaxies == 600 - 60
    assert without.magnitude_edges == ()
    assert Bundle(tmp_path / "b").interface.calibration == without
