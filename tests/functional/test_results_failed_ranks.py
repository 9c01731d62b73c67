"""Galaxies of failed ranks: they are in the catalogue, whatever became of their rank."""

from dataclasses import replace

import numpy as np
import pytest
from cosmicai import storage
from cosmicai.errors import CorruptPartition, IncompleteResults, InvalidInput
from cosmicai.flags import FAILED_RANK, NO_PREDICTION
from cosmicai.partition.catalogue import DEC, RA, REASON, Catalogue, ColumnInfo, column_of
from cosmicai_workbench.cli.run import report
from cosmicai_workbench.client.connection import Connection
from cosmicai_workbench.client.execution import Ended
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.performing import Outcome
from cosmicai_workbench.report.service import write_report
from cosmicai_workbench.results.catalogue import RunCatalogue
from cosmicai_workbench.results.export import export
from cosmicai_workbench.results.fetch import fetch
from cosmicai_workbench.results.run_folder import load_run
from s3_stack import make_galaxies, running_stack

GALAXIES = 6


@pytest.fixture
def stack(monkeypatch, tmp_path):
    yield from running_stack(monkeypatch, tmp_path)


def put_partition(stack, number, *, rejected=()):
    """Write and upload a partition whose objects are 100, 101, ….; return its path."""
    galaxies = make_galaxies(GALAXIES, seed=number)
    path = stack.folder / f"{number}.pt"
    ids = [100 * number + i for i in range(GALAXIES)]
    objects = Catalogue(
        [
            column_of(ColumnInfo("object_id", "int64"), ids),
            column_of(RA, [10.0 + i for i in range(GALAXIES)]),
            column_of(DEC, [5.0] * GALAXIES),
            column_of(ColumnInfo("mass", "float64", "solMass"), [1e9] * GALAXIES),
        ]
    )
    lost = Catalogue(
        [
            column_of(ColumnInfo("object_id", "int64"), rejected),
            column_of(REASON, ["off every image"] * len(rejected)),
        ]
    )
    with PartitionWriter(path, GALAXIES, {}, rejected=lost if rejected else None) as writer:
        writer.write(galaxies.image, galaxies.magnitude, galaxies.redshift)
        writer.write_catalogue(objects)
    storage.store(stack.input["data_bucket"]).write(f"100MB/{number}.pt", path.read_bytes())
    return path


def partial_run(stack, tmp_path, *, failed, error="Lambda.Unknown"):
    """Run all ranks but those that failed, and fetch what there is."""
    change = {"file_limit": "3", "tolerated_failure_percentage": 70}
    plan = stack.initialize(**change)
    stack.run_ranks(plan, [rank for rank in range(3) if rank not in failed])
    for rank in failed:
        stack.fail_rank(plan, rank, error, "out of memory")
    summary = stack.summarize(**change)
    assert summary.status == "PARTIAL"
    content = {**stack.input, **change}
    ended = Ended(plan.execution.id, "first", "SUCCEEDED", content)
    connection = Connection(s3=storage.client(), states=None, outputs={}, service=None)
    return load_run(fetch(connection, ended, tmp_path / "runs"))


def test_the_catalogue_has_as_many_rows_as_the_data_set(stack, tmp_path):
    stack.put_model()
    for number in (1, 2, 3):
        put_partition(stack, number, rejected=[999] if number == 3 else ())
    run = partial_run(stack, tmp_path, failed=(0, 2))
    catalogue = RunCatalogue(run)
    values = catalogue.table().values
    assert catalogue.unlisted == []
    ids = values["object_id"].tolist()
    assert ids == [*range(200, 206), *range(100, 106), *range(300, 306), 999]
    lost = FAILED_RANK.value
    assert values["flags"].tolist() == [0] * 6 + [lost] * 12 + [NO_PREDICTION.value]
    assert np.isfinite(np.ma.getdata(values["redshift"])).tolist() == [True] * 6 + [False] * 13
    assert values["reason"].tolist()[6:] == ["its rank failed: Lambda.Unknown"] * 12 + [
        "off every image"
    ]
    assert values["rank"].tolist()[:18] == [1] * 6 + [0] * 6 + [2] * 6
    assert values["partition"].tolist()[6] == "100MB/1.pt"
    assert values["index"].tolist()[6:12] == list(range(6))
    assert values["ra"].tolist()[6:8] == [10.0, 11.0]
    assert values["mass"].tolist()[:18] == [1e9] * 18


