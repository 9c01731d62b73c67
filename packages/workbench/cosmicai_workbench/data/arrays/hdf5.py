"""HDF5: one dataset per column, or one group per galaxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.errors import InvalidInput

from cosmicai_workbench.data.arrays.files import (
    MAX_ARRAYS,
    ArrayColumn,
    named_errors,
    plain,
    rows_together,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import h5py

    from cosmicai_workbench.data.arrays.files import Block

NAME = "object_id"
_IMAGES = ("image_array", "image", "cutout")
"""What a group calls the image of one galaxy."""


class Hdf5File:
    """An opened file.

    Datasets whose bytes are in other files (external storage, virtual datasets, external links)
    are refused: such a file could read any other on this machine.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        with named_errors(path):
            self._file = h5py.File(path, "r", locking=False)
        try:
            with named_errors(path):
                self._galaxies = _galaxy_groups(self._file)
                self.columns = (
                    self._columns_of_groups() if self._galaxies else self._columns_of_datasets()
                )
        except BaseException:
            self._file.close()
            raise

    def read(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        """Yield all galaxies in order, about ``rows`` at once."""
        if self._galaxies:
            yield from self._read_groups(names, rows)
            return
        total = self.columns[names[0]].shape[0]
        widest = max(names, key=lambda name: self.columns[name].row_bytes)
        rows = rows_together(self.path, widest, self.columns[widest], rows)
        for start in range(0, total, rows):
            block: Block = {}
            for name in names:
                with named_errors(self.path, name):
                    block[name] = plain(self._dataset(name)[start : start + rows])
            yield block

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _dataset(self, name: str) -> h5py.Dataset:
        dataset = self._file[name]
        if dataset.is_virtual or dataset.external:
            raise InvalidInput(
                f"{self.path}: {name}: a dataset stored in this file expected, found one whose "
                "values are in other files; write it again into one file"
            )
        return dataset

    def _columns_of_datasets(self) -> dict[str, ArrayColumn]:
        import h5py

        names: list[str] = []

        def visit(name: str, item: object) -> None:  # soft and external links are not followed
            if isinstance(item, h5py.Dataset):
                names.append(name)
            if len(names) > MAX_ARRAYS:
                raise InvalidInput(f"{self.path}: at most {MAX_ARRAYS} datasets expected")

        self._file.visititems(visit)
        columns = {}
        for name in names:
            dataset = self._file[name]
            dtype = _dtype(dataset)
            if dtype is not None and dataset.shape:
                columns[name] = ArrayColumn(dataset.shape, dtype, dataset.chunks)
        return columns

    def _columns_of_groups(self) -> dict[str, ArrayColumn]:
        first = self._file[self._galaxies[0]]
        columns = {NAME: ArrayColumn((len(self._galaxies),), np.dtype("U256"))}
        for name, item in _datasets(first).items():
            dtype = _dtype(item)
            if dtype is not None:
                columns[name] = ArrayColumn((len(self._galaxies), *item.shape), dtype)
        for name, value in first.attrs.items():
            values = np.asarray(value)
            if values.dtype.kind in "biufUSO":
                dtype = np.dtype("U256") if values.dtype.kind in "SO" else values.dtype
                columns.setdefault(name, ArrayColumn((len(self._galaxies), *values.shape), dtype))
        return columns

    def _read_groups(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        for start in range(0, len(self._galaxies), rows):
            galaxies = self._galaxies[start : start + rows]
            block: Block = {}
            for name in names:
                with named_errors(self.path, name):
                    found = [np.asarray(self._value(galaxy, name)) for galaxy in galaxies]
                    expected = self.columns[name].shape[1:]
                    for galaxy, values in zip(galaxies, found, strict=True):
                        if values.shape != expected:
                            raise InvalidInput(
                                f"{self.path}: {galaxy}/{name}: shape {expected} expected, as of "
                                f"{self._galaxies[0]}, found {values.shape}"
                            )
                    block[name] = plain(np.stack(found))
            yield block

    def _value(self, galaxy: str, name: str) -> Any:
        group = self._file[galaxy]
        if _is_here(group, name):
            return self._dataset(f"{galaxy}/{name}")[()]
        if name in group.attrs:
            return group.attrs[name]
        if name == NAME:
            return galaxy
        raise InvalidInput(
            f"{self.path}: {galaxy}: {name!r} expected in this file, as {self._galaxies[0]} has"
        )


def _galaxy_groups(file: h5py.File) -> list[str]:
    """Return the names of the groups if each is a galaxy: all there is, with an image in each."""
    import h5py

    names = list(file)
    for name in names:
        if not _is_here(file, name) or file.get(name, getclass=True) is not h5py.Group:
            return []
    first = _datasets(file[names[0]]) if names else {}
    shapes = {name: dataset.shape for name, dataset in first.items()}
    images = [name for name in _IMAGES if len(shapes.get(name, ())) in (2, 3)]
    return names if images and all(len(shape) <= 3 for shape in shapes.values()) else []


def _datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    import h5py

    members = {name: group[name] for name in group if _is_here(group, name)}
    return {name: item for name, item in members.items() if isinstance(item, h5py.Dataset)}


def _is_here(group: h5py.Group, name: str) -> bool:
    """Say whether a group has a member itself; links to elsewhere are not followed."""
    import h5py

    links, key = group.id.links, name.encode()
    return bool(links.exists(key)) and links.get_info(key).type == h5py.h5l.TYPE_HARD


def _dtype(dataset: h5py.Dataset) -> np.dtype[Any] | None:
    """Return the type of a dataset of numbers or text; None for any other."""
    import h5py

    dtype = dataset.dtype
    if h5py.check_string_dtype(dtype) is not None:
        return np.dtype("U256") if dtype.kind == "O" else np.dtype(f"U{dtype.itemsize}")
    return dtype if dtype.kind in "biuf" and dtype.subdtype is None else None
