"""`cosmicai model calibrate`: a copy of a bundle whose redshifts have intervals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cosmicai import open_model
from cosmicai.calibration import INTERVALS
from cosmicai.model.bundle import Bundle
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.results.run_folder import load_run
from model_fill import point_of

SHIPPED = Path(__file__).parents[2] / "models" / "astromae-small"
GALAXIES = 480


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return point_of(SHIPPED, tmp_path_factory.mktemp("point")).path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled") / "partitions"
    folder.mkdir()
    for seed in (1, 2):
        options = ["--galaxies", str(GALAXIES // 2), "--seed", str(seed)]
        assert main(["data", "make", str(folder / f"{seed}.pt"), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def run(model: Path, data: Path) -> Path:
    folder = data.parent / "run"
    options = ["--model", str(model), "-o", str(folder)]
    assert main(["predict", str(data), *options]) == 0
    return folder


def test_a_copy_has_intervals_and_the_same_redshifts(model, data, run, tmp_path, capsys) -> None:
    copy = tmp_path / "copy"
    assert main(["model", "calibrate", str(model), str(data), "-o", str(copy), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["labelled"]["galaxies"] == GALAXIES
    assert told["labelled"]["name"] == "partitions"
    assert told["labelled"]["model_digest"] == Bundle(model).digest != Bundle(copy).digest
    assert sum(cell["galaxies"] for cell in told["cells"]) == GALAXIES
    training = Bundle(copy).interface.training
    assert training.galaxies == GALAXIES
    assert set(training.magnitude) == set("ugriz")
    partitions = sorted(map(str, data.glob("*.pt")))
    plain = open_model(model).predict_partitions(partitions)
    found = open_model(copy).predict_partitions(partitions)
    assert not set(INTERVALS) & set(plain.columns)
    np.testing.assert_array_equal(found["redshift"], plain["redshift"])
    low95, low68, high68, high95 = (
        found[name] for name in ("z_lo95", "z_lo68", "z_hi68", "z_hi95")
    )
    assert (low95 <= low68).all()
    assert (low68 < high68).all()
    assert (high68 <= high95).all()
    quality = found.quality()
    assert quality.num_intervals == GALAXIES
    # Of the very galaxies that the intervals are from, a few more are inside.
    assert 0.68 <= quality.coverage_68 < 0.71
    assert 0.95 <= quality.coverage_95 < 0.99
    assert plain.quality().coverage_68 is None


def test_a_runs_own_results_give_the_same_calibration(model, data, run, tmp_path, capsys) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    name = ["--name", "test"]
    assert main(["model", "calibrate", str(model), str(data), "-o", str(one), *name]) == 0
    assert f"{GALAXIES} galaxies" in " ".join(capsys.readouterr().out.split())
    arguments = ["--from-run", str(run), "-o", str(other), *name]
    assert main(["model", "calibrate", str(model), *arguments]) == 0
    first, second = (Bundle(path).interface.calibration for path in (one, other))
    assert first.cells == second.cells
    assert first.labelled.digest == second.labelled.digest
    twice = ["--from-run", str(run), "--from-run", str(run), "-o", str(other), "--overwrite"]
    assert main(["model", "calibrate", str(model), *twice]) == 0
    assert Bundle(other).interface.calibration.labelled.galaxies == 2 * GALAXIES


@pytest.mark.parametrize("command", ["calibrate", "ranges"])
def test_the_place_of_the_copy_is_checked_before_galaxies_are_read(
    command, model, tmp_path, capsys
) -> None:
    damaged = tmp_path / "1.pt"
    damaged.write_bytes(b"no partition")
    there = shutil.copytree(model, tmp_path / "there")
    assert main(["model", command, str(model), str(damaged), "-o", str(there)]) == 2
    assert "exists already; --overwrite replaces it" in capsys.readouterr().err


def test_what_cannot_be_calibrated_is_refused(model, data, run, tmp_path, capsys) -> None:
    copy = tmp_path / "copy"

    def refused(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(["model", "calibrate", *arguments]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        return capsys.readouterr().err

    assert "one of them" in refused(str(model), "-o", str(copy))
    both = (str(model), str(data), "--from-run", str(run), "-o", str(copy))
    assert "one of them" in refused(*both)
    assert "the bundle itself" in refused(str(model), "--from-run", str(run), "-o", str(model))
    shutil.copytree(model, tmp_path / "there")
    there = (str(model), "--from-run", str(run), "-o", str(tmp_path / "there"))
    assert "--overwrite" in refused(*there)
    (tmp_path / "photos").mkdir()
    photos = ("--from-run", str(run), "-o", str(tmp_path / "photos"), "--overwrite")
    assert "no model bundle" in refused(str(model), *photos)
    other = tmp_path / "other"
    assert main(["model", "calibrate", str(model), "--from-run", str(run), "-o", str(other)]) == 0
    message = refused(str(other), "--from-run", str(run), "-o", str(copy))
    assert "another model" in message
    assert load_run(run).summary.model_digest in message
    unlabelled = tmp_path / "unlabelled"
    shutil.copytree(run, unlabelled)
    file = unlabelled / "predictions" / "0.npz"
    with np.load(file) as arrays:
        changed = dict(arrays)
    changed["true_redshift"] = np.full_like(changed["true_redshift"], np.nan)
    np.savez(file, **changed)
    arguments = (str(model), "--from-run", str(unlabelled), "-o", str(copy))
    assert "39 galaxies" in refused(*arguments)
