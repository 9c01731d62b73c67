"""NumPy's ``.npz``: a zip of arrays, read forward without unpickling anything."""

from __future__ import annotations

import zipfile
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from cosmicai.errors import InvalidInput
from numpy.lib import format as npy

from cosmicai_workbench.data.arrays.files import MAX_ARRAYS, ArrayColumn, named_errors, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cosmicai_workbench.data.arrays.files import Block

_SUFFIX = ".npy"


def has_member(path: Path, ending: str) -> bool:
    """Say whether a zip archive has a member whose name ends so: ``.npy`` is an array of NumPy."""
    with named_errors(path), zipfile.ZipFile(path) as archive:
        return any(name.endswith(ending) for name in archive.namelist())


class NpzFile:
    """An opened archive; arrays of Python objects are left alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with named_errors(path), ExitStack() as files:
            self._archive = files.enter_context(zipfile.ZipFile(path))
            names = self._archive.namelist()
            if others := [name for name in names if not name.endswith(_SUFFIX)]:
                raise InvalidInput(f"{path}: arrays (*.npy) expected, found {others[0]!r:.80}")
            if len(names) > MAX_ARRAYS:
                raise InvalidInput(f"{path}: at most {MAX_ARRAYS} arrays expected")
            self.columns = {}
            for name in names:
                with self._archive.open(name) as member:
                    shape, by_column, dtype = _header(member)
                if shape and not dtype.hasobject and not (by_column and len(shape) > 1):
                    self.columns[name.removesuffix(_SUFFIX)] = ArrayColumn(shape, dtype)
            self._files = files.pop_all()

    def read(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        """Yield all galaxies in order, ``rows`` at once."""
        total = self.columns[names[0]].shape[0]
        with ExitStack() as files:
            with named_errors(self.path):
                members = {
                    name: files.enter_context(self._archive.open(name + _SUFFIX)) for name in names
                }
                for member in members.values():
                    _header(member)
            for start in range(0, total, rows):
                count = min(rows, total - start)
                block: Block = {}
                for name, member in members.items():
                    with named_errors(self.path, name):
                        block[name] = plain(_take(member, self.columns[name], count))
                        if start + count == total and member.read(1):  # its checksum is at the end
                            raise ValueError("the array is longer than its header says")
                yield block

    def close(self) -> None:
        """Close the archive."""
        self._files.close()


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read an array's header: shape, whether columns come first, type."""
    version = npy.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version 1 or 2 of the .npy format expected, found {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(member)


def _take(member: IO[bytes], column: ArrayColumn, count: int) -> np.ndarray[Any, Any]:
    length = count * column.row_bytes
    parts = bytearray()
    while len(parts) < length:
        part = member.read(length - len(parts))
        if not part:
            raise EOFError("the array is shorter than its header says")
        parts += part
    return np.frombuffer(parts, column.dtype).reshape(count, *column.shape[1:])
