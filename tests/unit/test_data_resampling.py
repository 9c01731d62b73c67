"""Galaxies beyond the survey's rows."""

import numpy as np
from cosmicai_workbench.data.photometry import MIN_FLUX, load_split
from cosmicai_workbench.data.resampling import Resampler


def test_resampled_galaxies_look_like_the_survey_and_keep_their_parents() -> None:
    survey = load_split("test")
    drawn = Resampler(survey).draw(4000, np.random.default_rng(0))

    assert set(drawn.parent.tolist()) <= set(survey.parent.tolist())
    assert (drawn.flux >= MIN_FLUX).all()
    parents = {int(row): z for row, z in zip(survey.parent, survey.redshift, strict=True)}
    moved = np.abs(drawn.redshift - [parents[int(row)] for row in drawn.parent])
    assert moved.max() <= 0.12 + 1e-9  # four steps of at most 0.03
    assert (moved > 0).mean() > 0.9

    # At the same redshift, moved galaxies have the colours of those that were observed there.
    for low, high in ((0.05, 0.08), (0.09, 0.12), (0.16, 0.20)):
        there, here = (
            sample[(sample.redshift > low) & (sample.redshift < high)] for sample in (survey, drawn)
        )
        difference = np.median(-np.diff(there.magnitude), axis=0) - np.median(
            -np.diff(here.magnitude), axis=0
        )
        assert np.abs(difference).max() < 0.06, (low, difference)
    quantiles = [0.1, 0.5, 0.9]
    np.testing.assert_allclose(
        np.quantile(drawn.redshift, quantiles), np.quantile(survey.redshift, quantiles), atol=0.02
    )


def test_draws_repeat_with_the_seed() -> None:
    resampler = Resampler(load_split("test")[:50])
    first, second = (resampler.draw(20, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.flux, second.flux)
