"""A damaged run folder ends every command in a named error of one line."""

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
