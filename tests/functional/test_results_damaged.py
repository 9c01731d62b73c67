"""A damaged run folder ends every command in a named error of one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from cosmicai.errors import InvalidInput, load_json
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.results.run_folder import load_run
from run_folders import make_run

DAMAGE = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "a byte changed": lambda content: content[:-30] + b"\xff" + content[-29:],
    "no text": lambda content: b"\xff\xfe\x00" * 50,
    "nested without end": lambda content: b"[" * 100_000,
    "an endless number": lambda content: b'{"world_size":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["summary.json", "combined_data.json", "predictions/1.npz"])
def test_a_damaged_file_is_named(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, ranks=2, samples=6, straggler=None)
    path = run / file
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    page = str(tmp_path / "page.html")
    for command in (
        ["results", "export", str(run), "--to", "csv", "--overwrite"],
        ["compare", str(run), str(run)],
        ["report", str(run), "-o", page],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"cosmicai: InvalidInput: {path}")
        assert error.count("\n") == 1


@pytest.mark.parametrize("array", ["redshift", "flags", "pdf"])
def test_columns_of_different_lengths_are_refused(array: str, tmp_path: Path) -> None:
    """Put together with other ranks', they would be other galaxies' values."""
    run = make_run(tmp_path, ranks=2, samples=6, straggler=None, distributions=True)
    path = run / "predictions/1.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays[array] = arrays[array][:-1]
    np.savez(path, **arrays)

    with pytest.raises(InvalidInput, match=rf"1\.npz.*{array}: \(\d+,\) expected"):
        load_run(run).predictions_of([0, 1], distributions=True)


def test_p_of_z_stays_with_its_galaxy_where_a_rank_stored_none(tmp_path: Path) -> None:
    run = make_run(tmp_path, ranks=2, samples=6, straggler=None, distributions=True)
    whole = load_run(run).predictions_of([0, 1], distributions=True)
    path = run / "predictions/0.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file if name not in ("pdf", "output")}
    np.savez(path, **arrays)

    found = load_run(run).predictions_of([0, 1], distributions=True)

    of_first = found.rank == 0
    assert of_first.any()
    assert np.isnan(found.raw[of_first]).all()
    np.testing.assert_array_equal(found.raw[~of_first], whole.raw[~of_first])


def test_json_that_is_nested_without_end_is_a_value_error() -> None:
    assert load_json(b'{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="nested"):
        load_json("[" * 100_000)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 50_000, "\udc80", "9" * 5000])
def test_an_input_that_is_no_json_is_named(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "input.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert main(["run", "--local", "-i", str(path), "--data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "InvalidInput" in error
    assert error.count("\n") == 1


@pytest.fixture
def earlier(tmp_path):
    """Give a run whose second rank's predictions have no flags, as earlier releases left them."""
    run = make_run(tmp_path / "runs", ranks=2, samples=20, nan=2, straggler=None)
    for rank in (0, 1):
        file = run / "predictions" / f"{rank}.npz"
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files if name != "flags"}
        if not rank:
            lost = np.isnan(arrays["redshift"])
            arrays["flags"] = np.where(lost, 1, 0).astype(np.int32)
        np.savez(file, **arrays)
    return run


def test_results_without_flags_are_not_shown_as_if_nothing_were_wrong(earlier, capsys):
    assert main(["results", "show", str(earlier)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "20 galaxies were predicted by an earlier release, which computed no flags" in shown
    assert "No galaxy has a flag" not in shown
    assert main(["results", "show", str(earlier), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_unflagged"] == 20


@pytest.mark.parametrize("form", ["csv", "fits", "parquet"])
def test_flags_that_nobody_computed_are_missing_in_the_catalogue(earlier, tmp_path, capsys, form):
    import pyarrow.parquet as pq
    from astropy.table import Table

    target = tmp_path / f"out.{form}"
    assert main(["results", "export", str(earlier), "--to", form, "-o", str(target)]) == 0
    assert "no flags: 20 objects" in capsys.readouterr().out
    if form == "parquet":
        flags = pq.read_table(target)["flags"].to_pylist()
    else:
        flags = np.ma.asarray(Table.read(target)["flags"]).tolist()
    assert flags == [1, 1] + [0] * 18 + [None] * 20


def test_the_report_says_whose_flags_nobody_computed(earlier, tmp_path):
    assert main(["report", str(earlier), "-o", str(tmp_path / "report.html")]) == 0
    text = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
    assert "20 were predicted by a release that computed no flags" in text
