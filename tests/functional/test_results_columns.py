"""A new catalogue column is one declaration: here a colour, from the command line to catalogues."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from cosmicai.columns import COLUMNS, StoredColumn, register
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.results.run_folder import load_run
from model_fill import SMALL, filled_bundle
from s3_stack import make_galaxies


@pytest.fixture
def colour():
    column = StoredColumn(
        name="g_r",
        dtype="float32",
        description="colour g - r",
        ucd="phot.color;em.opt.B;em.opt.R",
        unit="mag",
        value=lambda batch: batch.magnitude[:, 1] - batch.magnitude[:, 2],
    )
    register(column)
    yield column
    del COLUMNS["g_r"]


@pytest.fixture
def data(tmp_path):
    galaxies = make_galaxies(7, seed=1)
    write_partition(tmp_path / "1.pt", galaxies, {"from": "test"})
    filled_bundle(SMALL, tmp_path / "model")
    words = ["infer", str(tmp_path / "model"), str(tmp_path / "1.pt"), "--engine", "plain"]
    return galaxies, [*words, "-o", str(tmp_path / "run")]


@pytest.mark.parametrize("form", ["fits", "parquet", "csv"])
def test_it_is_predicted_exported_and_described(colour, data, tmp_path, form):
    galaxies, infer = data
    assert main(infer) == 0
    target = tmp_path / f"catalogue.{form}"
    assert main(["results", "export", str(tmp_path / "run"), "--to", form, "-o", str(target)]) == 0
    table = Table.read(target)
    expected = galaxies.magnitude[:, 1] - galaxies.magnitude[:, 2]
    np.testing.assert_allclose(np.asarray(table["g_r"], np.float32), expected, rtol=1e-6)
    assert list(table.columns)[-1] == "g_r"
    if form == "fits":
        header = fits.getheader(target, 1)
        number = len(table.columns)
        assert header[f"TUNIT{number}"] == "mag"
        assert header[f"TUCD{number}"] == colour.ucd
        assert header[f"TCOMM{number}"] == colour.description


def test_a_run_older_than_the_column_has_no_values_of_it(data, tmp_path, request):
    _, infer = data
    assert main(infer) == 0
    request.getfixturevalue("colour")
    stored = load_run(tmp_path / "run").predictions.stored
    assert np.isnan(stored["g_r"]).all()
    assert np.isfinite(stored["redshift"]).all()
