"""CSV: for spreadsheets, and wherever nothing else is read."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.tables import to_pandas

from cosmicai_workbench.data.catalogue import spreadsheet_safe

if TYPE_CHECKING:
    from pathlib import Path

    from cosmicai_workbench.results.catalogue import CatalogueTable, Source
    from cosmicai_workbench.results.provenance import Provenance

    Masked = np.ma.MaskedArray[Any, Any]

_WIDEST = 2
"""Values of a row that become columns of their own; longer vectors are left out."""


def write(path: Path, catalogue: Source, _: Provenance) -> int:
    """Write a catalogue; its provenance has no place in the file (:func:`write_beside`)."""
    with path.open("w", encoding="utf-8", newline="") as file:
        names = [spreadsheet_safe(name) for name in _cells(catalogue.empty())]
        csv.writer(file, lineterminator="\n").writerow(names)
        for block in catalogue.blocks():
            to_pandas(_cells(block)).to_csv(file, index=False, header=False)
    return catalogue.num_rows


def write_beside(path: Path, provenance: Provenance) -> None:
    """Write the provenance as JSON."""
    document = provenance.facts | {"partitions": provenance.partitions}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _cells(block: CatalogueTable) -> dict[str, Masked]:
    cells: dict[str, Masked] = {}
    for name, values in block.values.items():
        if values.ndim > 1:
            if values.shape[1] <= _WIDEST:
                cells |= {f"{name}_{i + 1}": values[:, i] for i in range(values.shape[1])}
        elif block.columns[name].dtype == "str":
            safe = [spreadsheet_safe(str(text)) for text in values.data]
            cells[name] = np.ma.MaskedArray(np.array(safe, object), np.ma.getmaskarray(values))
        else:
            cells[name] = values
    return cells
