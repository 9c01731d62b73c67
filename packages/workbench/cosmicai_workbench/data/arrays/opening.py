"""Finding and opening files of arrays, recognized by their content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cosmicai.errors import InvalidInput
from cosmicai.partition.formats import described, made_by
from cosmicai.sharing import natural_key, partition_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cosmicai_workbench.data.arrays.files import ArrayFile

_SUFFIXES: Final = (".hdf5", ".h5", ".hdf", ".he5", ".parquet", ".npz", ".zarr", ".zarr.zip")


def open_arrays(path: Path) -> ArrayFile:
    """Open a file, whose format is recognized by its content.

    Raises
    ------
    InvalidInput
        If it is of no known format, or cannot be read.
    """
    if path.is_dir():
        from cosmicai_workbench.data.arrays.zarr_store import ZarrFile

        return ZarrFile(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith(b"PK"):
        from cosmicai_workbench.data.arrays.npz import NpzFile, has_member

        if has_member(path, ".npy"):
            return NpzFile(path)
        if has_member(path, "/data.pkl"):
            found = made_by("a data set of torch.save", "split")
            raise InvalidInput(
                f"{path}: HDF5, Parquet, .npz or Zarr expected, found {found}, and `cosmicai "
                "predict` takes it as it is"
            )
        from cosmicai_workbench.data.arrays.zarr_store import ZarrFile

        return ZarrFile(path)
    if start.startswith(b"PAR1"):
        from cosmicai_workbench.data.arrays.parquet import ParquetArrays

        return ParquetArrays(path)
    if start == b"\x89HDF\r\n\x1a\n":
        from cosmicai_workbench.data.arrays.hdf5 import Hdf5File

        return Hdf5File(path)
    raise InvalidInput(f"{path}: HDF5, Parquet, .npz or Zarr expected, found {described(start)}")


def find_arrays(inputs: Iterable[Path]) -> list[Path]:
    """Return the files named, and those in the folders named, in natural order.

    Raises
    ------
    InvalidInput
        If there are none.
    """
    found: list[Path] = []
    for path in inputs:
        if path.is_dir() and not is_zarr(path):
            inside = _files_in(path)
            if not inside:
                ready = "partitions, which `cosmicai predict` and `cosmicai run` take as they are"
                raise InvalidInput(
                    f"{path}: files in {', '.join(_SUFFIXES)} expected, found "
                    f"{ready if partition_files(path) else 'none'}"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InvalidInput(f"{path}: there is no such file")
    if not found:
        raise InvalidInput("inputs: at least one file expected, found none")
    return found


def is_zarr(path: Path) -> bool:
    """Say whether a folder is a Zarr store."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def _files_in(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            found += [path] if is_zarr(path) else _files_in(path)
        elif path.name.lower().endswith(_SUFFIXES):
            found.append(path)
    return sorted(found, key=lambda path: natural_key(str(path)))
