"""Catalogues that astronomers' tools open without help, with where they come from inside."""

import json
import math
import shutil
import subprocess

import numpy as np
import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.data.catalogue import CatalogueRow, write_catalogue
from cosmicai_workbench.results.export import export
from cosmicai_workbench.results.run_folder import load_run
from run_folders import DIGEST, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load_run(
        make_run(tmp_path_factory.mktemp("runs"), ranks=3, samples=50, straggler=None, nan=4)
    )


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [CatalogueRow(i, f"SDSS J{i:04d}", 150 + i / 100, 2.5) for i in range(50)]
    write_catalogue(folder / "2.pt", rows)
    return folder


@pytest.mark.parametrize("form", ["parquet", "fits", "csv"])
def test_astropy_opens_it_without_help(run, data, tmp_path, form):
    from astropy.table import Table

    path = tmp_path / f"catalogue.{form}"
    assert export(run, path, form, data=data) == 150
    table = Table.read(path)
    assert len(table) == 150
    np.testing.assert_array_equal(
        np.ma.filled(np.ma.asarray(table["redshift"], np.float32), np.nan),
        run.predictions.redshift,
    )
    second = table[50]  # the first galaxy of 2.pt, which has a catalogue
    assert str(second["object_id"]) == "SDSS J0000"
    assert float(second["ra"]) == 150.0
    assert str(second["partition"]) == "25MB/2.pt"
    first = table[0]  # 1.pt has none
    assert str(first["object_id"]) == "1#0"
    assert first["ra"] is np.ma.masked or math.isnan(first["ra"])


def test_fits_header_holds_units_and_provenance(run, tmp_path):
    from astropy.io import fits

    export(run, tmp_path / "c.fits", "fits")
    header = fits.getheader(tmp_path / "c.fits", 1)
    assert header["MODELDIG"] == DIGEST
    assert header["RUNID"] == run.name
    assert header["CODEVERS"].startswith("cosmicai ")
    units = {header[f"TTYPE{i}"]: header.get(f"TUNIT{i}") for i in range(1, 10)}
    assert (units["ra"], units["dec"], units["magnitude_r"]) == ("deg", "deg", "mag")


def test_parquet_schema_and_csv_sidecar_hold_provenance(run, tmp_path):
    import pyarrow.parquet as pq

    export(run, tmp_path / "c.parquet", "parquet")
    metadata = pq.read_schema(tmp_path / "c.parquet").metadata
    assert metadata[b"cosmicai.modeldig"].decode() == DIGEST
    export(run, tmp_path / "c.csv", "csv")
    beside = json.loads((tmp_path / "c.csv.provenance.json").read_text())
    assert beside["MODELDIG"] == DIGEST


def test_never_overwrites_unless_told(run, tmp_path):
    path = tmp_path / "c.csv"
    export(run, path, "csv")
    with pytest.raises(InvalidInput, match="exists already"):
        export(run, path, "csv")
    assert export(run, path, "csv", overwrite=True) == 150


def test_unknown_format_and_missing_folder_are_named(run, tmp_path):
    with pytest.raises(InvalidInput, match="parquet, fits, csv"):
        export(run, tmp_path / "c.xls", "xls")
    with pytest.raises(InvalidInput, match="no such folder"):
        export(run, tmp_path / "c.csv", "csv", data=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    shutil.which("stilts") is None, reason="STILTS is absent; Debian's package stilts has it"
)
@pytest.mark.parametrize("form", ["fits", "csv"])
def test_the_library_of_topcat_opens_it_without_help(run, data, tmp_path, form):
    def stilts(*arguments):
        command = ["stilts", "tpipe", f"in=catalogue.{form}", f"ifmt={form}", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    export(run, tmp_path / f"catalogue.{form}", form, data=data)
    described = stilts("cmd=meta Name Units UCD Description", "ofmt=csv")
    columns = {line.split(",")[0]: line for line in described.splitlines()}
    assert set(columns) > {"object_id", "ra", "dec", "redshift", "true_redshift", "magnitude_r"}
    second = stilts("cmd=select ra>0", "cmd=head 1", "cmd=keepcols 'object_id ra dec'", "ofmt=csv")
    assert second.splitlines()[1].split(",") == ["SDSS J0000", "150.0", "2.5"]
    if form == "fits":
        assert "deg,pos.eq.ra;meta.main,right ascension" in columns["ra"].replace('"', "")
        assert "mag,phot.mag;em.opt.R" in columns["magnitude_r"]
        assert DIGEST in stilts("omode=meta")
