"""Partitions of any bands and side: torch writes and ours reads, and the other way round."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cosmicai.errors import CorruptPartition, PartitionMismatch
from cosmicai.model.interface import ImageInput, Inputs, MagnitudeInput, ScalarInput, sdss_inputs
from cosmicai.partition.catalogue import Catalogue, ColumnInfo, column_of
from cosmicai.partition.imaging import GalaxyShape
from cosmicai.partition.reader import open_partition
from cosmicai_workbench.data.partition_writer import PartitionWriter

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")

SHAPES = [(1, 4, 0), (1, 64, 1), (3, 40, 5), (5, 64, 5), (9, 32, 0), (64, 8, 64)]


def arrays(shape: tuple[int, int, int], count: int = 7) -> list[Any]:
    bands, side, magnitudes = shape
    rng = np.random.default_rng(1)
    return [
        rng.random((count, bands, side, side), dtype=np.float32),
        rng.random((count, magnitudes), dtype=np.float32),
        rng.random(count, dtype=np.float32),
    ]


def save(path: Path, *tensors: Any) -> Path:
    torch.save(torch.utils.data.TensorDataset(*map(torch.from_numpy, tensors)), path)
    return path


def read(path: Path, **options: Any) -> list[Any]:
    with open_partition(path, **options) as reader:
        batches = list(reader)
    return [
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("image", "magnitude", "redshift")
    ]


def write(path: Path, shape: tuple[int, int, int], metadata: dict[str, Any]) -> Path:
    image, magnitude, redshift = arrays(shape)
    with PartitionWriter(path, len(image), metadata, shape=GalaxyShape(*shape)) as writer:
        writer.write(image[:4], magnitude[:4], redshift[:4])
        writer.write(image[4:], magnitude[4:], redshift[4:])
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_what_torch_saves_is_read(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    expected = arrays(shape)
    path = save(tmp_path / "1.pt", *expected)

    for options in ({"batch_size": 3}, {}):
        for found, array in zip(read(path, **options), expected, strict=True):
            np.testing.assert_array_equal(found, array)
    with open_partition(path) as reader:
        assert (len(reader.bands), reader.side, reader.num_magnitudes) == shape


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_is_what_torch_would_save(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    path = write(tmp_path / "1.pt", shape, {})

    tensors = torch.load(path, weights_only=False).tensors
    by_torch = torch.load(save(tmp_path / "2.pt", *arrays(shape)), weights_only=False).tensors

    for found, expected in zip(tensors, by_torch, strict=True):
        assert torch.equal(found, expected)
        assert found.shape == expected.shape
        assert found.is_contiguous()


def test_magnitudes_and_redshifts_may_be_absent(tmp_path: Path) -> None:
    image, magnitude, redshift = arrays((3, 16, 4))

    found = read(save(tmp_path / "image.pt", image))
    assert found[1].shape == (7, 0)
    assert np.isnan(found[2]).all()

    found = read(save(tmp_path / "redshift.pt", image, redshift))
    assert found[1].shape == (7, 0)
    np.testing.assert_array_equal(found[2], redshift)

    found = read(save(tmp_path / "magnitude.pt", image, magnitude))
    np.testing.assert_array_equal(found[1], magnitude)
    assert np.isnan(found[2]).all()


def test_a_file_that_says_nothing_is_of_sdss_if_it_has_its_bands(tmp_path: Path) -> None:
    with open_partition(save(tmp_path / "1.pt", *arrays((5, 48, 5)))) as reader:
        assert reader.bands == ("u", "g", "r", "i", "z")
        assert reader.imaging.pixel_scale == 0.396
        assert reader.imaging.photometric_system == "SDSS"
    with open_partition(save(tmp_path / "2.pt", *arrays((3, 32, 3)))) as reader:
        assert reader.bands == ("band1", "band2", "band3")
        assert reader.imaging.pixel_scale is None


def test_the_metadata_say_what_shapes_cannot(tmp_path: Path) -> None:
    stated = {"bands": ["g", "r"], "pixel_scale": 0.262, "photometric_system": "DECam", "mine": 1}
    with open_partition(write(tmp_path / "1.pt", (2, 8, 2), stated)) as reader:
        assert reader.bands == reader.imaging.magnitude_bands == ("g", "r")
        assert (reader.imaging.pixel_scale, reader.imaging.photometric_system) == (0.262, "DECam")
        assert reader.metadata == stated
    # An earlier release named the bands, and no more.
    with open_partition(write(tmp_path / "2.pt", (5, 32, 5), {"bands": list("ugriz")})) as reader:
        assert reader.imaging.pixel_scale == 0.396


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"bands": ["g"]}, r"bands: as many names as the tensor has bands \(2\)"),
        ({"bands": "gr"}, "bands: a list of names"),
        ({"bands": ["g", "g"]}, "bands: different names"),
        ({"bands": ["g", 1]}, "bands: a list of names"),
        ({"magnitude_bands": ["g", "r", "i", "z"]}, "magnitude_bands: as many names"),
        ({"pixel_scale": "0.2"}, "pixel_scale: arcseconds above 0"),
        ({"pixel_scale": float("nan")}, "pixel_scale: arcseconds above 0"),
        ({"photometric_system": ["AB"]}, "photometric_system: text"),
    ],
)
def test_metadata_that_contradict_the_tensors_are_refused(
    tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "1.pt", (2, 8, 3), metadata)

    with pytest.raises(CorruptPartition, match=f"metadata.json: {message}"):
        open_partition(path)


def test_metadata_are_bounded(tmp_path: Path) -> None:
    path = write(tmp_path / "1.pt", (2, 8, 3), {"mine": "x" * 2_000_000})

    with pytest.raises(CorruptPartition, match="at most 1048576 are read"):
        open_partition(path)


def test_a_batch_of_large_images_is_small(tmp_path: Path) -> None:
    """By default, a batch is bounded by bytes, not by galaxies."""
    with open_partition(save(tmp_path / "1.pt", *arrays((4, 512, 0)))) as reader:
        assert [len(batch) for batch in reader] == [1] * 7


def test_a_batch_asked_for_is_bounded_where_images_are_large(tmp_path: Path) -> None:
    with open_partition(save(tmp_path / "1.pt", *arrays((16, 512, 0))), batch_size=512) as reader:
        assert reader.num_batches == 3
        assert [(batch.start, len(batch)) for batch in reader] == [(0, 3), (3, 3), (6, 1)]


def test_bands_are_in_the_record_that_torch_leaves_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "1.pt", (2, 8, 2), {"bands": ["g", "r"]})
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("archive/extra/metadata.json"))["bands"] == ["g", "r"]


# -- what a model takes --------------------------------------------------------------------------

GRI = Inputs(
    image=ImageInput(bands=("g", "r", "i"), side=16),
    magnitude=MagnitudeInput(bands=("g", "r", "i")),
)
NO_MAGNITUDES = Inputs(image=GRI.image)
DUSTY = Inputs(image=GRI.image, scalars=(ScalarInput(name="ebv"), ScalarInput(name="fwhm")))
MISMATCHES: dict[str, tuple[tuple[int, int, int], dict[str, Any], Inputs, str]] = {
    "side": ((3, 32, 3), {}, GRI, "images of 16 × 16 pixels, and these have 32 × 32"),
    "bands": ((5, 16, 3), {}, GRI, r"images in g, r, i \(3\), .* has 5 bands \(5\)"),
    "order": ((3, 16, 3), {"bands": ["i", "r", "g"]}, GRI, "partition has i, r, g"),
    "other bands": ((3, 16, 3), {"bands": ["g", "r", "z"]}, GRI, "partition has g, r, z"),
    "magnitudes": ((3, 16, 4), {}, GRI, r"magnitudes in g, r, i \(3\), .* has 4 bands"),
    "their order": (
        (3, 16, 3),
        {"bands": ["g", "r", "i"], "magnitude_bands": ["i", "r", "g"]},
        GRI,
        "magnitudes in g, r, i .* has i, r, g",
    ),
    "no magnitudes": ((3, 16, 0), {}, GRI, r"the partition has none \(0\)"),
    "SDSS's bands": ((3, 32, 5), {}, sdss_inputs(), r"u, g, r, i, z \(5\), .* has 3 bands"),
    "SDSS's magnitudes": ((5, 32, 4), {}, sdss_inputs(), r"magnitudes in u, g, r, i, z \(5\)"),
    "scalars": ((3, 16, 0), {}, DUSTY, "'ebv' from a column .* --keep ebv"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_partition_that_is_not_what_the_model_takes(tmp_path: Path, name: str) -> None:
    shape, metadata, inputs, message = MISMATCHES[name]
    path = write(tmp_path / "7.pt", shape, metadata)

    with pytest.raises(PartitionMismatch, match=rf"7\.pt: the model takes .*{message}"):
        open_partition(path, inputs=inputs)
    with open_partition(path) as reader:  # it is sound
        assert len(list(reader)) == 1


@pytest.mark.parametrize("metadata", [{}, {"bands": ["g", "r", "i"]}, {"pixel_scale": 0.2}])
def test_a_partition_that_is_what_the_model_takes(tmp_path: Path, metadata: dict[str, Any]) -> None:
    path = write(tmp_path / "1.pt", (3, 16, 3), metadata)
    for inputs, count in ((GRI, 3), (NO_MAGNITUDES, 0)):
        with open_partition(path, inputs=inputs) as reader:
            (batch,) = reader
        np.testing.assert_array_equal(batch.values(inputs), arrays((3, 16, 3))[1][:, :count])


def test_unnamed_bands_of_sdss_number_are_judged_by_their_number(tmp_path: Path) -> None:
    """Users' own files name no bands, so a model of five other bands takes them."""
    bands = ("g", "r", "i", "z", "y")
    other = Inputs(image=ImageInput(bands=bands, side=16), magnitude=MagnitudeInput(bands=bands))
    with open_partition(save(tmp_path / "1.pt", *arrays((5, 16, 5))), inputs=other) as reader:
        assert len(list(reader)) == 1
    with pytest.raises(PartitionMismatch):
        open_partition(write(tmp_path / "2.pt", (5, 16, 5), {"bands": list("ugriz")}), inputs=other)


