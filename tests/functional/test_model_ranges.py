"""Ranges of a training set, put into a model: galaxies unlike it are flagged wherever it runs."""

import json

import numpy as np
import pytest
from cosmicai.model.bundle import Bundle
from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.data.synthesis import Galaxies, synthesize
from cosmicai_workbench.results.run_folder import load_run


def painted(split, count):
    blocks = list(synthesize(count, split, 0))
    names = ("image", "magnitude", "redshift", "parent")
    return Galaxies(*(np.concatenate([getattr(b, name) for b in blocks]) for name in names))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The shipped model with the ranges of painted galaxies."""
    folder = tmp_path_factory.mktemp("ranges")
    (folder / "training").mkdir()
    write_partition(folder / "training/1.pt", painted("train", 2000), {})
    words = ["model", "ranges", str(SMALL_MODEL), str(folder / "training")]
    assert main([*words, "-o", str(folder / "model"), "--name", "painted"]) == 0
    return folder / "model"


def test_predictions_stay_and_galaxies_out_of_range_are_flagged(model, tmp_path, capsys):
    galaxies = painted("test", 300)
    moved = Galaxies(galaxies.image, galaxies.magnitude + 3, galaxies.redshift, galaxies.parent)
    write_partition(tmp_path / "1.pt", galaxies, {})
    write_partition(tmp_path / "2.pt", moved, {})
    for name, bundle in (("before", SMALL_MODEL), ("after", model)):
        words = ["predict", str(tmp_path), "--model", str(bundle)]
        assert main([*words, "-o", str(tmp_path / "runs" / name)]) == 0
    before, after = (load_run(tmp_path / "runs" / name) for name in ("before", "after"))
    np.testing.assert_array_equal(before.predictions.redshift, after.predictions.redshift)
    flags = after.predictions.stored["flags"]
    assert np.mean(flags[:300] != 0) <= 0.02
    assert (flags[300:] != 0).all()
    assert after.summary.flag_counts["image"] >= 300
    assert after.summary.origin.training == "painted"
    capsys.readouterr()
    assert main(["results", "show", str(after.path)]) == 0
    shown = capsys.readouterr().out
    assert "the image does not match the magnitudes" in " ".join(shown.split())
    assert main(["results", "show", str(after.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flag_counts"] == after.summary.flag_counts


def test_the_copy_says_what_it_was_trained_on(model):
    training = Bundle(model).interface.training
    assert (training.name, training.galaxies) == ("painted", 2000)
    assert training.magnitude.keys() == {"u", "g", "r", "i", "z"}
    assert len(training.digest) == 64
    assert Bundle(model).digest != Bundle(SMALL_MODEL).digest


def test_a_bundle_is_never_changed_in_place(model, tmp_path, capsys):
    write_partition(tmp_path / "1.pt", painted("train", 10), {})
    words = ["model", "ranges", str(model), str(tmp_path / "1.pt"), "-o"]
    assert main([*words, str(model), "--overwrite"]) != 0
    assert "is the bundle itself" in capsys.readouterr().err
    assert main([*words, str(tmp_path)]) != 0
    assert "exists already" in capsys.readouterr().err
    assert main([*words, str(tmp_path), "--overwrite"]) != 0
    assert "no model bundle" in capsys.readouterr().err
    assert (tmp_path / "1.pt").is_file()


def test_galaxies_without_redshifts_make_no_ranges(model, tmp_path, capsys):
    galaxies = painted("train", 10)
    unknown = np.full(10, np.nan, np.float32)
    write_partition(
        tmp_path / "1.pt",
        Galaxies(galaxies.image, galaxies.magnitude, unknown, galaxies.parent),
        {},
    )
    words = ["model", "ranges", str(model), str(tmp_path / "1.pt"), "-o", str(tmp_path / "out")]
    assert main(words) != 0
    assert "no galaxy has a known redshift" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
