"""The Python API: a model opened and predicted with, in a notebook or a script."""

import json
import subprocess
import sys
from pathlib import Path

import cosmicai
import numpy as np
import pytest
from cosmicai import columns, storage
from cosmicai.columns import StoredColumn
from cosmicai.errors import CorruptPartition, InvalidInput, ModelNotFound, PartitionNotFound
from cosmicai_workbench.data.partition_writer import write_partition
from model_fill import SMALL, filled_bundle
from s3_stack import BUCKET, make_galaxies, running_stack

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "astromae-small"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model and two partitions, of 7 and 5 galaxies."""
    filled_bundle(SMALL, tmp_path / "model")
    write_partition(tmp_path / "1.pt", make_galaxies(7, 1), {})
    write_partition(tmp_path / "2.pt", make_galaxies(5, 2), {})
    return tmp_path


def test_the_notebook_snippet_runs_as_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    units = pytest.importorskip("astropy.units")
    for _ in running_stack(monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / SHIPPED.name).symlink_to(SHIPPED)
        galaxies = make_galaxies(6)
        image, magnitude = galaxies.image, galaxies.magnitude
        write_partition(tmp_path / "1.pt", galaxies, {})
        storage.store(BUCKET).write("2.pt", (tmp_path / "1.pt").read_bytes())

        model = cosmicai.open_model("models/astromae-small")
        result = model.predict(image, magnitude)
        alone = result.redshift
        result = model.predict_partitions(["1.pt", f"s3://{BUCKET}/2.pt"])
        table = result.to_table()

        np.testing.assert_array_equal(table["redshift"], np.concatenate([alone, alone]))
        assert table["magnitude_r"].unit == units.mag
        assert "predicted redshift" in table["redshift"].info.description
        assert set(table["partition"]) == {"1.pt", f"s3://{BUCKET}/2.pt"}
        assert list(result.to_pandas()["index"]) == [*range(6), *range(6)]
        assert result.to_arrow().column_names == table.colnames
        assert result.quality().num_galaxies == np.isfinite(table["redshift"]).sum() > 0


def test_a_model_in_s3_predicts_as_the_same_in_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for stack in running_stack(monkeypatch, tmp_path):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        stack.put_model()
        galaxies = make_galaxies(3)
        found = [
            cosmicai.open_model(where, engine="plain", threads=1).predict(
                galaxies.image, galaxies.magnitude
            )
            for where in (f"s3://{BUCKET}/Anomaly Detection", tmp_path / "model")
        ]
        assert np.array_equal(found[0].redshift, found[1].redshift)
        with pytest.raises(InvalidInput, match="s3://bucket/folder expected"):
            cosmicai.open_model("s3://bucket-alone")
        with pytest.raises(ModelNotFound):
            cosmicai.open_model(f"s3://{BUCKET}/nothing")


def test_galaxies_without_a_prediction_are_nan_and_others_are_not_changed(folder: Path) -> None:
    model = cosmicai.open_model(folder / "model")
    galaxies = make_galaxies(5)
    whole = model.predict(galaxies.image, galaxies.magnitude).redshift
    masked = np.ma.array(galaxies.magnitude.astype(np.float64), mask=False)
    masked[1, 2] = np.ma.masked
    image = galaxies.image.copy()
    image[3, 0, 0, 0] = np.inf
    found = model.predict(image, masked)
    assert np.isnan(found["redshift"]).tolist() == [False, True, False, True, False]
    assert np.array_equal(found.redshift[[0, 2, 4]], whole[[0, 2, 4]])
    assert np.isnan(found["true_redshift"]).all()
    assert "partition" not in found.columns


@pytest.mark.parametrize(
    ("image", "magnitude", "message"),
    [
        (np.zeros((2, 5, 64, 64)), np.zeros((2, 5)), "image must be float32"),
        (np.zeros((2, 5, 32, 32)), np.zeros((3, 5)), "2 images but 3 magnitude vectors"),
        (np.zeros((2, 5, 32, 32)), [["a"] * 5] * 2, "magnitude: an array of numbers expected"),
    ],
)
def test_arrays_that_are_no_galaxies_are_refused(
    folder: Path, image: np.ndarray, magnitude: np.ndarray, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        cosmicai.open_model(folder / "model").predict(image, magnitude)


def test_no_galaxies_at_all_are_no_rows(folder: Path) -> None:
    found = cosmicai.open_model(folder / "model").predict(
        np.empty((0, 5, 32, 32), np.float32), np.empty((0, 5), np.float32)
    )
    assert len(found) == 0
    assert found.redshift.shape == (0,)


def test_partitions_report_progress_and_name_what_is_wrong(folder: Path) -> None:
    model = cosmicai.open_model(str(folder / "model"))
    done: list[str] = []
    paths = [str(folder / name) for name in ("1.pt", "2.pt")]
    found = model.predict_partitions(paths, on_partition=done.append)
    assert done == paths == found.partitions
    assert found.num_samples == len(found["redshift"]) == 12
    (folder / "2.pt").write_bytes((folder / "2.pt").read_bytes()[:-100])
    with pytest.raises(CorruptPartition, match=r"2\.pt"):
        model.predict_partitions(paths)
    with pytest.raises(PartitionNotFound, match="no such file"):
        model.predict_partitions([folder / "3.pt"])
    with pytest.raises(InvalidInput, match="at least one expected"):
        model.predict_partitions([])
    for one in (paths[0], str(paths[0])):
        with pytest.raises(InvalidInput, match=r"a list expected, such as \['.*1\.pt'\]"):
            model.predict_partitions(one)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="s3://bucket/key expected"):
        model.predict_partitions(["s3://bucket"])


def test_a_declared_column_is_predicted_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as declared:
        declared.setitem(
            columns.COLUMNS,
            "g_r",
            StoredColumn(
                name="g_r",
                dtype="float32",
                description="colour g - r",
                ucd="phot.color",
                unit="mag",
                value=lambda batch: batch.magnitude[:, 1] - batch.magnitude[:, 2],
            ),
        )
        found = cosmicai.open_model(folder / "model").predict_partitions([folder / "1.pt"])
        expected = make_galaxies(7, 1).magnitude
        assert found.to_pandas()["g_r"].to_numpy() == pytest.approx(expected[:, 1] - expected[:, 2])
        assert "g_r" in found.arrays(["1.pt"])


def test_importing_the_package_is_cheap_and_knows_its_public_names() -> None:
    code = (
        "import sys, json, cosmicai;"
        "heavy = {'numpy', 'torch', 'openvino', 'boto3', 'moto', 'astropy', 'pydantic'};"
        "found = sorted(heavy & set(sys.modules));"
        "print(json.dumps([found, sorted(cosmicai.__all__), 'open_model' in dir(cosmicai)]))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(outcome.stdout) == [[], ["Predictions", "Predictor", "open_model"], True]
    with pytest.raises(AttributeError, match="no attribute 'opne_model'"):
        cosmicai.opne_model  # noqa: B018


def test_predicting_needs_neither_torch_nor_moto_nor_astropy(folder: Path) -> None:
    code = (
        "import sys, cosmicai;"
        "model = cosmicai.open_model(sys.argv[1], engine='openvino');"
        "found = model.predict_partitions([sys.argv[2]]);"
        "assert len(found.redshift) == 7;"
        "assert not {'torch', 'moto', 'astropy', 'pandas'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(folder / "model"), str(folder / "1.pt")]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
