"""Names in square brackets reach the terminal as they are."""

from pathlib import Path

import pytest
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.results.run_folder import load_run
from cosmicai_workbench.results.table import print_summary
from run_folders import make_run

NAME = "m31[v2][/bold]"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return "".join(capsys.readouterr().out.split())


def test_inspect_shows_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m31[v2].pt"
    assert main(["data", "make", "-n", "1", str(path)]) == 0
    capsys.readouterr()
    assert main(["data", "inspect", str(path)]) == 0
    assert "m31[v2].pt" in shown(capsys)


def test_a_summary_shows_its_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = load_run(make_run(tmp_path, ranks=1)).summary
    print_summary(summary.model_copy(update={"warnings": [f"s3://b/{NAME}/1.pt is odd"]}))
    assert NAME in shown(capsys)


def test_compare_shows_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    runs = [str(make_run(tmp_path, ranks=1, name=name)) for name in ("m31[v2]", "m31[red]")]
    assert main(["compare", *runs]) == 0
    out = shown(capsys)
    assert "m31[v2]" in out
    assert "m31[red]" in out
