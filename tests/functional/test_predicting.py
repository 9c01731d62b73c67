"""Inference without orchestration gives a rank's own predictions, and a run folder like its."""

import json
import re

import cosmicai_workbench
import numpy as np
import pytest
from astropy.table import Table
from cosmicai.errors import InvalidInput, ModelNotFound, PartitionNotFound
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.predicting import predict
from cosmicai_workbench.results.compare import compare
from cosmicai_workbench.results.run_folder import load_run
from model_fill import SMALL, filled_bundle
from s3_stack import make_galaxies


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    filled_bundle(SMALL, folder)
    return folder


@pytest.fixture(scope="module")
def partitions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in (1, 2):
        write_partition(folder / f"{number}.pt", make_galaxies(7, seed=number), {"from": "test"})
    return [folder / "1.pt", folder / "2.pt"]


def run(model, partitions, output, **change):
    settings = {"engine": "plain", "batch_size": 4, "threads": 1}
    return predict(partitions, model, output=output, **(settings | change))


def test_predicts_what_the_engine_predicts(model, partitions, tmp_path):
    from cosmicai.engines.base import load_engine

    summary = run(model, partitions, tmp_path / "here").summary
    assert (summary.status, summary.num_samples, summary.num_partitions) == ("SUCCEEDED", 14, 2)
    found = load_run(tmp_path / "here").predictions
    engine = load_engine("plain", model, threads=1)
    for number in (1, 2):
        galaxies = make_galaxies(7, seed=number)
        expected = engine.predict(galaxies.image, galaxies.magnitude)
        here = found.redshift[found.partition == number - 1]
        np.testing.assert_allclose(here, expected, rtol=1e-5)


def test_its_folder_compares_with_another(model, partitions, tmp_path):
    run(model, partitions, tmp_path / "a")
    run(model, partitions[:1], tmp_path / "b")
    found = compare(load_run(tmp_path / "a"), load_run(tmp_path / "b"))
    assert found.same_model
    assert (found.agreement.identical, found.agreement.only_a) == (7, 7)


def test_published_fields_are_finite_and_positive(model, partitions, tmp_path):
    run(model, partitions, tmp_path / "here")
    (record,) = json.loads((tmp_path / "here" / "combined_data.json").read_text())
    for name in ("total_cpu_time (seconds)", "total_cpu_memory (MB)", "sample_persec"):
        assert record[name] > 0
    assert record["num_batches"] == 4


def test_bad_input_is_refused_before_anything_is_written(model, partitions, tmp_path):
    with pytest.raises(PartitionNotFound, match=r"3\.pt"):
        run(model, [partitions[0].with_name("3.pt")], tmp_path / "here")
    with pytest.raises(ModelNotFound):
        run(tmp_path, partitions, tmp_path / "here")
    with pytest.raises(InvalidInput, match="engine"):
        run(model, partitions, tmp_path / "here", engine="abacus")
    assert list(tmp_path.iterdir()) == []
    run(model, partitions, tmp_path / "here")
    with pytest.raises(InvalidInput, match="exists already"):
        run(model, partitions, tmp_path / "here")


def test_command_prints_the_summary(model, partitions, tmp_path, capsys):
    output = tmp_path / "here"
    words = ["infer", str(model), *map(str, partitions), "--engine", "plain", "-o", str(output)]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == 14


def test_predict_takes_a_folder_to_a_catalogue_and_a_report(
    model, partitions, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["predict", str(partitions[0].parent), "--model", str(model), "--engine", "plain"]
    assert main([*words, "--report", "--to", "fits", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)  # the rest goes to stderr
    assert (summary["num_samples"], summary["num_partitions"]) == (14, 2)
    run = tmp_path / "runs" / summary["execution"]["name"]
    assert len(Table.read(run / "catalogue.fits")) == 14
    assert "<html" in (run / "report.html").read_text()
    for words in (["results", "show"], ["results", "export", "--to", "csv"], ["report"]):
        assert main(words) == 0, words  # they find the latest run
    assert len((run / "catalogue.csv").read_text().splitlines()) == 15


def test_without_known_redshifts_the_summary_is_shown(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unknown = make_galaxies(6, seed=1, redshift=np.full(6, np.nan, np.float32))
    write_partition(tmp_path / "1.pt", unknown, {})
    assert main(["predict", "1.pt", "--model", str(model), "--engine", "plain"]) == 0
    assert "6 in 1 partition\n" in re.sub(" +\n", "\n", capsys.readouterr().out)
    assert main(["results", "show"]) == 0
    shown = capsys.readouterr().out
    assert "6 in 1 partition" in shown
    assert "No galaxy has a known redshift: there is no quality to show." in shown
    assert main(["results", "show", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_galaxies"], found["nmad"], found["flag_counts"]) == (0, None, {})


def test_predict_from_python(model, partitions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    run = cosmicai_workbench.predict(
        str(partitions[0].parent), str(model), engine="plain", on_progress=told.append
    )
    assert len(run.catalogue()) == 14
    assert [progress.done for progress in told] == [0, 1, 2]
    assert cosmicai_workbench.load_run("runs/latest").name == run.name


def test_predict_without_a_model_uses_the_one_that_ships(partitions, tmp_path, capsys):
    words = ["-o", str(tmp_path / "here")]
    assert main(["predict", str(partitions[0]), *words]) == 0
    assert "no --model given" in capsys.readouterr().err


def test_its_earlier_name_and_order_of_words_still_work(model, partitions, tmp_path):
    output = tmp_path / "here"
    assert (
        main(["infer", str(model), str(partitions[0]), "--engine", "plain", "-o", str(output)]) == 0
    )
    assert sorted(path.name for path in output.iterdir()) == [
        "0.json",
        "combined_data.json",
        "predictions",
        "summary.json",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.pt"], "no such file: nowhere.pt"),
        (["empty"], "empty holds no partitions"),
        (
            ["1.pt", "--to", "xlsx"],
            "--to: expected one of parquet, fits, csv, votable, qp, hats, found 'xlsx'",
        ),
        (["1.pt", "--model", "1.pt"], "is a file"),
        (["1.pt", "-o", "1.pt/run"], "cannot hold run folders: it is a file"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_made(
    partitions, tmp_path, capsys, monkeypatch, words, message
):
    (tmp_path / "1.pt").write_bytes(partitions[0].read_bytes())
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["predict", *words]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.rglob("*")} <= {"1.pt", "empty", "runs"}
