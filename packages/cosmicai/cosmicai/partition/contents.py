"""What a partition holds and how it is stored, read from its first and last bytes, without NumPy.

Whoever reads galaxies starts here; Initialize, whose function has no NumPy, ends here.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cosmicai.errors import CosmicAIError, PartitionMismatch, load_json
from cosmicai.facts import MB
from cosmicai.partition.archive import CorruptArchive, TensorRef, TorchArchive
from cosmicai.partition.imaging import (
    CATALOGUE_RECORD,
    MAX_BANDS,
    MAX_LINE,
    MAX_SIDE,
    METADATA_BYTES,
    METADATA_RECORD,
    MIN_SIDE,
    GalaxyShape,
    Imaging,
    MetadataError,
    check_inputs,
    imaging_of,
)
from cosmicai.partition.sources import S3Source
from cosmicai.safe_pickle import Stub, kind, stub

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cosmicai.model.interface import Inputs
    from cosmicai.partition.sources import S3Object

DATASET_CLASS: Final = "torch.utils.data.dataset.TensorDataset"
_PICKLE_BYTES: Final = 64 * 1024  # that of a partition has about 340
_DATASETS: Final = {
    name: stub(name)
    for name in (
        DATASET_CLASS,
        # These are named for what they are, and refused.
        "torch.utils.data.dataset.Subset",
        "torch.utils.data.dataset.ConcatDataset",
    )
}
_STRIDED_SPAN_BYTES: Final = 64 * MB
_MOST_APART: Final = 16  # galaxies, in their own sizes: bounds the memory of a block
_END_BYTES: Final = 64 * 1024
"""Of a partition that is looked at, not read: its pickle is in the first, its directory in the
last ones."""
_AT_ONCE: Final = 16


@dataclass(frozen=True)
class Contents:
    """What a partition holds.

    Attributes
    ----------
    tensors
        By name: image, and magnitude and redshift where there are any.
    shape
        Bands, side and magnitudes of a galaxy.
    imaging
        Names of the bands, pixel scale and photometric system, as far as the file says them.
    metadata
        All that its metadata record says; None where it has none of ours.
    """

    archive: TorchArchive
    tensors: dict[str, TensorRef]
    shape: GalaxyShape
    imaging: Imaging
    metadata: dict[str, Any] | None

    @property
    def num_samples(self) -> int:
        """Galaxies in it."""
        return self.tensors["image"].shape[0]

    def require(self, inputs: Inputs) -> None:
        """Check that the partition has what a model takes.

        Raises
        ------
        PartitionMismatch
            It has not.
        CorruptArchive
            Its catalogue, which the model's scalars are in, is damaged.
        """
        columns = _column_types(self.archive) if inputs.scalars else {}
        check_inputs(inputs, self.shape, self.imaging, columns)


def contents_of(archive: TorchArchive) -> Contents:
    """Read what a partition holds, and check everything about it but the values.

    Raises
    ------
    CorruptArchive
        If it does not hold galaxies, or they cannot be streamed.
    UnsafePickle
        If its pickle asks for anything but tensors.
    """
    tensors = _tensors(archive)
    _, bands, side, _ = tensors["image"].shape
    magnitude = tensors.get("magnitude")
    shape = GalaxyShape(bands, side, magnitude.shape[1] if magnitude else 0)
    metadata = _metadata(archive)
    try:
        return Contents(archive, tensors, shape, imaging_of(metadata, shape), metadata)
    except MetadataError as error:
        raise CorruptArchive(f"{METADATA_RECORD}: {error}") from error


def require_all(partitions: Sequence[S3Object], inputs: Inputs) -> list[CosmicAIError]:
    """Check that partitions in S3 have what a model takes, reading a few kilobytes of each.

    Returns
    -------
    list
        Why some of them could not be read.

    Raises
    ------
    PartitionMismatch
        One has not what the model takes; it is named.
    """

    def require(partition: S3Object) -> CosmicAIError | None:
        try:
            source = S3Source(partition, head_bytes=_END_BYTES, tail_bytes=_END_BYTES)
            with closing(source):
                contents_of(TorchArchive(source)).require(inputs)
        except PartitionMismatch as error:
            raise PartitionMismatch(f"{partition}: {error}") from error
        except CosmicAIError as error:
            return error
        return None

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="partition-look") as pool:
        return [error for error in pool.map(require, partitions) if error]


def _column_types(archive: TorchArchive) -> dict[str, str]:
    """Return name → type of the columns of a partition's catalogue."""
    start = archive.start_of_record(CATALOGUE_RECORD, MAX_LINE)
    if not start:
        return {}
    try:
        columns = load_json(start.partition(b"\n")[0])["columns"]
        return {str(column["name"]): str(column["dtype"]) for column in columns}
    except (ValueError, LookupError, TypeError):
        raise CorruptArchive(
            f"{CATALOGUE_RECORD}: a first line that describes the columns expected"
        ) from None


