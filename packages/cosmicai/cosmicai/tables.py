"""A catalogue's columns as the tables of astropy, pandas and Arrow, described as declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cosmicai.columns import columns_with

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import pyarrow as pa
    from astropy.table import QTable
    from numpy.typing import NDArray

    from cosmicai.columns import Column

    Values = Mapping[str, NDArray[Any]]
    """Name of a column → its values, one per galaxy; masked where they may be missing."""


def to_table(
    values: Values, meta: Mapping[str, str], columns: Mapping[str, Column] | None = None
) -> QTable:
    """Return an astropy table with units, descriptions and UCDs (``info.meta["ucd"]``).

    Parameters
    ----------
    values
        Name → values.
    meta
        Where the table comes from.
    columns
        Name → declaration of each column; by default as ``cosmicai.columns`` declares them.
    """
    from astropy import units
    from astropy.table import QTable

    columns = columns_with(values) if columns is None else columns
    table = QTable(meta=dict(meta))
    for name, found in values.items():
        column = columns[name]
        array = found.astype(str) if column.dtype == "str" else found
        if array.dtype.kind == "f":
            array = np.ma.filled(array, np.nan)
        # Without a unit an array stays a plain column, not a dimensionless quantity.
        table[name] = units.Quantity(array, column.unit, dtype=None) if column.unit else array
        table[name].info.description = column.description
        table[name].info.meta = {"ucd": column.ucd}
    return table


def to_arrow(
    values: Values, meta: Mapping[str, str], columns: Mapping[str, Column] | None = None
) -> pa.Table:
    """Return an Arrow table; fields say unit, description and UCD, the schema where it is from."""
    import pyarrow as pa

    columns = columns_with(values) if columns is None else columns
    fields = [
        pa.field(
            name,
            _arrow_type(found, columns[name]),
            metadata={
                "description": columns[name].description,
                "unit": columns[name].unit,
                "ucd": columns[name].ucd,
            },
        )
        for name, found in values.items()
    ]
    schema = pa.schema(fields, metadata={f"cosmicai.{k.lower()}": v for k, v in meta.items()})
    arrays = [
        pa.array(np.ma.getdata(found), type=field.type, mask=_missing(found))
        if found.ndim == 1
        else pa.FixedSizeListArray.from_arrays(np.ma.getdata(found).ravel(), found.shape[1])
        for found, field in zip(values.values(), fields, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _arrow_type(values: NDArray[Any], column: Column) -> pa.DataType:
    import pyarrow as pa

    if column.dtype == "str":
        return pa.string()
    scalar = pa.from_numpy_dtype(values.dtype)
    return scalar if values.ndim == 1 else pa.list_(scalar, values.shape[1])


def to_pandas(values: Values) -> pd.DataFrame:
    """Return a data frame; whole numbers and text keep their type where some are missing."""
    import pandas as pd

    return pd.DataFrame({name: _pandas_column(found) for name, found in values.items()})


def _pandas_column(found: NDArray[Any]) -> Any:
    import pandas as pd

    values, missing = np.ma.getdata(found), _missing(found)
    if missing is None or not missing.any():
        return values
    if values.dtype.kind == "f":
        return np.where(missing, np.nan, values)
    if values.dtype.kind in "iu":
        return pd.arrays.IntegerArray(values, missing)
    if values.dtype.kind == "b":
        return pd.arrays.BooleanArray(values, missing)
    objects = values.astype(object)
    objects[missing] = None
    return objects


def _missing(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    return np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
