"""Parquet: what pandas, polars, DuckDB and Spark read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmicai.tables import to_arrow

if TYPE_CHECKING:
    from pathlib import Path

    from cosmicai_workbench.results.catalogue import Source
    from cosmicai_workbench.results.provenance import Provenance


def write(path: Path, catalogue: Source, provenance: Provenance) -> int:
    """Write a catalogue, a row group for each block; provenance is the schema's metadata."""
    import pyarrow.parquet as pq

    facts = provenance.facts | {"PARTITIONS": provenance.partitions_json}
    empty = to_arrow(catalogue.empty().values, facts, catalogue.columns)
    with pq.ParquetWriter(path, empty.schema) as writer:
        for block in catalogue.blocks():
            writer.write_table(to_arrow(block.values, facts, catalogue.columns))
    return catalogue.num_rows
