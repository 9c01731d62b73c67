"""Executions from Python, as a notebook would start them."""

import subprocess
import sys
from pathlib import Path

import cosmicai_workbench
import numpy as np
import pytest
from astropy import units
from cosmicai.errors import CorruptPartition, InvalidInput
from cosmicai_workbench import ExecutionFailed, Progress
from cosmicai_workbench.cloud.local import LocalCloud
from cosmicai_workbench.cloud.state import LocalCloudError
from cosmicai_workbench.data.partition_writer import write_partition
from s3_stack import make_galaxies

GALAXIES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "partitions").mkdir()
    for number in (1, 2):
        galaxies = make_galaxies(GALAXIES, seed=number)
        write_partition(folder / "partitions" / f"{number}.pt", galaxies, {"from": "test"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def run(folder, told):
    return cosmicai_workbench.run(
        data="partitions", on="local", settings={"batch_size": 4}, on_progress=told.append
    )


def test_summary_and_folder(run):
    assert (run.summary.status, run.summary.num_samples) == ("SUCCEEDED", 2 * GALAXIES)
    assert run.summary.input["batch_size"] == 4
    assert run.folder.samefile("runs/latest")
    assert run.results.predictions.redshift.size == 2 * GALAXIES


def test_the_catalogue_is_an_astropy_table_with_units(run):
    table = run.catalogue()
    assert len(table) == 2 * GALAXIES
    assert table["magnitude_r"].unit == units.mag
    assert table.meta["RUNID"] == run.name
    np.testing.assert_array_equal(table["redshift"], run.results.predictions.redshift)


def test_logs_of_the_execution_and_of_a_rank(run):
    everything = run.logs()
    one = run.logs(1)
    assert sum(line.startswith("REPORT") for line in everything) == 4  # two ranks, two steps
    assert sum(line.startswith("REPORT") for line in one) == 1
    assert any('"rank":1' in line for line in one)
    assert set(one) < set(everything)


def test_progress_is_told_from_start_to_end(run, told):
    assert all(isinstance(each, Progress) for each in told)
    ranks = [each for each in told if each.step == "inference"]
    assert (ranks[-1].done, ranks[-1].total, ranks[-1].unit) == (2, 2, "ranks")
    assert {"uploading", "fetching"} <= {each.step for each in told}
    assert all(each.done <= each.total for each in told)


def test_a_failed_execution_raises_with_what_it_left(folder):
    (folder / "corrupt").mkdir()
    whole = (folder / "partitions" / "1.pt").read_bytes()
    (folder / "corrupt" / "1.pt").write_bytes(whole)
    (folder / "corrupt" / "2.pt").write_bytes(b"not a partition")  # the first is looked at before
    with pytest.raises(ExecutionFailed, match="FAILED") as failed:
        cosmicai_workbench.run(data=Path("corrupt"), model=None)
    assert failed.value.run.outcome.execution.status == "FAILED"


def test_a_first_partition_that_is_none_starts_nothing(folder):
    (folder / "other").mkdir()
    (folder / "other" / "1.pt").write_bytes(b"not a partition")
    with pytest.raises(CorruptPartition, match=r"1\.pt"):
        cosmicai_workbench.run(data="other")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"data": "partitions", "on": "lokal"}, "'local', 'local:NAME' or 'stack:NAME'"),
        ({}, "S3_object_name|data_prefix"),
        ({"data": "s3://bucket"}, "s3://BUCKET/FOLDER"),
        ({"data": "partitions", "settings": {"batchsize": 1}}, "batchsize"),
        ({"data": "partitions", "model": "s3://elsewhere/m"}, "starts empty"),
        ({"data": "nowhere"}, "holds no partitions"),
    ],
)
def test_what_is_at_fault_is_named_before_anything_starts(folder, words, says):
    with pytest.raises(InvalidInput, match=says):
        cosmicai_workbench.run(**words)


@pytest.mark.parametrize("name", ["none", "local"])
def test_a_named_cloud_that_is_not_up_is_not_replaced_by_one_of_its_own(folder, name):
    before = {*folder.glob(".cosmicai/*")}
    with pytest.raises(LocalCloudError, match=f"no local cloud '{name}' is up in this folder"):
        cosmicai_workbench.run(data="partitions", on=f"local:{name}")
    assert {*folder.glob(".cosmicai/*")} == before


def test_what_is_for_a_cloud_of_its_own_is_not_ignored_by_another(folder):
    with LocalCloud(name="local", concurrency=1):
        for words in ({"concurrency": 2}, {"parameters": {"Engine": "torch"}}):
            with pytest.raises(InvalidInput, match="give them to `cosmicai local up`"):
                cosmicai_workbench.run(data="partitions", **words)


def test_importing_the_package_stays_cheap():
    heavy = "{'torch', 'moto', 'astropy', 'boto3', 'pandas', 'matplotlib', 'openvino'}"
    program = f"import sys, cosmicai_workbench; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
