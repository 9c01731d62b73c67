"""Galaxies unlike the training set are flagged, those like it are not; counts add up."""

import dataclasses
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cosmicai.flags import FLAGS, TrainingRanges, add_counts, count_flags, flags_of
from cosmicai.model.interface import Inputs, sdss_inputs
from cosmicai.models import open_model
from cosmicai.schema import Origin
from cosmicai.totals import totals
from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.data.synthesis import synthesize
from cosmicai_workbench.modeling.ranges import folders_of, ranges_of
from cosmicai_workbench.results.run_folder import load_run
from cosmicai_workbench.results.table import print_flags
from run_folders import make_run

SDSS_INPUTS = sdss_inputs()
IMAGES_ONLY = Inputs(image=SDSS_INPUTS.image)
NAMES = {flag.name: flag.value for flag in FLAGS}


class Batch(SimpleNamespace):
    def __len__(self):
        return len(self.redshift)

    def but(self, **changed):
        return Batch(**vars(self) | changed)


def galaxies(split, count):
    blocks = list(synthesize(count, split, 0))
    names = ("image", "magnitude", "redshift")
    return Batch(**{name: np.concatenate([getattr(b, name) for b in blocks]) for name in names})


@pytest.fixture(scope="module")
def training():
    batches = [galaxies("train", 6000)]
    return cache(lambda inputs: ranges_of(batches, inputs, "painted"))


@pytest.fixture(scope="module")
def held_out():
    return galaxies("test", 2000)


def colours_swapped(magnitude):
    """Exchange u-g and r-i, keeping r."""
    u, g, r, i, z = magnitude.T
    return np.stack([r + (r - i) + (g - r), r + (g - r), r, r - (u - g), r - (u - g) - (i - z)], 1)


MOVED_IMAGES = {
    "bands reversed": lambda b: b.but(image=b.image[:, ::-1]),
    "g and r exchanged": lambda b: b.but(image=b.image[:, [0, 2, 1, 3, 4]]),
    "i and z exchanged": lambda b: b.but(image=b.image[:, [0, 1, 2, 4, 3]]),
    "blank": lambda b: b.but(image=np.zeros_like(b.image)),
}
MOVED = MOVED_IMAGES | {
    "magnitudes + 3": lambda b: b.but(magnitude=b.magnitude + 3),
    "colours swapped": lambda b: b.but(magnitude=colours_swapped(b.magnitude)),
    "magnitudes reversed": lambda b: b.but(magnitude=b.magnitude[:, ::-1]),
}


@pytest.mark.parametrize("inputs", [SDSS_INPUTS, IMAGES_ONLY], ids=["magnitudes", "images only"])
def test_galaxies_like_the_training_set_are_not_flagged(training, held_out, inputs):
    given = held_out if inputs.magnitude else held_out.but(magnitude=held_out.magnitude[:, :0])
    assert np.mean(flags_of(given, inputs, training(inputs)) != 0) <= 0.01


@pytest.mark.parametrize("kind", MOVED)
def test_galaxies_moved_out_of_the_training_range_are_flagged(training, held_out, kind):
    flags = flags_of(MOVED[kind](held_out), SDSS_INPUTS, training(SDSS_INPUTS))
    assert np.mean(flags != 0) >= 0.99


@pytest.mark.parametrize("kind", MOVED_IMAGES)
def test_without_magnitudes_images_alone_tell(training, held_out, kind):
    moved = MOVED_IMAGES[kind](held_out)
    moved = moved.but(magnitude=moved.magnitude[:, :0])
    flags = flags_of(moved, IMAGES_ONLY, training(IMAGES_ONLY))
    assert np.mean(flags != 0) >= 0.99


@pytest.fixture(scope="module")
def shipped():
    model = open_model(SMALL_MODEL)
    return lambda batch: model.predict(batch.image, batch.magnitude)["flags"]


def test_the_shipped_model_flags_few_held_out_galaxies(shipped, held_out):
    assert np.mean(shipped(held_out) != 0) <= 0.01


@pytest.mark.parametrize("kind", MOVED)
def test_the_shipped_model_flags_galaxies_moved_out_of_its_range(shipped, held_out, kind):
    assert np.mean(shipped(MOVED[kind](held_out)) != 0) >= 0.99


def test_each_flag_says_what_it_is_for(training, held_out):
    ranges = training(SDSS_INPUTS)
    image, magnitude = held_out.image[:6].copy(), held_out.magnitude[:6].copy()
    redshift = held_out.redshift[:6].copy()
    redshift[0] = np.nan
    magnitude[1] += 9
    magnitude[2, 0] += 6
    image[3] *= 100
    redshift[4] = ranges.redshift[1]
    image[5, 4] = 0.25
    batch = Batch(image=image, magnitude=magnitude, redshift=redshift)
    flags = flags_of(batch, SDSS_INPUTS, ranges)
    expected = ["no_prediction", "magnitude", "colour", "image", "redshift", "empty_band"]
    for number, name in enumerate(expected):
        assert flags[number] & NAMES[name], name
    assert flags[0] == NAMES["no_prediction"]


