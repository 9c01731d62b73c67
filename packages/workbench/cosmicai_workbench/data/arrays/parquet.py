"""Parquet: images as lists of numbers, nested or flat, also inside structs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import MB

from cosmicai_workbench.data.arrays.files import ArrayColumn, named_errors, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from cosmicai_workbench.data.arrays.files import Block, Values


class ParquetArrays:
    """An opened file; a struct's fields are columns called ``struct.field``."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        with named_errors(path):
            self._file = pq.ParquetFile(
                path, buffer_size=MB, pre_buffer=False, page_checksum_verification=True
            )
        self._rows = self._file.metadata.num_rows
        self.columns: dict[str, ArrayColumn] = {}
        with named_errors(path):
            first = next(self._file.iter_batches(batch_size=1, use_threads=False), None)
        if first is None:
            raise InvalidInput(f"{path} holds no galaxies")
        for root in self._file.schema_arrow.names:
            with named_errors(path, f"column {root}"):
                self._add_columns(root, first.column(root))

    def read(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        """Yield all galaxies in order, about ``rows`` at once."""
        roots = list(dict.fromkeys(self._root(name) for name in names))
        with named_errors(self.path):
            batches = self._file.iter_batches(batch_size=rows, columns=roots, use_threads=False)
        start = 0
        while True:
            with named_errors(self.path):
                batch = next(batches, None)
            if batch is None:
                break
            leaves: dict[str, pa.Array] = {}
            for root in roots:
                leaves |= _leaves(root, batch.column(root))
            block: Block = {}
            for name in names:
                with named_errors(self.path, f"column {name}, rows from {start}"):
                    block[name] = _array(leaves[name])
                expected = self.columns[name].shape[1:]
                if block[name].shape[1:] != expected:
                    raise InvalidInput(
                        f"{self.path}: column {name}: lists of shape {expected} expected, as in "
                        f"row 0, found {block[name].shape[1:]} from row {start} on"
                    )
            start += batch.num_rows
            yield block

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add_columns(self, root: str, first: pa.Array) -> None:
        for name, values in _leaves(root, first).items():
            try:
                array = _array(values)
            except ValueError:
                continue  # neither numbers nor text: of no use here
            dtype = np.dtype("U256") if array.dtype.kind == "U" else array.dtype
            self.columns[name] = ArrayColumn((self._rows, *array.shape[1:]), dtype)

    def _root(self, name: str) -> str:
        """Return the column of the file that holds a column of ours."""
        roots = set(self._file.schema_arrow.names)
        return name if name in roots else name.rpartition(".")[0]


def _leaves(name: str, values: pa.Array) -> dict[str, pa.Array]:
    """Return a column by its name, or the fields of its structs, lists of structs turned round."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = getattr(values, "storage", values)  # of an extension type
    inner = values.type
    if _is_list(inner) and pa.types.is_struct(inner.value_type):
        fields = values.flatten()
        lengths = pc.list_value_length(values)
        return {
            f"{name}.{field.name}": _listed(fields.field(index), lengths)
            for index, field in enumerate(inner.value_type)
        }
    if pa.types.is_struct(inner):
        return {f"{name}.{field.name}": values.field(index) for index, field in enumerate(inner)}
    return {name: values}


def _listed(values: pa.Array, lengths: pa.Array) -> pa.Array:
    """Return values as lists of the given lengths, one after the other."""
    import pyarrow as pa

    ends = np.cumsum(np.nan_to_num(lengths.to_numpy(zero_copy_only=False)), dtype=np.int64)
    return pa.LargeListArray.from_arrays(np.concatenate(([0], ends)), values)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _array(values: pa.Array) -> Values:
    """Return a column as an array (N, …), missing values masked.

    Raises
    ------
    ValueError
        Lists differ in length, one is missing, or they hold neither numbers nor text.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    shape = [len(values)]
    values = getattr(values, "storage", values)
    while _is_list(values.type):
        if values.null_count:
            raise ValueError("a list for every galaxy expected, found none for some")
        lengths = pc.list_value_length(values)
        sizes = {int(each) for each in pc.unique(lengths).to_pylist()}
        if len(sizes) != 1:
            raise ValueError(f"lists of one length expected, found lengths {sorted(sizes)[:10]}")
        shape.append(sizes.pop())
        values = getattr(values.flatten(), "storage", values.flatten())
    kind = values.type
    if not (
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    ):
        raise ValueError(f"numbers or text expected, found {kind}")
    missing = values.is_null().to_numpy(zero_copy_only=False)
    if missing.any():
        values = values.fill_null(_zero(kind))
    array: Any = plain(values.to_numpy(zero_copy_only=False)).reshape(shape)
    return np.ma.MaskedArray(array, missing.reshape(shape)) if missing.any() else array


def _zero(kind: pa.DataType) -> Any:
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return ""
    return False if pa.types.is_boolean(kind) else 0
