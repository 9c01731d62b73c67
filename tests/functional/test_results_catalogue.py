"""Catalogues that astronomers' tools open without help, with where they come from inside."""

import hashlib
import json
import math
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from cosmicai.errors import InvalidInput
from cosmicai.partition.catalogue import DEC, RA, REASON, Catalogue, ColumnInfo, column_of
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.results.catalogue import RunCatalogue
from cosmicai_workbench.results.export import export
from cosmicai_workbench.results.run_folder import load_run
from run_folders import DIGEST, make_run


def described(names, dtype="str", **more):
    """Return the catalogue of a partition: names, positions, and further columns."""
    count = len(names)
    columns = [
        column_of(ColumnInfo("object_id", dtype), names),
        column_of(RA, [150 + i / 100 for i in range(count)]),
        column_of(DEC, [2.5] * count),
    ]
    columns += [column_of(ColumnInfo(n, d, unit), v) for n, (d, unit, v) in more.items()]
    return Catalogue(columns)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    second = described([f"SDSS J{i:04d}" for i in range(50)])
    return load_run(
        make_run(
            tmp_path_factory.mktemp("runs"),
            ranks=3,
            samples=50,
            straggler=None,
            nan=4,
            carried={1: {"catalogue": second}},
        )
    )


@pytest.mark.parametrize("form", ["parquet", "fits", "csv"])
def test_astropy_opens_it_without_help(run, tmp_path, form):
    from astropy.table import Table

    path = tmp_path / f"catalogue.{form}"
    assert export(run, path, form) == 150
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


