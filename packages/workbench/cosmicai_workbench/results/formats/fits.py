"""FITS: a binary table, its columns described where TOPCAT looks for them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.tables import to_table

from cosmicai_workbench.results.catalogue import ascii_text

if TYPE_CHECKING:
    from pathlib import Path

    from astropy.io.fits import BinTableHDU, Header

    from cosmicai_workbench.results.catalogue import CatalogueTable, Source
    from cosmicai_workbench.results.provenance import Provenance

    Masked = np.ma.MaskedArray[Any, Any]

_BLOCK = 2880  # bytes, that every part of a FITS file is padded to


def write(path: Path, catalogue: Source, provenance: Provenance) -> int:
    """Write a catalogue block by block: no more than one of them is in memory."""
    from astropy.io import fits

    header, _ = _encoded(catalogue.empty(), catalogue, provenance)
    header["NAXIS2"] = catalogue.num_rows
    for row in provenance.partitions:
        header.add_history(
            ascii_text(f"partition {row['partition']} ETag {row['etag'] or 'unknown'}")
        )
    with path.open("wb") as file:
        fits.PrimaryHDU().writeto(file)
        file.write(header.tostring().encode("ascii"))
        written = 0
        for block in catalogue.blocks():
            its_header, data = _encoded(block, catalogue, provenance)
            if its_header["NAXIS1"] != header["NAXIS1"]:
                raise RuntimeError("a block of the catalogue has another layout than the first")
            written += file.write(data)
        file.write(bytes(-written % _BLOCK))
    return catalogue.num_rows


def _encoded(
    block: CatalogueTable, catalogue: Source, provenance: Provenance
) -> tuple[Header, bytes]:
    """Return a block's header, as that of the whole table but for its length, and its data."""
    hdu, file = _hdu(block, catalogue, provenance), io.BytesIO()
    hdu.writeto(file)
    size: int = hdu.header["NAXIS1"] * hdu.header["NAXIS2"]
    start = file.tell() - size - -size % _BLOCK
    return hdu.header, file.getvalue()[start : start + size]


def _hdu(block: CatalogueTable, catalogue: Source, provenance: Provenance) -> BinTableHDU:
    from astropy.io import fits

    comments = {name: column.description for name, column in block.columns.items()}
    values = dict(block.values)
    for name, column in block.columns.items():
        if column.dtype == "str":
            values[name] = _ascii(values[name], max(catalogue.widths[name], 1))
            if name in catalogue.escaped:
                comments[name] += " (characters outside ASCII as \\x, \\u)"
        elif column.dtype == "bool" and name in catalogue.incomplete:
            # astropy writes no missing logical values.
            values[name] = np.ma.MaskedArray(values[name], dtype=np.int16)
        if values[name].dtype.kind in "iu":
            # What marks a missing number: no identifier is that low, or that high.
            limits = np.iinfo(values[name].dtype)
            unsigned = values[name].dtype.kind == "u"
            values[name].fill_value = limits.max if unsigned else limits.min
    hdu = fits.table_to_hdu(to_table(values, provenance.facts, block.columns))
    # Where TOPCAT looks for them; astropy would write a block of YAML that only astropy reads.
    for number, (name, column) in enumerate(block.columns.items(), start=1):
        hdu.header[f"TCOMM{number}"] = ascii_text(comments[name])
        if column.ucd:
            hdu.header[f"TUCD{number}"] = column.ucd
        if values[name].dtype == np.uint64:  # stored less 2^63, which astropy forgets here
            hdu.header[f"TNULL{number}"] = np.iinfo(np.int64).max
    return hdu


def _ascii(values: Masked, width: int) -> Masked:
    """Return text as FITS tables may hold it."""
    texts = [ascii_text(str(text)) for text in np.ma.filled(values.astype(object), "")]
    return np.ma.MaskedArray(np.array(texts, dtype=f"U{width}"))