def test_scalars_come_from_the_columns_that_a_partition_carries(tmp_path: Path) -> None:
    image, magnitude, redshift = arrays((3, 16, 2))
    ebv: list[float | None] = [0.1, 0.2, None, 0.4, 1e300, 0.6, 0.7]
    columns = Catalogue(
        [
            column_of(ColumnInfo("fwhm", "int64"), range(7)),
            column_of(ColumnInfo("ebv", "float64"), ebv),
        ]
    )
    path = tmp_path / "1.pt"
    with PartitionWriter(path, 7, {}, shape=GalaxyShape(3, 16, 2)) as writer:
        writer.write(image, magnitude, redshift)
        writer.write_catalogue(columns)

    with open_partition(path, batch_size=4, inputs=DUSTY) as reader:
        values = np.concatenate([batch.values(DUSTY) for batch in reader])
        assert reader.catalogue() is reader.catalogue()  # the scalars' reading serves all

    expected = np.array([ebv, range(7)], np.float64).T
    expected[4, 0] = np.inf
    np.testing.assert_array_equal(values, expected.astype(np.float32))
    both = DUSTY.model_copy(update={"magnitude": MagnitudeInput(bands=("g", "r"))})
    with open_partition(path, inputs=both) as reader:
        (batch,) = reader
    np.testing.assert_array_equal(batch.values(both)[:, :2], magnitude)
    np.testing.assert_array_equal(batch.values(both)[:, 2:], values)
    text = Inputs(image=GRI.image, scalars=(ScalarInput(name="name"),))
    named = Catalogue([column_of(ColumnInfo("name", "str"), ["a"] * 7)])
    with PartitionWriter(path, 7, {}, shape=GalaxyShape(3, 16, 2)) as writer:
        writer.write(image, magnitude, redshift)
        writer.write_catalogue(named)
    with pytest.raises(PartitionMismatch, match="text in column 'name'"):
        open_partition(path, inputs=text)
