"""Catalogues for other programs: VOTable, HATS, qp, Euclid's columns; block by block."""

import csv
import json
import shutil
import subprocess

import numpy as np
import pytest
from cosmicai.errors import InvalidInput
from cosmicai.flags import FLAGS
from cosmicai.partition.catalogue import Catalogue, ColumnInfo, column_of
from cosmicai_workbench.results import catalogue as catalogues
from cosmicai_workbench.results.euclid import GRID
from cosmicai_workbench.results.export import export, export_catalogue
from cosmicai_workbench.results.formats import hats
from cosmicai_workbench.results.run_folder import load_run
from run_folders import make_run
from skies import RANKS, SAMPLES, run_with, sky

VALUE = {flag.name: flag.value for flag in FLAGS}
LOST = 2


def test_astropy_reads_the_votable_with_its_units_and_origin(tmp_path):
    from astropy.io.votable import parse

    run = run_with(tmp_path)
    path = tmp_path / "c.vot"
    assert export(run, path, "votable") == RANKS * SAMPLES
    file = parse(path)
    fields = {field.name: field for field in file.get_first_table().fields}
    assert (fields["ra"].ucd, str(fields["ra"].unit)) == ("pos.eq.ra;meta.main", "deg")
    assert {info.name: info.value for info in file.resources[0].infos}["RUNID"] == run.name
    table = file.get_first_table().to_table()
    assert table["object_id"].tolist()[:2] == [0, 1]
    found = np.ma.filled(np.ma.asarray(table["redshift"]), np.nan)
    np.testing.assert_array_equal(found, run.predictions.redshift)


def test_a_votable_holds_values_of_every_type_and_knows_the_missing_ones(tmp_path, monkeypatch):
    from astropy.io.votable import is_votable, validate
    from astropy.table import Table

    some = {
        "whole": ("int64", [2**62, None, -7]),
        "unsigned": ("uint64", [2**64 - 1, 0, None]),
        "single": ("float32", [None, 1.5, -2.25]),
        "double": ("float64", [1e300, None, 0.1]),
        "yes": ("bool", [True, False, None]),
        "name": ("str", ["naïve β", "", "😀 <&>"]),
    }
    carried = {}
    for rank in range(RANKS):
        columns = [
            column_of(ColumnInfo(name, dtype, "mag" if dtype == "float32" else ""), values)
            for name, (dtype, values) in some.items()
        ]
        carried[rank] = {
            "catalogue": Catalogue([*sky([rank, rank + 10, 99]).columns.values(), *columns])
        }
    run = run_with(tmp_path, "pdf", samples=3, carried=carried)
    monkeypatch.setattr(catalogues, "BLOCK_ROWS", 1)
    path = tmp_path / "c.vot"
    assert export(run, path, "votable") == RANKS * 3
    assert is_votable(path)
    assert validate(path, output=None)
    found, wanted = Table.read(path), catalogues.RunCatalogue(run).table().values
    assert found.colnames == [*wanted]
    for name, values in wanted.items():
        ours, theirs = (
            ["" if value is None or value != value else str(value) for value in column.tolist()]
            for column in (np.ma.asarray(found[name]), values)
        )
        assert ours == theirs, name
    if not shutil.which("stilts"):
        return
    words = ["stilts", "tpipe", f"in={path}", f"cmd=keepcols '{' '.join(some)}'", "ofmt=csv"]
    read = subprocess.run(words, capture_output=True, text=True, check=True, encoding="utf-8")
    first, second, third = list(csv.reader(read.stdout.splitlines()))[1:4]
    assert first == [str(2**62), str(2**64 - 1), "", "1.0E300", "true", "naïve β"]
    assert second == ["", "0", "1.5", "", "false", ""]
    assert third == ["-7", "", "-2.25", "0.1", "", "😀 <&>"]


def test_hats_has_a_sorted_file_for_each_pixel(tmp_path, monkeypatch):
    import pyarrow.parquet as pq
    from astropy_healpix import HEALPix

    monkeypatch.setattr(hats, "MAX_ROWS", 10)
    monkeypatch.setattr(catalogues, "BLOCK_ROWS", SAMPLES)
    run = run_with(tmp_path)
    path = tmp_path / "sky"
    done = export_catalogue(run, path, "hats")
    assert (done.rows, done.left_out) == (RANKS * SAMPLES, 0)
    ids = []
    for file in path.glob("dataset/Norder=*/Dir=*/Npix=*.parquet"):
        order = int(file.parts[-3].removeprefix("Norder="))
        number = int(file.stem.removeprefix("Npix="))
        table = pq.read_table(file, partitioning=None).to_pydict()
        assert len(table["ra"]) <= 10
        assert table["_healpix_29"] == sorted(table["_healpix_29"])
        from astropy import units

        pixels = HEALPix(2**order, "nested").lonlat_to_healpix(
            table["ra"] * units.deg, table["dec"] * units.deg
        )
        assert set(pixels) == {number}
        ids += table["object_id"]
    assert sorted(ids) == sorted(run.predictions.catalogue.columns["object_id"].values.tolist())
    properties = (path / "hats.properties").read_text().splitlines()
    assert f"hats_nrows={RANKS * SAMPLES}" in properties


