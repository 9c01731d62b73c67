"""Columns as tables: what astropy, Arrow and pandas themselves say of them."""

import numpy as np
from astropy import units
from cosmicai.columns import COLUMNS
from cosmicai.tables import to_arrow, to_pandas, to_table

VALUES = {
    "object_id": np.array(["a", "bc"], dtype=object),
    "ra": np.array([150.0, np.nan]),
    "redshift": np.array([0.1, 0.2], np.float32),
    "magnitude_r": np.array([17.0, 17.5], np.float32),
    "rank": np.array([0, 1], np.int32),
}
META = {"RUNID": "run-1"}


def test_astropy_has_units_descriptions_and_the_values_to_the_bit():
    table = to_table(VALUES, META)
    assert list(table.columns) == list(VALUES)
    assert table["ra"].unit == units.deg
    assert table["magnitude_r"].unit == units.mag
    assert table["redshift"].unit is None
    assert table["redshift"].info.description == COLUMNS["redshift"].description
    assert table["ra"].info.meta["ucd"] == "pos.eq.ra;meta.main"
    assert table.meta == META
    for name in ("ra", "redshift", "magnitude_r", "rank"):
        np.testing.assert_array_equal(np.asarray(table[name]), VALUES[name])
        assert np.asarray(table[name]).dtype == VALUES[name].dtype
    assert table["object_id"].tolist() == ["a", "bc"]


def test_arrow_and_pandas_hold_the_same():
    arrow = to_arrow(VALUES, META)
    assert arrow.schema.metadata == {b"cosmicai.runid": b"run-1"}
    assert arrow.schema.field("ra").metadata[b"unit"] == b"deg"
    frame = to_pandas(VALUES)
    assert arrow.column_names == list(frame.columns) == list(VALUES)
    assert arrow.column("rank").to_pylist() == frame["rank"].tolist() == [0, 1]
    assert frame["redshift"].dtype == np.float32
