"""Partitions as torch writes them, read from files without torch: the same numbers."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cosmicai.errors import CorruptPartition, InvalidInput, PartitionNotFound, UnsafePickle
from cosmicai.partition.reader import Batch, describe, open_partition

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")


def galaxies(count: int, seed: int = 1) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(count, 5, 32, 32, generator=generator),
        torch.rand(count, 5, generator=generator) * 10 + 15,
        torch.rand(count, generator=generator),
    )


def save(path: Path, *tensors: Any, **options: Any) -> Path:
    from torch.utils.data import TensorDataset

    torch.save(TensorDataset(*tensors), path, **options)
    return path


def read(path: Path, batch_size: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with open_partition(path, batch_size=batch_size) as reader:
        batches: list[Batch] = list(reader)
    assert [batch.start for batch in batches] == list(range(0, reader.num_samples, batch_size))
    return (
        np.concatenate([batch.image for batch in batches]),
        np.concatenate([batch.magnitude for batch in batches]),
        np.concatenate([batch.redshift for batch in batches]),
    )


def same(found: tuple[np.ndarray, ...], expected: tuple[Any, ...]) -> None:
    for array, tensor in zip(found, expected, strict=True):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, tensor.detach().float().numpy())


@pytest.mark.parametrize("count", [1, 3, 4, 5, 17, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 512])
def test_every_galaxy_comes_once_in_order(tmp_path: Path, count: int, batch_size: int) -> None:
    tensors = galaxies(count)

    same(read(save(tmp_path / "1.pt", *tensors), batch_size), tensors)


def odd_layouts() -> dict[str, tuple[Any, Any, Any]]:
    image, magnitude, redshift = galaxies(12)
    large = galaxies(50)
    return {
        "slices of a larger storage": (large[0][10:22], large[1][3:15], large[2][30:42]),
        "every fourth of a larger storage": (large[0][::4][:12], large[1][::4][:12], large[2][:12]),
        "channels last": (
            image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
            magnitude.T.contiguous().T,
            redshift,
        ),
        "galaxies last": (
            image.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
            magnitude,
            redshift,
        ),
        "half precision": (image.half(), magnitude.half(), redshift.half()),
        "double magnitudes and redshifts": (image, magnitude.double(), redshift.double()),
        "parameters and gradients": (
            torch.nn.Parameter(image),
            magnitude.clone().requires_grad_(),
            redshift,
        ),
        "all in one storage": (
            large[0].view(-1)[: 12 * 5120].view(12, 5, 32, 32),
            large[0].view(-1)[5000:5060].view(12, 5),
            large[0].view(-1)[7:19],
        ),
    }


@pytest.mark.parametrize("name", odd_layouts())
def test_layouts_other_than_plain_give_the_same_values(tmp_path: Path, name: str) -> None:
    tensors = odd_layouts()[name]

    same(read(save(tmp_path / "1.pt", *tensors)), tensors)


def test_redshift_of_shape_n_1_is_flattened(tmp_path: Path) -> None:
    image, magnitude, redshift = galaxies(9)
    path = save(tmp_path / "1.pt", image, magnitude, redshift.reshape(9, 1))

    same(read(path), (image, magnitude, redshift))


def test_without_redshifts_they_are_nan(tmp_path: Path) -> None:
    image, magnitude, _ = galaxies(9)

    _, _, redshift = read(save(tmp_path / "1.pt", image, magnitude))

    assert np.isnan(redshift).all()
    assert len(redshift) == 9


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    tensors = galaxies(5)

    same(read(save(tmp_path / "1.pt", *tensors, pickle_protocol=protocol)), tensors)


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    tensors = galaxies(5)
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "1.pt", *tensors)
    finally:
        torch.serialization.set_crc32_options(True)

    same(read(path), tensors)


def test_nan_pixels_are_handed_on(tmp_path: Path) -> None:
    image, magnitude, redshift = galaxies(5)
    image[2, 1, 3, 4] = float("nan")

    found, _, _ = read(save(tmp_path / "1.pt", image, magnitude, redshift))

    assert np.argwhere(np.isnan(found)).tolist() == [[2, 1, 3, 4]]


def test_an_empty_dataset_has_no_batches(tmp_path: Path) -> None:
    with open_partition(save(tmp_path / "1.pt", *galaxies(0)), batch_size=4) as reader:
        assert reader.num_samples == 0
        assert list(reader) == []


def test_what_a_reader_says_about_its_file(tmp_path: Path) -> None:
    path = save(tmp_path / "1.pt", *galaxies(10))

    with open_partition(path, batch_size=4) as reader:
        assert reader.num_samples == 10
        assert reader.num_batches == 3
        assert reader.nbytes == path.stat().st_size
        assert reader.s3 is None
        assert len(list(reader)) == len(list(reader)) == 3  # it can be read again
        assert reader.wait_seconds > 0


def test_describe_names_shapes_and_types(tmp_path: Path) -> None:
    image, magnitude, redshift = galaxies(3)

    found = describe(save(tmp_path / "1.pt", image, magnitude.double(), redshift))

    assert found["galaxies"] == 3
    assert found["tensors"]["magnitude"]["dtype"] == "float64"
    assert found["tensors"]["image"]["shape"] == [3, 5, 32, 32]


def test_the_reader_does_not_import_torch(tmp_path: Path) -> None:
    path = save(tmp_path / "1.pt", *galaxies(3))
    code = (
        "import sys, pathlib; from cosmicai.partition.reader import open_partition; "
        f"list(open_partition(pathlib.Path({str(path)!r}), batch_size=2)); "
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


# -- what is refused ----------------------------------------------------------------------------


def refused() -> dict[str, tuple[tuple[Any, ...], str]]:
    image, magnitude, redshift = galaxies(6)
    return {
        "no bands": ((image[:, :0], magnitude, redshift), "1 to 64 bands of 4 to 1024 pixels"),
        "65 bands": ((image[:, :1].repeat(1, 65, 1, 1), magnitude, redshift), "1 to 64 bands"),
        "3 pixels": ((image[..., :3, :3], magnitude, redshift), "bands of 4 to 1024 pixels"),
        "bands last": (
            (image.permute(0, 2, 3, 1).contiguous(), magnitude, redshift),
            r"side, side\) expected, found \(6, 32, 32, 5\); move the bands to the second axis",
        ),
        "pixels": ((image[..., :16], magnitude, redshift), r"found \(6, 5, 32, 16\)"),
        "flat images": ((image.reshape(6, -1), magnitude, redshift), r"found \(6, 5120\)"),
        "flat magnitudes": ((image, redshift, redshift), r"magnitude: shape \(6, bands\)"),
        "65 magnitudes": ((image, magnitude.repeat(1, 13), redshift), "magnitude: at most 64"),
        "redshift of two columns": (
            (image, magnitude, torch.stack([redshift, redshift], 1)),
            r"redshift: shape \(6,\) or \(6, 1\) expected, found \(6, 2\)",
        ),
        "bytes": (((image * 255).byte(), magnitude, redshift), "image: float32 or float16 expect"),
        "double images": ((image.double(), magnitude, redshift), "found float64"),
        "integers": ((image, magnitude.int(), redshift), "magnitude: .* found int32"),
        "bfloat16": ((image, magnitude, redshift.bfloat16()), "redshift: .* found bfloat16"),
        "four tensors": ((image, magnitude, redshift, redshift), "found one of 4 tensors"),
        "expanded": ((image, magnitude, redshift[:1].expand(6)), "overlap"),
    }


@pytest.mark.parametrize("name", refused())
def test_wrong_shapes_and_types_say_what_was_expected(tmp_path: Path, name: str) -> None:
    tensors, message = refused()[name]
    path = save(tmp_path / "7.pt", *tensors)

    with pytest.raises(CorruptPartition, match=message) as caught:
        open_partition(path, batch_size=4)
    assert str(path) in str(caught.value)


def test_other_contents_than_a_dataset_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "1.pt"
    torch.save(galaxies(2), path)

    with pytest.raises(CorruptPartition, match="TensorDataset expected, found tuple"):
        open_partition(path, batch_size=4)


def test_the_old_format_says_how_to_convert(tmp_path: Path) -> None:
    path = save(tmp_path / "1.pt", *galaxies(2), _use_new_zipfile_serialization=False)

    with pytest.raises(CorruptPartition, match=r"before PyTorch 1\.6.*torch\.save\(torch\.load"):
        open_partition(path, batch_size=4)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(PartitionNotFound, match=r"3\.pt: there is no such file"):
        open_partition(tmp_path / "3.pt", batch_size=4)
    with pytest.raises(PartitionNotFound, match="not a file"):
        open_partition(tmp_path, batch_size=4)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"PK\x05\x06" + b"\0" * 18])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "1.pt"
    path.write_bytes(content)

    with pytest.raises(CorruptPartition):
        open_partition(path, batch_size=4)


def test_a_cut_off_file_is_refused_at_once(tmp_path: Path) -> None:
    path = save(tmp_path / "1.pt", *galaxies(100))
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(CorruptPartition, match="cut off or damaged"):
        open_partition(path, batch_size=4)


def test_a_damaged_pixel_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "1.pt", *galaxies(100))
    data = bytearray(path.read_bytes())
    data[1_000_000] ^= 1
    path.write_bytes(data)

    with (
        open_partition(path, batch_size=10) as reader,
        pytest.raises(CorruptPartition, match="storage '0' are damaged: checksum"),
    ):
        list(reader)


def test_a_file_changed_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "1.pt", *galaxies(1000))

    with open_partition(path, batch_size=100) as reader:
        batches = iter(reader)
        next(batches)
        path.open("r+b").write(b"P")
        with pytest.raises(CorruptPartition, match="changed while it was read"):
            list(batches)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_must_be_positive(tmp_path: Path, batch_size: int) -> None:
    with pytest.raises(InvalidInput, match="positive"):
        open_partition(tmp_path / "1.pt", batch_size=batch_size)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("place", ["tensor", "attribute", "instead", "bare pickle"])
def test_a_hostile_partition_is_refused_and_nothing_ran(tmp_path: Path, place: str) -> None:
    import pickle

    from torch.utils.data import TensorDataset

    canary = tmp_path / "canary"
    dataset: Any = TensorDataset(*galaxies(2))
    if place == "tensor":
        dataset.tensors = (*dataset.tensors, Touch(canary))
    elif place == "attribute":
        dataset.extra = Touch(canary)
    else:
        dataset = Touch(canary)
    path = tmp_path / "1.pt"
    if place == "bare pickle":
        path.write_bytes(pickle.dumps(dataset))
    else:
        torch.save(dataset, path)

    with pytest.raises(UnsafePickle, match=r"open.*nothing of it was executed"):
        open_partition(path, batch_size=4)

    assert not canary.exists()


@pytest.mark.parametrize("apart", [17, 700, 20_000])
def test_a_view_of_a_much_larger_tensor_is_refused_with_the_sizes(
    tmp_path: Path, apart: int
) -> None:
    """Reading it in blocks would hold all that lies between its galaxies."""
    torch = pytest.importorskip("torch")
    whole = torch.zeros(4 * apart, 5)
    image = torch.zeros(1, 5, 32, 32).expand(4, -1, -1, -1).contiguous()
    dataset = torch.utils.data.TensorDataset(image, whole[::apart], torch.zeros(4))
    torch.save(dataset, tmp_path / "view.pt")
    message = f"magnitude: galaxies of 20 bytes lie {20 * apart:,} bytes apart"
    with pytest.raises(CorruptPartition, match=message):
        open_partition(tmp_path / "view.pt", batch_size=2)


def test_a_view_of_a_somewhat_larger_tensor_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    whole = torch.arange(4.0 * 16 * 5).reshape(64, 5)
    dataset = torch.utils.data.TensorDataset(torch.zeros(4, 5, 32, 32), whole[::16], torch.zeros(4))
    torch.save(dataset, tmp_path / "view.pt")
    with open_partition(tmp_path / "view.pt", batch_size=4) as reader:
        (batch,) = reader
    assert batch.magnitude.tolist() == whole[::16].tolist()


def save_other(kind: str, path: Path) -> None:
    """Save what is no TensorDataset of floats, and no danger either."""
    from torch.utils.data import ConcatDataset, Subset, TensorDataset

    image, magnitude = torch.zeros(4, 5, 32, 32), torch.zeros(4, 5)
    whole = TensorDataset(image, magnitude)
    others = {
        "Subset": lambda: Subset(whole, [0, 2]),
        "ConcatDataset": lambda: ConcatDataset([whole, whole]),
        "uint16": lambda: TensorDataset(image.to(torch.uint16), magnitude),
        "uint32": lambda: TensorDataset(image.to(torch.uint32), magnitude),
        "float8_e5m2": lambda: TensorDataset(image.to(torch.float8_e5m2), magnitude),
        "complex64": lambda: TensorDataset(image.to(torch.complex64), magnitude),
        "sparse": lambda: TensorDataset(image.to_sparse(), magnitude),
    }
    torch.save(others[kind](), path)


@pytest.mark.parametrize(
    "kind",
    ["Subset", "ConcatDataset", "uint16", "uint32", "float8_e5m2", "complex64", "sparse"],
)
def test_harmless_contents_are_refused_for_what_they_are(kind: str, tmp_path: Path) -> None:
    save_other(kind, tmp_path / "1.pt")
    with pytest.raises(CorruptPartition, match=kind):
        open_partition(tmp_path / "1.pt", batch_size=1)