def test_hats_leaves_out_objects_without_a_position(tmp_path):
    carried = {0: {"catalogue": sky(range(SAMPLES))}}
    run = run_with(tmp_path / "some", carried=carried)
    done = export_catalogue(run, tmp_path / "sky", "hats")
    assert (done.rows, done.left_out) == (SAMPLES, 2 * SAMPLES)
    run = run_with(tmp_path / "none", carried={})
    with pytest.raises(InvalidInput, match="no object has a position"):
        export(run, tmp_path / "nowhere", "hats")
    assert not (tmp_path / "nowhere").exists()


def test_only_a_catalogue_is_replaced_by_one(tmp_path):
    run = run_with(tmp_path)
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "cat.jpg").touch()
    with pytest.raises(InvalidInput, match="not replaced"):
        export(run, precious, "hats", overwrite=True)
    assert (precious / "cat.jpg").exists()
    export(run, tmp_path / "sky", "hats")
    assert export(run, tmp_path / "sky", "hats", overwrite=True) == RANKS * SAMPLES
    (tmp_path / "sky" / "notes.txt").touch()
    with pytest.raises(InvalidInput, match="not replaced"):
        export(run, tmp_path / "sky", "hats", overwrite=True)
    assert (tmp_path / "sky" / "notes.txt").exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("pdf", b"hist"),
        ("normal", b"norm"),
        ("quantiles", b"interp_irregular"),
        ("mixture", b"interp"),
    ],
)
def test_qp_holds_the_distributions_of_predicted_galaxies(tmp_path, kind, name, monkeypatch):
    import h5py

    monkeypatch.setattr(catalogues, "BLOCK_ROWS", SAMPLES)
    run = run_with(tmp_path, kind)
    done = export_catalogue(run, tmp_path / "pz.hdf5", "qp")
    expected = RANKS * SAMPLES - LOST
    assert (done.rows, done.left_out) == (expected, LOST)
    with h5py.File(tmp_path / "pz.hdf5") as file:
        names = {
            "pdf": b"hist",
            "normal": b"norm",
            "quantiles": b"interp_irregular",
            "mixture": b"interp",
        }
        assert file["meta/pdf_name"][:].tolist() == [names[kind]]
        assert {len(values) for values in file["data"].values()} == {expected}
        ids = file["ancil/object_id"][:]
        assert file.attrs["RUNID"] == run.name
        if kind in ("pdf", "mixture"):
            x, y = ("bins", "pdfs") if kind == "pdf" else ("xvals", "yvals")
            area = file[f"data/{y}"][:].sum(axis=1) * np.diff(file[f"meta/{x}"][0])[0]
            np.testing.assert_allclose(area, 1, atol=2e-3)
    predicted = np.isfinite(run.predictions.redshift)
    expected_ids = run.predictions.catalogue.columns["object_id"].values[predicted]
    np.testing.assert_array_equal(ids, expected_ids)


def test_what_a_model_of_points_cannot_give_is_refused(tmp_path):
    run = run_with(tmp_path)
    with pytest.raises(InvalidInput, match=r"p\(z\) of each galaxy expected"):
        export(run, tmp_path / "pz.hdf5", "qp")
    with pytest.raises(InvalidInput, match="intervals of 70 and 90 %"):
        export(run, tmp_path / "e.fits", "fits", columns="euclid")
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]


