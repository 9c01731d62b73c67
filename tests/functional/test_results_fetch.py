"""Run folders: fetched whole or not at all, read by whoever comes after."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cosmicai.errors import InvalidInput, ObjectNotFound, ResultPathInUse
from cosmicai_workbench.client.connection import Connection
from cosmicai_workbench.client.execution import Ended
from cosmicai_workbench.results.fetch import fetch
from cosmicai_workbench.results.plot import plot_redshifts
from cosmicai_workbench.results.run_folder import load_run
from cosmicai_workbench.results.table import summary_rows
from moto import mock_aws
from run_folders import make_run

BUCKET = "cosmicai-data"
PREFIX = "results/one/"
ENDED = Ended("arn:one", "one", "SUCCEEDED", {"bucket": BUCKET, "result_path": "results/one"})


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client(
            "s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        client.create_bucket(Bucket=BUCKET)
        yield client


def put(s3: Any, **files: str) -> None:
    for name, text in files.items():
        key = PREFIX + name.replace("__", "/").replace("_json", ".json")
        s3.put_object(Bucket=BUCKET, Key=key, Body=text)


def claim(holder: str) -> str:
    return json.dumps({"execution": holder, "claimed_at": "2026-01-01T00:00:00Z", "cleared": True})


def connection(s3: Any) -> Connection:
    return Connection(s3=s3, states=None, outputs={}, service=None)  # type: ignore[arg-type]


def test_only_results_are_fetched_and_latest_points_at_them(s3: Any, tmp_path: Path) -> None:
    put(s3, claim_json=claim("arn:one"), **{"0_json": "{}", "predictions__0.npz": "x"})
    put(s3, map__1__manifest_json="{}", notes_txt="a user's own")
    folder = fetch(connection(s3), ENDED, tmp_path / "runs")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"0.json", "claim.json", "execution.json", "predictions/0.npz"}
    assert (tmp_path / "runs/latest").resolve() == folder
    told = json.loads((folder / "execution.json").read_text())
    assert told["input"] == ENDED.input

    with pytest.raises(InvalidInput, match="exists already"):
        fetch(connection(s3), ENDED, tmp_path / "runs")


def test_results_that_another_execution_took_over_are_not_passed_off(
    s3: Any, tmp_path: Path
) -> None:
    put(s3, claim_json=claim("arn:two"), **{"0_json": "{}"})
    with pytest.raises(ResultPathInUse, match="taken over by arn:two"):
        fetch(connection(s3), ENDED, tmp_path)
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "latest").exists()


def test_a_bucket_that_cannot_be_read_leaves_no_run_folder(s3: Any, tmp_path: Path) -> None:
    gone = Ended("arn:one", "one", "FAILED", {"bucket": "no-such", "result_path": "results/one"})
    with pytest.raises(ObjectNotFound, match="s3://no-such/ does not exist"):
        fetch(connection(s3), gone, tmp_path)
    assert not (tmp_path / "one").exists()


def test_latest_moves_to_the_newest(s3: Any, tmp_path: Path) -> None:
    put(s3, claim_json=claim("arn:one"))
    fetch(connection(s3), ENDED, tmp_path)
    later = Ended("arn:one", "later", ENDED.status, ENDED.input)
    assert fetch(connection(s3), later, tmp_path) == (tmp_path / "latest").resolve()


def test_the_plot_is_a_picture_and_the_table_tells_the_figures(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path, ranks=4, samples=200, nan=3))
    picture = plot_redshifts(run)
    assert picture is not None
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = dict(summary_rows(run.summary))
    assert rows["Ranks"] == "4 of 4 received"
    assert rows["Galaxies"].startswith("800 in")
    assert "R²" in rows["Redshifts"]
    assert "3 galaxies" in rows["Unpredicted"]
