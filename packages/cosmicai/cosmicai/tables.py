"""A catalogue's columns as the tables of astropy, pandas and Arrow, described as declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cosmicai.columns import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import pyarrow as pa
    from astropy.table import QTable
    from numpy.typing import NDArray

    Values = Mapping[str, NDArray[Any]]
    """Name of a column → its values, one per galaxy."""


def to_table(values: Values, meta: Mapping[str, str]) -> QTable:
    """Return an astropy table with units, descriptions and UCDs (``info.meta["ucd"]``)."""
    from astropy import units
    from astropy.table import QTable

    table = QTable(meta=dict(meta))
    for name, found in values.items():
        column = COLUMNS[name]
        array = found.astype(str) if column.dtype == "str" else found
        # Without a unit an array stays a plain column, not a dimensionless quantity.
        table[name] = units.Quantity(array, column.unit, dtype=None) if column.unit else array
        table[name].info.description = column.description
        table[name].info.meta = {"ucd": column.ucd}
    return table


def to_arrow(values: Values, meta: Mapping[str, str]) -> pa.Table:
    """Return an Arrow table; fields say unit, description and UCD, the schema where it is from."""
    import pyarrow as pa

    fields = [
        pa.field(
            name,
            pa.string() if COLUMNS[name].dtype == "str" else pa.from_numpy_dtype(found.dtype),
            metadata={
                "description": COLUMNS[name].description,
                "unit": COLUMNS[name].unit,
                "ucd": COLUMNS[name].ucd,
            },
        )
        for name, found in values.items()
    ]
    schema = pa.schema(fields, metadata={f"cosmicai.{k.lower()}": v for k, v in meta.items()})
    arrays = [
        pa.array(found, type=field.type)
        for found, field in zip(values.values(), fields, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def to_pandas(values: Values) -> pd.DataFrame:
    """Return a data frame."""
    import pandas as pd

    return pd.DataFrame(dict(values))