@pytest.mark.parametrize(
    ("name", "first"),
    [("c.fits", b"SIMPLE"), ("C.CSV", b"object_id"), ("c.parquet", b"PAR1"), ("c.vot", b"<?xml")],
)
def test_the_ending_says_the_format(run, tmp_path, name, first):
    output = tmp_path / name
    assert main(["results", "export", str(run.path), "-o", str(output)]) == 0
    assert output.read_bytes().startswith(first)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-o", "c.csv", "--to", "fits"], "csv by its ending, and --to says fits"),
        (["-o", "c.hdf5", "--to", "parquet"], "qp by its ending, and --to says parquet"),
        (["-o", "c.fits.gz"], "an ending that says the format expected"),
        (["-o", "catalogue"], "or add --to"),
    ],
)
def test_an_ending_of_no_or_another_format_is_refused(
    run, tmp_path, capsys, monkeypatch, words, told
):
    monkeypatch.chdir(tmp_path)
    assert main(["results", "export", str(run.path), *words]) == 2
    assert told in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_unknown_format_and_missing_folder_are_named(run, tmp_path):
    with pytest.raises(InvalidInput, match="parquet, fits, csv, votable, qp, hats"):
        export(run, tmp_path / "c.xls", "xls")
    with pytest.raises(InvalidInput, match="no such folder"):
        export(run, tmp_path / "c.csv", "csv", data=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    shutil.which("stilts") is None, reason="STILTS is absent; Debian's package stilts has it"
)
@pytest.mark.parametrize("form", ["fits", "csv", "votable"])
def test_the_library_of_topcat_opens_it_without_help(run, tmp_path, form):
    def stilts(*arguments):
        command = ["stilts", "tpipe", f"in=catalogue.{form}", f"ifmt={form}", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    export(run, tmp_path / f"catalogue.{form}", form)
    meta = stilts("cmd=meta Name Units UCD Description", "ofmt=csv")
    columns = {line.split(",")[0]: line for line in meta.splitlines()}
    assert set(columns) > {"object_id", "ra", "dec", "redshift", "true_redshift", "magnitude_r"}
    second = stilts("cmd=select ra>0", "cmd=head 1", "cmd=keepcols 'object_id ra dec'", "ofmt=csv")
    assert second.splitlines()[1].split(",") == ["SDSS J0000", "150.0", "2.5"]
    if form in ("fits", "votable"):
        assert "deg,pos.eq.ra;meta.main,right ascension" in columns["ra"].replace('"', "")
        assert "mag,phot.mag;em.opt.R" in columns["magnitude_r"]
        assert DIGEST in stilts("omode=meta")


IDS = [1237648720693755918, 2, None, 999999]
EXTRA = {
    "mass": ("float32", "solMass", [1.5, None, 2.5, 3.5]),
    "survey": ("str", "", ["=SUM(A1)", "β Cas", "-12.5", None]),
    "count": ("int64", "", [1, 2, 3, None]),
    "redshift": ("float64", "", [0.25, 0.5, 0.75, 1.0]),
    "seen": ("bool", "", [True, None, False, True]),
}


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """A run whose second rank failed; one object was rejected when the data set was made."""
    folder = tmp_path_factory.mktemp("partial")
    whole = described(IDS, "int64", **EXTRA)
    because = column_of(REASON, ["masked pixels: 3 in g"])
    rejected = Catalogue([*described([77], "int64").columns.values(), because])
    carried = {0: {"catalogue": whole, "rejected": rejected}}
    path = make_run(folder, ranks=2, samples=4, straggler=None, failed=(1,), nan=1, carried=carried)
    (folder / "data" / "25MB").mkdir(parents=True)
    with PartitionWriter(folder / "data" / "25MB" / "2.pt", 2, {}) as writer:
        zeros = np.zeros((2, 5 * 32 * 32), np.float32)
        writer.write(zeros.reshape(2, 5, 32, 32), zeros[:, :5].copy(), zeros[:, 0].copy())
        writer.write_catalogue(described([501, 502], "int64"))
    return load_run(path), folder / "data"


@pytest.mark.parametrize("form", ["parquet", "fits", "csv"])
def test_every_object_has_a_row_that_joins_on_its_own_id(partial, tmp_path, form):
    import pandas as pd
    from astropy.table import Table

    run, data = partial
    path = tmp_path / f"catalogue.{form}"
    assert export(run, path, form, data=data) == 7
    if form == "fits":
        table = Table.read(path)
        assert table["object_id"].dtype.kind == "i"
        ids = table["object_id"].filled(-1).tolist()
        assert str(table["mass"].unit) == "solMass"
        reasons = [str(text) for text in table["reason"].filled("")]
        assert table["count"].mask.tolist() == [False] * 3 + [True] * 4
    else:
        read = pd.read_parquet if form == "parquet" else pd.read_csv
        frame = read(path, dtype_backend="numpy_nullable")
        mine = pd.DataFrame({"object_id": [999999, 1237648720693755918, 502, 77]})
        joined = mine.merge(frame, on="object_id", how="left")
        assert joined["ra"].notna().all()
        ids = frame["object_id"].fillna(-1).tolist()
        reasons = frame["reason"].fillna("").tolist()
        assert frame["redshift_input"].tolist()[:4] == [0.25, 0.5, 0.75, 1.0]
    assert ids == [1237648720693755918, 2, -1, 999999, 77, 501, 502]
    assert reasons == [
        "no prediction: a pixel or a magnitude is missing",
        "",
        "",
        "",
        "masked pixels: 3 in g",
        "its rank failed: CorruptPartition",
        "its rank failed: CorruptPartition",
    ]


@pytest.mark.parametrize(
    ("files", "listed"),
    [
        ({"25MB/2.pt": "right"}, 2),
        ({"2.pt": "right"}, 2),
        ({"25MB/2.pt": "another", "2.pt": "right"}, 2),
        ({"25MB/2.pt": "another"}, 0),
        ({"2.pt": "another"}, 0),
    ],
)
def test_objects_of_failed_ranks_come_from_the_files_that_were_planned(
    partial, tmp_path, files, listed
):
    run, data = partial
    right = data / "25MB/2.pt"
    (failed,) = run.summary.failed_ranks
    planned = failed.model_copy(update={"data_etag": hashlib.md5(right.read_bytes()).hexdigest()})
    run = replace(run, summary=run.summary.model_copy(update={"failed_ranks": [planned]}))
    for name, content in files.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(right.read_bytes() + (b"" if content == "right" else b"more"))
    assert export(run, tmp_path / "c.csv", "csv", data=tmp_path / "data") == 5 + listed
    assert RunCatalogue(run, tmp_path / "data").unlisted == ([] if listed else ["25MB/2.pt"])


def test_fits_escapes_what_its_tables_cannot_hold(partial, tmp_path):
    from astropy.io import fits

    run, _ = partial
    export(run, tmp_path / "c.fits", "fits")
    with fits.open(tmp_path / "c.fits") as hdus:
        assert hdus[1].data["survey"][1] == r"\u03b2 Cas"
        names = hdus[1].columns.names
        assert "ASCII" in hdus[1].header[f"TCOMM{names.index('survey') + 1}"]


def test_no_cell_of_a_csv_is_a_formula(partial, tmp_path):
    import csv

    run, _ = partial
    export(run, tmp_path / "c.csv", "csv")
    with (tmp_path / "c.csv").open(newline="") as file:
        cells = [row["survey"] for row in csv.DictReader(file)]
    assert cells[:3] == ["'=SUM(A1)", "β Cas", "-12.5"]


def test_no_column_name_of_a_csv_is_a_formula(tmp_path):
    carried = {0: {"catalogue": described(["a", "b"], **{"=1+1": ("int64", "", [1, 2])})}}
    run = load_run(make_run(tmp_path, ranks=1, samples=2, straggler=None, carried=carried))
    export(run, tmp_path / "c.csv", "csv")
    assert ",'=1+1" in (tmp_path / "c.csv").read_text().splitlines()[0]


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1"])
def test_formulas_are_defused_and_numbers_are_not(text):
    from cosmicai_workbench.data.catalogue import spreadsheet_safe

    assert spreadsheet_safe(text) == f"'{text}"
    assert [spreadsheet_safe(cell) for cell in ("-1.5", "+2", -3, "a=b")] == [
        "-1.5",
        "+2",
        -3,
        "a=b",
    ]


def test_the_command_says_which_objects_are_not_listed(partial, tmp_path, capsys):
    from cosmicai_workbench.cli.main import main

    run, data = partial
    words = ["results", "export", str(run.path), "--to", "csv", "-o"]
    assert main([*words, str(tmp_path / "a.csv")]) == 0
    said = capsys.readouterr().out
    assert "5 rows" in said
    assert "25MB/2.pt" in said
    assert main([*words, str(tmp_path / "b.csv"), "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert "7 rows" in said
    assert "not listed" not in said