@pytest.mark.parametrize("form", ["fits", "parquet", "csv", "votable"])
def test_euclids_columns_are_euclids_in_meaning(tmp_path, form):
    from astropy.table import Table

    run = run_with(tmp_path, "normal")
    path = tmp_path / f"e.{form}"
    export(run, path, form, columns="euclid")
    table = Table.read(path)
    found = run.predictions_of(range(RANKS), distributions=True)
    mean, sigma = found.raw.T
    median = np.ma.filled(np.ma.asarray(table["PHZ_MEDIAN"]), np.nan)
    np.testing.assert_allclose(median, mean, atol=1e-6)
    # The shortest interval of a normal distribution lies around its mean.
    for name, score in (("PHZ_70_INT", 1.0364), ("PHZ_90_INT", 1.6449), ("PHZ_95_INT", 1.96)):
        if form == "csv":
            ends = np.stack([np.ma.filled(table[f"{name}_{i}"], np.nan) for i in (1, 2)], axis=1)
        else:
            ends = np.array([list(np.ma.filled(row, np.nan)) for row in table[name]])
        expected = np.stack((mean - score * sigma, mean + score * sigma), axis=1)
        np.testing.assert_allclose(ends, expected, atol=3e-4)
    if form == "csv":
        assert "PHZ_PDF" not in table.colnames
    else:
        density = np.array(list(table["PHZ_PDF"][-1]), float)
        assert density.shape == GRID.shape
        assert (density * 0.01).sum() == pytest.approx(1, abs=0.01)
    assert table["OBJECT_ID"].tolist()[-1] == 2039


@pytest.mark.parametrize("form", ["fits", "parquet", "csv", "votable"])
def test_blocks_make_the_file_that_one_block_makes(tmp_path, form, monkeypatch):
    from astropy.table import Table

    carried = {
        0: {"catalogue": sky([str(i) for i in range(SAMPLES)], dtype="str")},
        2: {"catalogue": sky(["β" * (i % 5) for i in range(SAMPLES)], dtype="str")},
    }
    run = run_with(tmp_path, carried=carried)
    export(run, tmp_path / f"one.{form}", form)
    monkeypatch.setattr(catalogues, "BLOCK_ROWS", 1)
    export(run, tmp_path / f"many.{form}", form)
    one, many = (Table.read(tmp_path / f"{name}.{form}") for name in ("one", "many"))
    assert one.colnames == many.colnames
    assert len(many) == RANKS * SAMPLES
    for name in one.colnames:
        assert str(one[name].dtype) == str(many[name].dtype)
        assert [str(value) for value in one[name]] == [str(value) for value in many[name]]


@pytest.mark.parametrize(
    ("first", "second", "twice"),
    [
        ([1, 2, 3], [3, 4, 5], [3, 3]),
        (["a", "b", "c"], ["c", "d", "a"], ["a", "c", "c", "a"]),
        ([1, 2, 3], ["3", "4", "x"], ["3", "3"]),
    ],
)
def test_objects_that_come_twice_are_flagged(tmp_path, first, second, twice):
    carried = {
        rank: {"catalogue": sky(ids, dtype="int64" if isinstance(ids[0], int) else "str")}
        for rank, ids in enumerate((first, second))
    }
    run = load_run(make_run(tmp_path, ranks=2, samples=3, straggler=None, carried=carried))
    table = catalogues.RunCatalogue(run).table()
    flagged = (table.values["flags"] & VALUE["duplicate"]) > 0
    assert np.ma.getdata(table.values["object_id"])[flagged].tolist() == twice


def test_every_row_has_a_healpix_index_where_it_has_a_position(tmp_path):
    from astropy import units
    from astropy_healpix import HEALPix

    run = run_with(tmp_path, carried={0: {"catalogue": sky(range(SAMPLES))}})
    values = catalogues.RunCatalogue(run).table().values
    assert np.ma.getmaskarray(values["healpix"]).tolist() == [False] * 40 + [True] * 80
    order_3 = values["healpix"][:SAMPLES] >> 2 * (29 - 3)
    expected = HEALPix(8, "nested").lonlat_to_healpix(
        values["ra"][:SAMPLES] * units.deg, values["dec"][:SAMPLES] * units.deg
    )
    assert order_3.tolist() == expected.tolist()


def test_provenance_says_which_partitions_were_read(tmp_path):
    run = run_with(tmp_path)
    export(run, tmp_path / "c.csv", "csv")
    told = json.loads((tmp_path / "c.csv.provenance.json").read_text())
    assert [row["partition"] for row in told["partitions"]] == [
        "25MB/1.pt",
        "25MB/2.pt",
        "25MB/3.pt",
    ]
    assert told["NPART"] == "3"
    assert len(told["DATADIG"]) == 64


def test_euclids_columns_make_a_hats_catalogue_and_no_qp(tmp_path):
    run = run_with(tmp_path, "pdf")
    assert export(run, tmp_path / "sky", "hats", columns="euclid") == RANKS * SAMPLES
    properties = (tmp_path / "sky/hats.properties").read_text()
    assert "hats_col_ra=RIGHT_ASCENSION" in properties
    with pytest.raises(InvalidInput, match="qp has names of its own"):
        export(run, tmp_path / "pz.hdf5", "qp", columns="euclid")
