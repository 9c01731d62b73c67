"""A sweep in a real local cloud, its report, and the same galaxies without any cloud."""

from pathlib import Path

import numpy as np
import pytest
from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.results.compare import compare
from cosmicai_workbench.results.run_folder import load_run
from cosmicai_workbench.sweep.table import read_table

pytestmark = pytest.mark.slow

EXPERIMENT = """
name = "tiny"
description = "Two executions."
[fixed]
partition = "1MB"
batch_size = 32
[grid]
file_limit = [2, 3]
[[plots]]
title = "Speed against number of partitions"
x = "file_limit"
y = "samples_per_second"
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("tiny.toml").write_text(EXPERIMENT)
        assert main(["sweep", "tiny.toml", "--local"]) == 0
        yield folder


def test_table_and_report(sweep, monkeypatch):
    monkeypatch.chdir(sweep)
    table = read_table(Path("runs/sweeps/tiny"))
    assert [(row["ranks"], row["galaxies"], row.status) for row in table.rows] == [
        (2, 100, "SUCCEEDED"),
        (3, 150, "SUCCEEDED"),
    ]
    assert all(row["cost_dollars"] > 0 and row["seconds_per_batch"] > 0 for row in table.rows)
    assert main(["report", "runs/sweeps/tiny", "-o", "sweep.html"]) == 0
    assert "Speed against number of partitions" in Path("sweep.html").read_text()


def test_a_run_has_a_whole_report_with_what_was_billed(sweep, monkeypatch):
    monkeypatch.chdir(sweep)
    run = next(Path("runs/sweeps/tiny").glob("*filelimit-3*/1"))
    functions = {invocation.function for invocation in load_run(run).invocations}
    assert functions == {"initialize", "model_inference", "summarize"}
    assert main(["report", str(run), "-o", "run.html"]) == 0
    text = Path("run.html").read_text()
    assert "billed (REPORT lines)" in text
    assert "Predicted against true redshift" in text


def test_local_and_distributed_predict_the_same(sweep, monkeypatch):
    monkeypatch.chdir(sweep)
    distributed = next(Path("runs/sweeps/tiny").glob("*filelimit-3*/1"))
    (data,) = Path(".cosmicai/sweeps").glob("1MB-*")
    partitions = sorted(map(str, data.glob("*.pt")))
    words = ["infer", str(SMALL_MODEL), *partitions, "--batch-size", "32", "--threads", "1"]
    assert main([*words, "-o", "here"]) == 0
    found = compare(load_run(Path("here")), load_run(distributed))
    assert found.same_model
    assert (found.agreement.galaxies, found.agreement.only_a, found.agreement.only_b) == (150, 0, 0)
    assert found.agreement.largest_difference < 1e-5


def test_catalogue_of_a_real_run_opens_in_astropy(sweep, monkeypatch):
    from astropy.table import Table

    monkeypatch.chdir(sweep)
    run = next(Path("runs/sweeps/tiny").glob("*filelimit-2*/1"))
    (data,) = Path(".cosmicai/sweeps").glob("1MB-*")
    words = ["results", "export", str(run), "--to", "fits", "--data", str(data)]
    assert main([*words, "-o", "catalogue.fits"]) == 0
    table = Table.read("catalogue.fits")
    assert len(table) == 100
    assert np.isfinite(table["redshift"]).all()
    assert np.isfinite(table["ra"]).all()


def test_a_stack_is_driven_by_boto3_alone(sweep, monkeypatch):
    """Stands in for AWS: a local cloud that is known by its endpoint only."""
    from cosmicai_workbench.client.upload import upload
    from cosmicai_workbench.cloud.local import LocalCloud
    from cosmicai_workbench.place import on_aws

    monkeypatch.chdir(sweep)
    Path("stack.toml").write_text(EXPERIMENT.replace("[2, 3]", "[2]").replace("tiny", "stack"))
    (data,) = Path(".cosmicai/sweeps").glob("1MB-*")
    with LocalCloud(buckets=["survey"]) as cloud:
        for name, value in cloud.status.variables.items():
            monkeypatch.setenv(name, value)
        files = {("survey", f"1MB/{path.name}"): path for path in data.glob("*.pt")}
        files |= {
            ("survey", f"model/{name}"): SMALL_MODEL / name
            for name in ("config.json", "model.safetensors")
        }
        upload(on_aws(cloud.status.stack).connection, files)
        words = ["sweep", "stack.toml", "--stack", cloud.status.stack, "--bucket", "survey"]
        assert main([*words, "--model-name", "model"]) == 0
        again = EXPERIMENT.replace("tiny", "dear").replace(
            "[fixed]", "cost_limit_dollars = 0.00001\n[fixed]"
        )
        Path("dear.toml").write_text(again)
        assert main([words[0], "dear.toml", *words[2:]]) == 2  # the estimate is above the limit
    (row,) = read_table(Path("runs/sweeps/stack")).rows
    assert (row["ranks"], row["galaxies"]) == (2, 100)
    assert not Path("runs/sweeps/dear").exists()