def test_objects_without_a_catalogue_are_counted_all_the_same(stack, tmp_path):
    stack.put_model()
    stack.put_partitions(["1.pt", "2.pt", "3.pt"], galaxies=GALAXIES)
    run = partial_run(stack, tmp_path, failed=(1,))
    values = RunCatalogue(run).table().values
    assert values["object_id"].tolist()[12:] == [f"2#{i}" for i in range(GALAXIES)]


def test_a_partition_that_cannot_be_read_is_named_and_may_be_given(stack, tmp_path):
    stack.put_model()
    paths = [put_partition(stack, number) for number in (1, 2, 3)]
    change = {"file_limit": "3", "tolerated_failure_percentage": 70}
    plan = stack.initialize(**change)
    stack.run_ranks(plan, [0, 2])
    stack.fail_rank(plan, 1, "PartitionNotFound", "gone")
    storage.client().delete_object(Bucket=stack.input["data_bucket"], Key="100MB/2.pt")
    stack.summarize(**change)
    ended = Ended(plan.execution.id, "first", "SUCCEEDED", {**stack.input, **change})
    connection = Connection(s3=storage.client(), states=None, outputs={}, service=None)
    run = load_run(fetch(connection, ended, tmp_path / "runs"))
    catalogue = RunCatalogue(run)
    assert (catalogue.num_rows, catalogue.unlisted) == (12, ["100MB/2.pt"])
    given = RunCatalogue(run, paths[1].parent)
    assert (given.num_rows, given.unlisted) == (18, [])


@pytest.mark.parametrize("damage", [b"", b"no partition"])
def test_a_good_copy_of_a_damaged_partition_lists_its_objects(stack, tmp_path, damage):
    stack.put_model()
    paths = [put_partition(stack, number) for number in (1, 2, 3)]
    storage.store(stack.input["data_bucket"]).write("100MB/2.pt", paths[1].read_bytes()[:-100])
    run = partial_run(stack, tmp_path, failed=(1,), error="CorruptPartition")
    assert RunCatalogue(run).unlisted == ["100MB/2.pt"]
    given = RunCatalogue(run, paths[1].parent)
    assert (given.num_rows, given.unlisted) == (18, [])
    assert given.table().values["object_id"].tolist()[12:] == [*range(200, 206)]
    paths[1].write_bytes(damage)
    with pytest.raises(CorruptPartition, match=r"2\.pt"):
        RunCatalogue(run, paths[1].parent)


def test_a_partition_of_another_data_set_lists_nothing(stack, tmp_path):
    stack.put_model()
    paths = [put_partition(stack, number) for number in (1, 2, 3)]
    run = partial_run(stack, tmp_path, failed=(1,))
    (run.path / "failed" / "1.npz").unlink()
    paths[1].write_bytes(paths[0].read_bytes())
    assert RunCatalogue(run, paths[1].parent).unlisted == ["100MB/2.pt"]


def test_counts_of_flags_reach_the_summary(stack, tmp_path):
    stack.put_model()
    image = make_galaxies(GALAXIES).image
    image[0] = np.nan
    image[1, 2] = 0
    stack.put_partitions(["1.pt", "2.pt", "3.pt"], galaxies=GALAXIES, image=image)
    run = partial_run(stack, tmp_path, failed=(1,))
    assert run.summary.flag_counts == {"no_prediction": 2, "empty_band": 2}
    assert [record.flag_counts for record in run.records] == [
        {"no_prediction": 1, "empty_band": 1}
    ] * 2
    assert run.summary.origin is not None
    assert run.summary.origin.bands == ("u", "g", "r", "i", "z")
    assert [record.data_etag for record in run.records] == [
        storage.store(stack.input["data_bucket"]).find(f"100MB/{n}.pt").etag for n in (1, 3)
    ]


