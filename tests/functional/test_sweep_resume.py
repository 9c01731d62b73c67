"""A sweep interrupted anywhere and run again: the same table, nothing computed twice."""

import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from cosmicai.cost import CostBreakdown
from cosmicai.errors import IncompleteResults, InvalidInput
from cosmicai_workbench.report.service import write_report
from cosmicai_workbench.sweep.experiment import Point, load_experiment
from cosmicai_workbench.sweep.runner import run_sweep
from cosmicai_workbench.sweep.table import read_table
from run_folders import make_run

EXPERIMENT = """
name = "study"
repetitions = 2
cost_limit_dollars = 1.0
[grid]
partition = ["2MB", "5MB"]
batch_size = [32, 64]
[[plots]]
title = "Time against batch size"
x = "batch_size"
y = "seconds_per_batch"
by = "partition"
"""
EXECUTIONS = 8


class Interrupted(BaseException):
    """What Ctrl-C or a power cut does."""


class FakeExecutor:
    """Writes the run folder that an execution would leave; stops when told."""

    def __init__(self, *, stop_after=None, stop_half_way=False, dollars=0.0, digest=None) -> None:
        self.calls: Counter[str] = Counter()
        self.stop_after, self.stop_half_way = stop_after, stop_half_way
        self.dollars, self.digest = dollars, digest

    def estimated_dollars(self, point: Point) -> float:
        return self.dollars

    def run(self, point: Point, path: str, destination: Path) -> None:
        if self.stop_after is not None and sum(self.calls.values()) >= self.stop_after:
            if self.stop_half_way:
                destination.mkdir(parents=True)
                (destination / "combined_data.json").write_text("[{")
            raise Interrupted
        self.calls[path] += 1
        cost = CostBreakdown(
            region="us-east-1",
            architecture="arm64",
            prices_date="2026-11-22",
            items={"lambda model_inference": self.dollars},
            total=self.dollars,
        )
        made = make_run(
            destination.parent,
            name=f"made-{destination.name}",
            ranks=2,
            samples=20,
            straggler=None,
            batch_size=point["batch_size"],
            seed=point["batch_size"],
            cost=cost.model_dump(),
            **({"digest": self.digest} if self.digest else {}),
        )
        made.replace(destination)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(EXPERIMENT)
    return path


def sweep(source, folder, executor):
    return run_sweep(load_experiment(source), source, folder, executor, lambda _: None)


@pytest.mark.parametrize("half_way", [False, True])
@pytest.mark.parametrize("after", range(EXECUTIONS))
def test_interrupted_anywhere_it_ends_with_the_same_table(source, tmp_path, after, half_way):
    whole = sweep(source, tmp_path / "whole", FakeExecutor())
    first = FakeExecutor(stop_after=after, stop_half_way=half_way)
    with pytest.raises(Interrupted):
        sweep(source, tmp_path / "cut", first)
    assert len(read_table(tmp_path / "cut").rows) == after
    second = FakeExecutor()
    again = sweep(source, tmp_path / "cut", second)
    assert again.rows == whole.rows
    assert max((first.calls + second.calls).values()) == 1
    assert (tmp_path / "cut" / "table.csv").read_bytes() == (
        tmp_path / "whole" / "table.csv"
    ).read_bytes()


def test_a_finished_sweep_computes_nothing(source, tmp_path):
    sweep(source, tmp_path / "sweep", FakeExecutor())
    idle = FakeExecutor()
    sweep(source, tmp_path / "sweep", idle)
    assert not idle.calls


def test_tables_agree_and_are_tidy(source, tmp_path):
    table = sweep(source, tmp_path / "sweep", FakeExecutor())
    csv = pd.read_csv(tmp_path / "sweep" / "table.csv")
    parquet = pd.read_parquet(tmp_path / "sweep" / "table.parquet")
    assert len(csv) == len(parquet) == len(table.rows) == EXECUTIONS
    assert list(csv.columns) == list(parquet.columns)
    pd.testing.assert_series_equal(csv["wall_seconds"], parquet["wall_seconds"])
    assert not csv.duplicated(["folder", "repetition"]).any()


def test_two_at_once_in_one_folder_are_refused(source, tmp_path):
    class Meanwhile(FakeExecutor):
        def run(self, *arguments):
            with pytest.raises(InvalidInput, match="another sweep is running in this folder"):
                sweep(source, tmp_path / "sweep", FakeExecutor())
            super().run(*arguments)

    table = sweep(source, tmp_path / "sweep", Meanwhile())
    assert len(table.rows) == EXECUTIONS


def test_another_version_of_the_experiment_is_not_mixed_in(source, tmp_path):
    sweep(source, tmp_path / "sweep", FakeExecutor())
    source.write_text(EXPERIMENT.replace("repetitions = 2", "repetitions = 3"))
    with pytest.raises(InvalidInput, match="another version"):
        sweep(source, tmp_path / "sweep", FakeExecutor())


def test_an_estimate_above_the_limit_starts_nothing(source, tmp_path):
    dear = FakeExecutor(dollars=0.2)
    with pytest.raises(InvalidInput, match=r"\$1\.60, more than its limit of \$1\.00"):
        sweep(source, tmp_path / "sweep", dear)
    assert not dear.calls


def test_actual_cost_above_the_limit_stops_and_keeps_what_is_done(source, tmp_path):
    class Underestimated(FakeExecutor):
        def estimated_dollars(self, point: Point) -> float:
            return 0.01

    executor = Underestimated(dollars=0.4)
    with pytest.raises(IncompleteResults, match=r"\$1\.20 spent"):
        sweep(source, tmp_path / "sweep", executor)
    assert len(read_table(tmp_path / "sweep").rows) == 3


def test_report_of_a_sweep_tells_what_is_missing(source, tmp_path):
    with pytest.raises(Interrupted):
        sweep(source, tmp_path / "sweep", FakeExecutor(stop_after=5))
    write_report([tmp_path / "sweep"], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "3 of 8 executions are not done" in text
    assert "Time against batch size" in text
    assert 'class="theirs"' in text


def test_report_refuses_a_sweep_of_two_models(source, tmp_path):
    with pytest.raises(Interrupted):
        sweep(source, tmp_path / "sweep", FakeExecutor(stop_after=5))
    sweep(source, tmp_path / "sweep", FakeExecutor(digest="aa" * 32))
    with pytest.raises(InvalidInput, match="2 different models"):
        write_report([tmp_path / "sweep"], tmp_path / "page.html")


def test_report_refuses_a_folder_without_its_experiment(source, tmp_path):
    sweep(source, tmp_path / "sweep", FakeExecutor())
    shutil.move(tmp_path / "sweep" / "experiment.toml", tmp_path / "elsewhere.toml")
    with pytest.raises(InvalidInput, match=r"no summary\.json"):
        write_report([tmp_path / "sweep"], tmp_path / "page.html")
