"""VOTable: what TOPCAT, Aladin and the Virtual Observatory's services exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmicai.tables import to_table

from cosmicai_workbench.results.catalogue import joined

if TYPE_CHECKING:
    from pathlib import Path

    from cosmicai_workbench.results.catalogue import Source
    from cosmicai_workbench.results.provenance import Provenance


def write(path: Path, catalogue: Source, provenance: Provenance) -> int:
    """Write a catalogue, which has to fit memory; provenance is stored as INFO elements."""
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import Info, TableElement

    file = from_table(to_table(joined(catalogue).values, {}, catalogue.columns), "catalogue")
    facts = provenance.facts | {"PARTITIONS": provenance.partitions_json}
    for name, value in facts.items():
        file.resources[0].infos.append(Info(name=name, value=value))
    table: TableElement = file.get_first_table()
    table.format = "binary2"
    for field in table.fields:
        field.ucd = catalogue.columns[field.name].ucd or None
    file.to_xml(str(path))
    return catalogue.num_rows
