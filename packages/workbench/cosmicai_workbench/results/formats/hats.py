"""HATS: a folder of Parquet files by place on the sky, which LSDB opens and cross-matches.

The layout is that of HATS, written with pyarrow only: every file holds the objects of one HEALPix
pixel, sorted by their index at order 29, and pixels are as small as it takes to keep files short.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import cosmicai
import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.tables import to_arrow

from cosmicai_workbench.results.catalogue import HEALPIX_ORDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from cosmicai_workbench.results.catalogue import CatalogueTable, Source
    from cosmicai_workbench.results.provenance import Provenance

INDEX: Final = f"_healpix_{HEALPIX_ORDER}"
MAX_ROWS: Final = 500_000
"""Of a file."""
_PROPERTIES: Final = ("hats.properties", "properties")
_PIXELS: Final = "partition_info.csv"
_DATA: Final = "dataset"
_HIGHEST_ORDER: Final = 12
_PIXELS_A_FOLDER: Final = 10_000

Pixel = tuple[int, int]
"""Order and number in the nested scheme."""


def write(path: Path, catalogue: Source, provenance: Provenance) -> int:
    """Write a catalogue into a folder; objects without a position have no place in it.

    Returns
    -------
    int
        Objects written.

    Raises
    ------
    InvalidInput
        No object has a position, or a column has a name that HATS needs.
    """
    import pyarrow.parquet as pq

    if INDEX in catalogue.columns:
        raise InvalidInput(f"column {INDEX}: HATS needs the name for an index of its own")
    of_blocks = [_indices(block, catalogue) for block in _placed(catalogue)]
    pixels = partition_sky(np.concatenate([np.empty(0, np.int64), *of_blocks]), MAX_ROWS)
    if not pixels:
        raise InvalidInput(
            "no object has a position (columns ra and dec), which HATS sorts them by; choose "
            "another format, or make the partitions from a catalogue with positions"
        )
    facts = provenance.facts | {"PARTITIONS": provenance.partitions_json}
    schema = _arrow(catalogue.empty(), catalogue, facts).schema
    files = {pixel: path / _file(pixel) for pixel in pixels}
    writers: dict[Pixel, pq.ParquetWriter] = {}
    try:
        for block in _placed(catalogue):
            table, indices = _arrow(block, catalogue, facts), _indices(block, catalogue)
            for pixel in pixels:
                rows = np.flatnonzero(_within(indices, pixel))
                if not len(rows):
                    continue
                if pixel not in writers:
                    files[pixel].parent.mkdir(parents=True, exist_ok=True)
                    writers[pixel] = pq.ParquetWriter(files[pixel], schema)
                writers[pixel].write_table(table.take(rows))
    finally:
        for writer in writers.values():
            writer.close()
    for file in files.values():
        pq.write_table(pq.read_table(file, partitioning=None).sort_by(INDEX), file)
    _describe(path, pixels, files, catalogue)
    return sum(pixels.values())


def is_catalogue(path: Path) -> bool:
    """Say whether a folder is a catalogue in this format, and holds nothing else."""
    names = {inside.name for inside in path.iterdir()}
    return _PROPERTIES[0] in names and names <= {*_PROPERTIES, _PIXELS, _DATA}


def partition_sky(indices: NDArray[Any], max_rows: int) -> dict[Pixel, int]:
    """Return the pixels that hold objects, each as large as ``max_rows`` allows, and how many.

    Parameters
    ----------
    indices
        (N,) nested HEALPix indices at order 29.
    """
    found: dict[Pixel, int] = {}
    pending = [(0, np.sort(np.asarray(indices, np.int64)))]
    while pending:
        order, ordered = pending.pop()
        numbers = ordered >> 2 * (HEALPIX_ORDER - order)
        for number, start, count in zip(
            *np.unique(numbers, return_index=True, return_counts=True), strict=True
        ):
            if count <= max_rows or order == _HIGHEST_ORDER:
                found[order, int(number)] = int(count)
            else:
                pending.append((order + 1, ordered[start : start + count]))
    return dict(sorted(found.items()))


def _placed(catalogue: Source) -> Iterator[CatalogueTable]:
    """Yield the rows that have a position."""
    for block in catalogue.blocks():
        there = ~np.ma.getmaskarray(block.values[catalogue.positions[2]])
        yield block[there]


def _indices(block: CatalogueTable, catalogue: Source) -> NDArray[np.int64]:
    return np.ma.getdata(block.values[catalogue.positions[2]]).astype(np.int64)


def _within(indices: NDArray[np.int64], pixel: Pixel) -> NDArray[np.bool_]:
    order, number = pixel
    inside: NDArray[np.bool_] = indices >> 2 * (HEALPIX_ORDER - order) == number
    return inside


def _arrow(block: CatalogueTable, catalogue: Source, facts: dict[str, str]) -> pa.Table:
    import pyarrow as pa

    table = to_arrow(block.values, facts, catalogue.columns)
    return table.add_column(0, pa.field(INDEX, pa.int64()), pa.array(_indices(block, catalogue)))


def _file(pixel: Pixel) -> str:
    order, number = pixel
    folder = number // _PIXELS_A_FOLDER * _PIXELS_A_FOLDER
    return f"{_DATA}/Norder={order}/Dir={folder}/Npix={number}.parquet"


def _describe(
    path: Path, pixels: dict[Pixel, int], files: dict[Pixel, Path], catalogue: Source
) -> None:
    """Write what a reader looks at first: properties, pixels, and the files' common metadata."""
    import pyarrow.parquet as pq

    metadata = []
    for file in files.values():
        found = pq.read_metadata(file)
        found.set_file_path(str(file.relative_to(path / _DATA)))
        metadata.append(found)
    written = pq.read_schema(next(iter(files.values())))
    pq.write_metadata(written, path / _DATA / "_metadata", metadata_collector=metadata)
    pq.write_metadata(written, path / _DATA / "_common_metadata")
    lines = [f"{order},{number}" for order, number in pixels]
    (path / _PIXELS).write_text("\n".join(["Norder,Npix", *lines]) + "\n")
    sky = sum(1 / (12 * 4**order) for order, _ in pixels)
    ra, dec, _ = catalogue.positions
    properties = {
        "obs_collection": "cosmicai",
        "dataproduct_type": "object",
        "hats_nrows": sum(pixels.values()),
        "hats_col_ra": ra,
        "hats_col_dec": dec,
        "hats_col_healpix": INDEX,
        "hats_col_healpix_order": HEALPIX_ORDER,
        "hats_npix_suffix": ".parquet",
        "hats_max_rows": max(pixels.values()),
        "hats_order": max(order for order, _ in pixels),
        "hats_builder": f"cosmicai {cosmicai.__version__}",
        "hats_creation_date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MUTC"),
        "hats_frame": "ICRS",
        "moc_sky_fraction": f"{sky:.6f}",
    }
    text = "".join(f"{key}={value}\n" for key, value in properties.items())
    for name in _PROPERTIES:
        (path / name).write_text(text)
