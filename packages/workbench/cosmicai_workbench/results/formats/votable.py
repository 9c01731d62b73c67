"""VOTable: what TOPCAT, Aladin and the Virtual Observatory's services exchange."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from cosmicai.tables import to_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cosmicai_workbench.results.catalogue import CatalogueTable, Source
    from cosmicai_workbench.results.provenance import Provenance

    Masked = np.ma.MaskedArray[Any, Any]

_STORED: Final = {
    "boolean": "S1",
    "unsignedByte": "u1",
    "short": ">i2",
    "int": ">i4",
    "long": ">i8",
    "float": ">f4",
    "double": ">f8",
}
"""VOTable's name of a type → how its values are stored."""
_END: Final = "</TABLE>"
_UINT64_DIGITS: Final = 20


def write(path: Path, catalogue: Source, provenance: Provenance) -> int:
    """Write a catalogue block by block; provenance is stored as INFO elements.

    astropy writes the description of the columns. It would want all rows in memory and writes them
    one by one, so that they are encoded here: BINARY2, rows of one length in base64.
    """
    widths = {name: max(width, 2) for name, width in catalogue.widths.items()}
    text, dtype = _described(catalogue, provenance, widths)
    start, _, end = text.rpartition(_END)
    with path.open("wb") as file:
        file.write(start.encode())
        if catalogue.num_rows:
            file.write(b'<DATA>\n<BINARY2>\n<STREAM encoding="base64">\n')
            left = b""
            for block in catalogue.blocks():
                left += _rows(block, dtype).tobytes()
                whole = len(left) // 3 * 3  # which base64 ends without padding
                file.write(base64.b64encode(left[:whole]) + b"\n")
                left = left[whole:]
            file.write(base64.b64encode(left) + b"\n</STREAM>\n</BINARY2>\n</DATA>\n")
        file.write((_END + end).encode())
    return catalogue.num_rows


def _described(
    catalogue: Source, provenance: Provenance, widths: Mapping[str, int]
) -> tuple[str, np.dtype[Any]]:
    """Return the document without rows, and how a row is stored."""
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import Info

    empty = catalogue.empty()
    values, columns = _representable(empty.values), dict(catalogue.columns)
    for name, found in values.items():
        if found.dtype.kind == "U":
            columns[name] = replace(columns[name], dtype="str", unit="")
    document = from_table(to_table(values, {}, columns), "catalogue")
    facts = provenance.facts | {"PARTITIONS": provenance.partitions_json}
    for name, value in facts.items():
        document.resources[0].infos.append(Info(name=name, value=value))
    stored: list[tuple[Any, ...]] = [("missing", "u1", (-(-len(values) // 8),))]
    for field in document.get_first_table().fields:
        column, found = columns[field.name], values[field.name]
        field.ucd = column.ucd or None
        if found.dtype.kind == "b":  # astropy would say bits, whose order in a byte readers dispute
            field.datatype = "boolean"
        if column.dtype == "str":
            width = widths.get(field.name, _UINT64_DIGITS)
            field.arraysize = str(width)
            stored.append((field.name, f"S{2 * width}"))  # UTF-16
        else:
            stored.append((field.name, _STORED[field.datatype], found.shape[1:]))
    file = io.BytesIO()
    document.to_xml(file)
    return file.getvalue().decode(), np.dtype(stored)


def _representable(values: Mapping[str, Any]) -> dict[str, Masked]:
    """Return columns, unsigned numbers of 64 bits as text: VOTable has none."""
    return {
        name: found.astype(str) if found.dtype == np.uint64 else found
        for name, found in values.items()
    }


def _rows(block: CatalogueTable, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return a block's rows as stored: in front of each, a mask of its missing values."""
    rows = np.zeros(len(block), dtype)
    missing = np.zeros((len(block), len(block.values)), np.bool_)
    for number, (name, found) in enumerate(_representable(block.values).items()):
        data, mask = np.ma.getdata(found), np.ma.getmaskarray(found)
        missing[:, number] = mask.reshape(len(block), -1).all(axis=1)
        if data.dtype.kind in "OUST":
            texts = np.where(mask, "", data).astype(np.str_)
            rows[name] = np.char.encode(texts, "utf-16-be")
        elif data.dtype.kind == "b":
            rows[name] = np.where(data, b"T", b"F")
        elif data.dtype.kind == "f":
            rows[name] = np.where(mask, np.nan, data)
        else:
            rows[name] = data
    rows["missing"] = np.packbits(missing, axis=1)
    return rows
