"""The notebooks of the documentation run from top to bottom, as in Jupyter."""

import os
import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    client = nbclient.NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def shown(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [each.get("text", "") + each.get("data", {}).get("text/plain", "") for each in outputs]
    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", "".join(texts))


@pytest.fixture(autouse=True)
def activated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `source .venv/bin/activate` does."""
    folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", folder + os.pathsep + os.environ["PATH"])


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]


def test_first_redshifts(tmp_path: Path) -> None:
    notebook = executed(nbformat.read(NOTEBOOKS / "first-redshifts.ipynb", as_version=4), tmp_path)
    assert "σ NMAD 0.01" in shown(notebook)
    assert "<Figure" in shown(notebook)
    assert (tmp_path / "redshifts.fits").is_file()


@pytest.mark.slow
def test_survey(tmp_path: Path) -> None:
    notebook = executed(nbformat.read(NOTEBOOKS / "survey.ipynb", as_version=4), tmp_path)
    text = shown(notebook)
    assert "1,200 galaxies by 6 of 6 ranks" in text
    assert "6/6 ranks" in text  # the bar
    assert "400 of 400 matched" in text
    assert (tmp_path / "survey.html").is_file()
    assert (tmp_path / "survey.fits").is_file()


def test_commands_take_no_backend_from_the_notebook(tmp_path: Path) -> None:
    """Jupyter sets MPLBACKEND for its kernel, and so for `!cosmicai`."""
    cells = [
        nbformat.v4.new_code_cell("import os; os.environ['MPLBACKEND'] = 'module://nowhere'"),
        nbformat.v4.new_code_cell(
            "!cosmicai data make -n 20 made.pt && cosmicai data preview made.pt made.png "
            "&& echo drawn"
        ),
    ]
    notebook = executed(nbformat.v4.new_notebook(cells=cells), tmp_path)
    assert "drawn" in shown(notebook)
    assert (tmp_path / "made.png").is_file()


def test_a_notebook_shows_a_bar(tmp_path: Path) -> None:
    source = """
import time
from cosmicai_workbench.bars import chosen_bar
with chosen_bar(None)("predicting", 3, "partitions") as advance:
    for _ in range(3):
        advance(1)
"""
    cells = [nbformat.v4.new_code_cell(source)]
    notebook = executed(nbformat.v4.new_notebook(cells=cells), tmp_path)
    assert "3/3 partitions" in shown(notebook)
    assert "text/html" in notebook.cells[0].outputs[0].data