def failed_run(stack, tmp_path, *, received):
    """Run some of three ranks where none may fail, and fetch what there is."""
    for number in (1, 2, 3):
        put_partition(stack, number)
    plan = stack.initialize()
    stack.run_ranks(plan, received)
    for rank in {0, 1, 2} - {*received}:
        stack.fail_rank(plan, rank, "Lambda.Unknown", "out of memory")
    with pytest.raises(IncompleteResults):
        stack.summarize()
    ended = Ended(plan.execution.id, "first", "FAILED", stack.input)
    connection = Connection(s3=storage.client(), states=None, outputs={}, service=None)
    return load_run(fetch(connection, ended, tmp_path / "runs"))


@pytest.mark.parametrize("received", [[], [1], [0, 2]])
def test_the_catalogue_of_a_failed_run_has_a_row_for_each_object(stack, tmp_path, received):
    stack.put_model()
    run = failed_run(stack, tmp_path, received=received)
    table = run.catalogue()
    ranks = [*received, *sorted({0, 1, 2} - {*received})]
    assert [record.rank for record in run.records] == received
    assert table["rank"].tolist() == [rank for rank in ranks for _ in range(GALAXIES)]
    there = np.isin(table["rank"], received)
    assert (table["flags"] == np.where(there, 0, FAILED_RANK.value)).all()
    assert (np.isfinite(np.ma.filled(table["redshift"], np.nan)) == there).all()
    assert set(table["reason"][~there]) == {"its rank failed: Lambda.Unknown"}
    expected = [100 * (rank + 1) + index for rank in ranks for index in range(GALAXIES)]
    assert table["object_id"].tolist() == expected


def test_what_a_failed_run_received_is_exported_and_reported(stack, tmp_path):
    stack.put_model()
    run = failed_run(stack, tmp_path, received=[1])
    assert export(run, tmp_path / "c.csv", "csv") == 3 * GALAXIES
    page = tmp_path / "report.html"
    write_report([run.path], page)
    assert "2 of 3 ranks failed" in page.read_text()


def test_objects_that_cannot_be_listed_are_warned_of(stack, tmp_path):
    stack.put_model()
    run = failed_run(stack, tmp_path, received=[1])
    (run.path / "failed" / "2.npz").unlink()
    with pytest.warns(UserWarning, match=r"1 partition.* such as 100MB/3\.pt: give data="):
        assert len(run.catalogue()) == 2 * GALAXIES
    assert len(run.catalogue(stack.folder)) == 3 * GALAXIES


def test_a_run_that_failed_before_its_ranks_has_no_catalogue(stack, tmp_path):
    stack.put_model()
    run = failed_run(stack, tmp_path, received=[])
    before = run.summary.model_copy(update={"failed_ranks": []})
    with pytest.raises(InvalidInput, match="the run failed, and left nothing"):
        replace(run, summary=before).catalogue()


def test_a_run_that_failed_whole_is_not_exported(stack, tmp_path, capsys):
    stack.put_model()
    stack.put_partitions(["1.pt"], galaxies=GALAXIES)
    plan = stack.initialize()
    stack.fail_rank(plan, 0, "Lambda.Unknown", "out of memory")
    with pytest.raises(IncompleteResults):
        stack.summarize()
    ended = Ended(plan.execution.id, "first", "FAILED", stack.input)
    connection = Connection(s3=storage.client(), states=None, outputs={}, service=None)
    run = load_run(fetch(connection, ended, tmp_path / "runs"))
    with pytest.raises(InvalidInput, match=r"left nothing to export: .*out of memory"):
        export(run, tmp_path / "c.csv", "csv")
    assert not (tmp_path / "c.csv").exists()
    assert report(Outcome(ended, run.path, run), as_json=False) == 1
    told = capsys.readouterr().out
    assert f"Results in {run.path}" in told.replace("\n", "")
    assert "results export" not in told


def test_what_is_there_of_a_partial_run_is_offered(stack, tmp_path, capsys):
    stack.put_model()
    stack.put_partitions(["1.pt", "2.pt", "3.pt"], galaxies=GALAXIES)
    run = partial_run(stack, tmp_path, failed=(0, 1))
    ended = Ended(run.summary.execution.id, "first", "SUCCEEDED", {})
    report(Outcome(ended, run.path, run), as_json=False)
    assert f"cosmicai results export {run.path}" in capsys.readouterr().out
