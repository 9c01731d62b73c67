"""Partitions of any bands and side: torch writes and ours reads, and the other way round."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cosmicai.errors import CorruptPartition
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


def test_bands_are_in_the_record_that_torch_leaves_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "1.pt", (2, 8, 2), {"bands": ["g", "r"]})
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("archive/extra/metadata.json"))["bands"] == ["g", "r"]