def _tensors(archive: TorchArchive) -> dict[str, TensorRef]:
    """Return the tensors by name, checked: image, and magnitude and redshift where there are any.

    Of two tensors, the second is redshifts if it has one dimension, or else magnitudes.
    """
    dataset = archive.load(_DATASETS, max_bytes=_PICKLE_BYTES)
    if not isinstance(dataset, Stub) or dataset.type_name != DATASET_CLASS:
        raise CorruptArchive(
            f"a TensorDataset expected, found {kind(dataset)}; save "
            "TensorDataset(image, magnitude, redshift)"
        )
    tensors = dataset.state.get("tensors")
    if (
        not isinstance(tensors, tuple)
        or len(tensors) not in (1, 2, 3)
        or not all(isinstance(tensor, TensorRef) for tensor in tensors)
    ):
        count = len(tensors) if isinstance(tensors, tuple) else 0
        raise CorruptArchive(
            "a TensorDataset of image, magnitude and redshift (or without one or both of the "
            f"latter) expected, found one of {count} tensors"
        )
    names = ["image", "magnitude", "redshift"]
    if len(tensors) == 2 and len(tensors[1].shape) == 1:
        names.remove("magnitude")
    found = dict(zip(names, tensors, strict=False))
    _check_image(found["image"])
    count = found["image"].shape[0]
    exact = ("float32", "float16")
    _check_dtype(found["image"], "image", exact)
    if magnitude := found.get("magnitude"):
        if magnitude.shape[:1] != (count,) or len(magnitude.shape) != 2:
            raise CorruptArchive(
                f"magnitude: shape ({count}, bands) expected, found {magnitude.shape}"
            )
        if magnitude.shape[1] > MAX_BANDS:
            raise CorruptArchive(
                f"magnitude: at most {MAX_BANDS} of a galaxy expected, found {magnitude.shape[1]}"
            )
        _check_dtype(magnitude, "magnitude", (*exact, "float64"))
    if redshift := found.get("redshift"):
        if redshift.shape not in ((count,), (count, 1)):
            raise CorruptArchive(
                f"redshift: shape ({count},) or ({count}, 1) expected, found {redshift.shape}"
            )
        _check_dtype(redshift, "redshift", (*exact, "float64"))
    for name, tensor in found.items():
        _check_layout(tensor, name)
    return found


def _check_image(image: TensorRef) -> None:
    shape = image.shape
    if len(shape) != 4 or shape[2] != shape[3]:
        raise CorruptArchive(
            f"image: shape (galaxies, bands, side, side) expected, found {shape}"
            + ("; move the bands to the second axis" if shape[1:2] == shape[2:3] else "")
        )
    if not 1 <= shape[1] <= MAX_BANDS or not MIN_SIDE <= shape[2] <= MAX_SIDE:
        raise CorruptArchive(
            f"image: 1 to {MAX_BANDS} bands of {MIN_SIDE} to {MAX_SIDE} pixels on a side expected, "
            f"found {shape}"
        )


def _check_dtype(tensor: TensorRef, name: str, dtypes: tuple[str, ...]) -> None:
    if tensor.dtype not in dtypes:
        raise CorruptArchive(f"{name}: {' or '.join(dtypes)} expected, found {tensor.dtype}")


def _metadata(archive: TorchArchive) -> dict[str, Any] | None:
    """Return the file's metadata; None where there is none, or it is another program's."""
    record = archive.read_record(METADATA_RECORD, METADATA_BYTES)
    try:
        metadata = load_json(record or b"null")
    except ValueError:
        return None
    return metadata if isinstance(metadata, dict) else None


def _check_layout(tensor: TensorRef, name: str) -> None:
    """Refuse a tensor that cannot be streamed."""
    if tensor.numel and is_by_galaxy(tensor) and tensor.shape[0] > 1:
        apart = tensor.stride[0] * tensor.storage.itemsize
        _, row = tensor.row_bytes(0, 1)
        if apart > _MOST_APART * row:
            raise CorruptArchive(
                f"{name}: galaxies of {row:,} bytes lie {apart:,} bytes apart, as in a view of a "
                "larger tensor, all of which the file holds; save a .clone() of the view"
            )
    if tensor.numel and not is_by_galaxy(tensor):
        _, span = tensor.row_bytes(0, tensor.shape[0])
        if span > _STRIDED_SPAN_BYTES:
            raise CorruptArchive(
                f"{name}: rows of galaxies expected, found stride {tensor.stride} over {span} "
                "bytes, which cannot be streamed; save the tensors .contiguous()"
            )


def is_by_galaxy(tensor: TensorRef) -> bool:
    """Whether each galaxy's values are stored together, one galaxy after the other."""
    _, row = tensor.row_bytes(0, 1)
    return tensor.shape[0] == 1 or tensor.stride[0] * tensor.storage.itemsize >= row
