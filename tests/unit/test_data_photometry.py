"""The survey's rows and the train/test split."""

import numpy as np
import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.data.photometry import (
    as_split,
    is_test_parent,
    load_sample,
    load_split,
    sky_positions,
)


def test_sample_has_the_usable_rows_in_the_documented_ranges() -> None:
    sample = load_sample()
    assert len(sample) == 9984
    assert np.isfinite(sample.magnitude).all()
    assert sample.redshift.min() > 0.01
    assert sample.redshift.max() < 0.4
    # Row 0 of the table, by hand: flux 27.263485 and extinction 0.2627758 in u.
    first = sample[sample.parent == 0]
    assert first.magnitude[0, 0] == pytest.approx(
        22.5 - 2.5 * np.log10(27.263485) - 0.2627758, abs=1e-6
    )
    assert first.redshift[0] == pytest.approx(0.082658716)
    ra, dec = sky_positions()
    assert (ra[0], dec[0]) == pytest.approx((122.086662, 36.19685417685775))


def test_splits_share_no_parent_and_cover_the_sample() -> None:
    train, test = (set(load_split(split).parent.tolist()) for split in ("train", "test"))
    assert not train & test
    assert train | test == set(load_sample().parent.tolist())
    assert len(test) >= 2000  # the model's figures are on 2,000 galaxies with unseen parents


def test_split_of_a_row_never_changes() -> None:
    # Literal values: a shipped model has seen the rows that were in train when it was made.
    assert [is_test_parent(row) for row in range(12)] == [
        True,
        True,
        False,
        False,
        True,
        True,
        True,
        True,
        True,
        True,
        False,
        False,
    ]


def test_unknown_split_is_named() -> None:
    with pytest.raises(InvalidInput, match="validation"):
        as_split("validation")
