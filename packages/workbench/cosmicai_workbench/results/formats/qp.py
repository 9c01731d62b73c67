"""qp: the probability distributions as an ensemble in HDF5, which RAIL and qp read.

The file is written with h5py only: qp itself, which the tests read it with, brings PyTables and a
client for HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from cosmicai import outputs
from cosmicai.errors import InvalidInput
from cosmicai.model.interface import MixtureOutput, NormalOutput, PdfOutput, QuantilesOutput

from cosmicai_workbench.results.catalogue import ascii_text

if TYPE_CHECKING:
    from pathlib import Path

    from cosmicai.model.interface import Distribution
    from numpy.typing import NDArray

    from cosmicai_workbench.results.catalogue import CatalogueTable, Source
    from cosmicai_workbench.results.provenance import Provenance

_ANCILLARY: Final = {
    "ra": "ra",
    "dec": "dec",
    "redshift": "redshift",
    "zmode": "z_mode",
    "zmedian": "z_median",
    "zmean": "z_mean",
    "odds": "odds",
    "true_redshift": "true_redshift",
    "flags": "flags",
}
"""Name in the ensemble, as RAIL's evaluators look for them → the catalogue's column."""
_STEPS_IN_SIGMA: Final = 10
"""Of the grid, in the standard deviation of all but the narrowest hundredth of distributions."""
_TAIL: Final = 1e-6
"""Probability beyond the outer quantiles, where our densities end."""
_LEAST_STEP: Final = 1e-9
"""In redshift, between the two points of an edge."""
_MIN_POINTS, _MAX_POINTS = 301, 3001


def write(path: Path, catalogue: Source, provenance: Provenance) -> int:
    """Write the distributions block by block; objects without a prediction have none.

    Returns
    -------
    int
        Distributions written.

    Raises
    ------
    InvalidInput
        The run's model gives no distribution.
    """
    import h5py

    output = catalogue.output
    if output is None:
        raise InvalidInput(
            "--to qp: p(z) of each galaxy expected, but the model of this run gives a redshift "
            "alone; run a model with a distribution"
        )
    count, grid = _survey(catalogue, output)
    if not count:
        raise InvalidInput("--to qp: no galaxy has a prediction")
    with h5py.File(path, "w") as file:
        file.attrs.update(provenance.facts | {"PARTITIONS": provenance.partitions_json})
        for name, value in _parametrisation(output, grid).items():
            file[f"meta/{name}"] = np.array(value)[None]
        done = 0
        for block in catalogue.blocks():
            rows = _predicted(block)
            end = done + int(rows.sum())
            tables = {
                "data": _values(output, block.distributions[rows], grid),
                "ancil": _ancillary(block, rows, catalogue),
            }
            for group, columns in tables.items():
                for name, values in columns.items():
                    key = f"{group}/{name}"
                    if key not in file:
                        file.create_dataset(key, (count, *values.shape[1:]), values.dtype)
                    file[key][done:end] = values
            done = end
    return count


def _predicted(block: CatalogueTable) -> NDArray[np.bool_]:
    predicted: NDArray[np.bool_] = np.isfinite(np.ma.filled(block.values["redshift"], np.nan))
    return predicted


def _survey(catalogue: Source, output: Distribution) -> tuple[int, NDArray[np.float64]]:
    """Return how many distributions there are, and a grid that resolves nearly all of them."""
    count, low, high, widths = 0, np.inf, -np.inf, [np.empty(0)]
    for block in catalogue.blocks():
        rows = _predicted(block)
        count += int(rows.sum())
        if not isinstance(output, MixtureOutput) or not rows.any():
            continue
        at = outputs.quantiles(output, block.distributions[rows], (1e-4, 0.16, 0.84, 1 - 1e-4))
        low, high = min(low, at[:, 0].min()), max(high, at[:, 3].max())
        widths.append(np.percentile((at[:, 2] - at[:, 1]) / 2, [1]))
    if not np.isfinite(low):
        return count, np.empty(0)
    points = (high - low) / max(np.concatenate(widths).min(), 1e-6) * _STEPS_IN_SIGMA
    return count, np.linspace(low, high, int(np.clip(points, _MIN_POINTS, _MAX_POINTS)))


def _parametrisation(output: Distribution, grid: NDArray[np.float64]) -> dict[str, Any]:
    """Return qp's name of the distributions, and what they have in common."""
    if isinstance(output, PdfOutput):
        edges = output.start + output.width * (np.arange(output.bins + 1) - 0.5)
        return {"pdf_name": b"hist", "pdf_version": 0, "bins": edges}
    if isinstance(output, NormalOutput):
        return {"pdf_name": b"norm", "pdf_version": 0}
    if isinstance(output, QuantilesOutput):
        return {"pdf_name": b"interp_irregular", "pdf_version": 0}
    return {"pdf_name": b"interp", "pdf_version": 0, "xvals": grid}


def _values(
    output: Distribution, raw: NDArray[Any], grid: NDArray[np.float64]
) -> dict[str, NDArray[np.floating[Any]]]:
    """Return the values of each distribution in qp's parametrisation."""
    if isinstance(output, PdfOutput):  # a histogram in qp, too
        found = {"pdfs": outputs.pdf(output, raw, outputs.default_grid(output, raw))}
    elif isinstance(output, NormalOutput):
        found = {"loc": raw[:, :1], "scale": raw[:, 1:]}
    elif isinstance(output, QuantilesOutput):
        # qp's own quantiles interpolate by parabolas; ours are steps, with two points at each edge.
        levels = np.array((_TAIL, *output.levels, 1 - _TAIL))
        edges = outputs.quantiles(output, raw, levels)
        heights = np.diff(levels) / np.maximum(np.diff(edges, axis=1), _LEAST_STEP)
        low, high = edges[:, :-1], edges[:, 1:] - _LEAST_STEP
        x = np.maximum.accumulate(np.stack((low, high), axis=2).reshape(len(raw), -1), axis=1)
        return {"xvals": x, "yvals": np.repeat(heights, 2, axis=1)}
    else:
        found = {"yvals": outputs.pdf(output, raw, grid)}
    return {name: values.astype(np.float32) for name, values in found.items()}


def _ancillary(
    block: CatalogueTable, rows: NDArray[np.bool_], catalogue: Source
) -> dict[str, NDArray[Any]]:
    found = {
        name: np.ma.filled(block.values[column][rows], np.nan if column != "flags" else 0)
        for name, column in _ANCILLARY.items()
        if column in block.values
    }
    ids = block.values["object_id"][rows]
    if block.columns["object_id"].dtype == "str":
        width = max(catalogue.widths["object_id"], 1)
        texts = [ascii_text(str(text)) for text in np.ma.filled(ids, "")]
        return {"object_id": np.array(texts, f"S{width}"), **found}
    return {"object_id": np.ma.filled(ids, 0), **found}
