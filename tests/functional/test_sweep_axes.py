"""A new axis is one declaration: here a toy axis, from the command line to table and report."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import pytest
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.sweep.axes import AXES, Axis, register
from cosmicai_workbench.sweep.executors import content_of
from cosmicai_workbench.sweep.experiment import Point, load_experiment
from cosmicai_workbench.sweep.runner import run_sweep
from pydantic import Field
from run_folders import make_run

EXPERIMENT = """
name = "toy"
repetitions = 2
[grid]
children = [2, 8]
[[plots]]
title = "Time against children"
x = "children"
y = "wall_seconds"
by = "children"
"""


@pytest.fixture
def toy(monkeypatch, tmp_path):
    for name in list(AXES):
        monkeypatch.setitem(AXES, name, AXES[name])  # what is registered here goes at the end
    monkeypatch.chdir(tmp_path)
    axis = Axis(
        "children",
        "children at once",
        Annotated[int, Field(ge=1)] | None,
        folder="children-{}",
        text="{} children",
        enters=lambda value: {"max_concurrency": value},
    )
    register(axis)
    Path("toy.toml").write_text(EXPERIMENT)
    yield axis
    del AXES["children"]


class Fake:
    """Leaves the run folder that an execution would, and keeps the inputs."""

    def __init__(self) -> None:
        self.inputs: list[dict] = []

    def estimated_dollars(self, point: Point) -> float:
        return 0.0

    def run(self, point: Point, path: str, destination: Path) -> None:
        names = {"bucket": "data", "data_bucket": "data", "model": "m", "result": path}
        self.inputs.append(content_of(point, **names))
        make_run(destination.parent, name="made", ranks=2, samples=20).replace(destination)


def test_it_names_folders_and_is_refused_like_any_other(toy, capsys):
    assert main(["sweep", "toy.toml", "--local", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "filelimit-1_batchsize-512_prefix-25MB_children-2/1\n" in printed
    assert "4 of 4 executions" in printed
    Path("toy.toml").write_text(EXPERIMENT.replace("[2, 8]", "[0]"))
    assert main(["sweep", "toy.toml", "--local", "--dry-run"]) == 2
    assert "children: Input should be greater than or equal to 1" in capsys.readouterr().err


def test_it_enters_executions_the_table_and_the_report(toy):
    fake, folder = Fake(), Path("sweep")
    run_sweep(load_experiment(Path("toy.toml")), Path("toy.toml"), folder, fake, lambda _: None)
    assert [content["max_concurrency"] for content in fake.inputs] == [2, 8, 2, 8]
    assert list(pd.read_csv(folder / "table.csv")["children"]) == [2, 2, 8, 8]
    assert main(["report", str(folder), "-o", "page.html"]) == 0
    page = Path("page.html").read_text()
    assert "children at once" in page
    assert "8 children" in page


def test_it_is_gone_without_its_declaration(tmp_path, capsys):
    (tmp_path / "toy.toml").write_text(EXPERIMENT)
    assert main(["sweep", str(tmp_path / "toy.toml"), "--local", "--dry-run"]) == 2
    assert "children" in capsys.readouterr().err


def test_a_name_is_taken_once(toy):
    with pytest.raises(ValueError, match="children"):
        register(toy)