def test_without_ranges_only_what_needs_none_is_flagged(held_out):
    blank = np.zeros_like(held_out.image[:3])
    redshift = np.array([0.1, np.nan, 99], np.float32)
    batch = Batch(image=blank, magnitude=held_out.magnitude[:3] + 9, redshift=redshift)
    flags = flags_of(batch, SDSS_INPUTS, None)
    assert flags.dtype == np.int32
    empty = NAMES["empty_band"]
    assert flags.tolist() == [empty, empty | NAMES["no_prediction"], empty]


def test_ranges_of_parts_merge_to_those_of_the_whole(held_out):
    whole, parts = TrainingRanges(SDSS_INPUTS), TrainingRanges(SDSS_INPUTS)
    whole.add(held_out.image, held_out.magnitude, held_out.redshift)
    for start in range(0, 2000, 700):
        part = TrainingRanges(SDSS_INPUTS)
        rows = slice(start, start + 700)
        part.add(held_out.image[rows], held_out.magnitude[rows], held_out.redshift[rows])
        parts.merge(part)
    assert parts.training("x") == whole.training("x")
    low, high = np.percentile(held_out.redshift, [0.1, 99.9])
    assert whole.training("x").redshift == pytest.approx((low, high), abs=0.005)


def test_ranges_need_a_known_redshift(held_out):
    ranges = TrainingRanges(SDSS_INPUTS)
    ranges.add(held_out.image[:2], held_out.magnitude[:2], np.full(2, np.nan, np.float32))
    with pytest.raises(ValueError, match="no galaxy"):
        ranges.training("x")


def test_bits_and_names_are_each_used_once():
    assert [flag.bit for flag in FLAGS] == list(range(8))
    assert len({flag.name for flag in FLAGS}) == 8


def test_the_documentation_describes_each_flag_as_declared():
    page = (Path(__file__).parents[2] / "docs/catalogue.md").read_text()
    for flag in FLAGS:
        assert f"| {flag.value} | `{flag.name}` | {flag.description} |" in page


def test_counts_add_up():
    flags = np.array([0, 1, 3, 2, 128], np.int32)
    counts = count_flags(flags)
    assert counts == {"no_prediction": 2, "magnitude": 2, "duplicate": 1}
    assert add_counts([counts, {"empty_band": 1}, counts]) == {
        "no_prediction": 4,
        "magnitude": 4,
        "empty_band": 1,
        "duplicate": 2,
    }


ORIGIN = Origin(bands=("g",), side=8, pixel_scale=0.2, photometric_system="DES", output="point")


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({}, ORIGIN),
        ({"pixel_scale": 0.4}, ORIGIN.model_copy(update={"pixel_scale": None})),
        ({"photometric_system": None}, ORIGIN.model_copy(update={"photometric_system": None})),
        ({"output": "pdf"}, None),
    ],
)
def test_what_ranks_say_alike_of_the_images_is_kept(tmp_path, other, found):
    records = load_run(make_run(tmp_path, ranks=3)).records
    origins = [ORIGIN, ORIGIN.model_copy(update=other), ORIGIN]
    said = [
        record.model_copy(update={"origin": each})
        for record, each in zip(records, origins, strict=True)
    ]
    assert totals(said)["origin"] == found


def test_a_run_says_that_nothing_was_compared_with_a_training_set(tmp_path, capsys):
    summary = load_run(make_run(tmp_path)).summary
    for training, says in (("", True), ("painted", False)):
        origin = ORIGIN.model_copy(update={"training": training})
        print_flags(summary.model_copy(update={"origin": origin}))
        assert ("Nothing was compared with the training set" in capsys.readouterr().out) == says


def test_the_pixel_scale_is_the_partitions_where_the_model_says_none(tmp_path):
    model = open_model(SMALL_MODEL)
    image = model.interface.inputs.image.model_copy(update={"pixel_scale": None})
    inputs = model.interface.inputs.model_copy(update={"image": image})
    model.interface = dataclasses.replace(model.interface, inputs=inputs)
    for number, scales in ((1, [0.3]), (2, [0.3, 0.5])):
        paths = [tmp_path / f"{number}-{scale}.pt" for scale in scales]
        for path, scale in zip(paths, scales, strict=True):
            write_partition(path, next(synthesize(4, "test", 0)), {"pixel_scale": scale})
        origin = model.predict_partitions(paths).origin()
        assert origin.pixel_scale == (0.3 if number == 1 else None)


@pytest.mark.parametrize(
    ("partitions", "name"),
    [
        (["1.pt"], "here"),
        (["parts/1.pt", "parts/2.pt"], "parts"),
        (["s3://bucket/a/b/1.pt", "parts/1.pt"], "b, parts"),
        (["s3://bucket/1.pt"], "bucket"),
    ],
)
def test_a_set_is_called_as_its_folders(tmp_path, monkeypatch, partitions, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert folders_of(partitions) == name
