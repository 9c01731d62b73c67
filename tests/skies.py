"""Runs of galaxies all over the sky, with distributions of any kind."""

from pathlib import Path
from typing import Any

import numpy as np
from cosmicai import outputs
from cosmicai.model.interface import MixtureOutput, NormalOutput, PdfOutput, QuantilesOutput
from cosmicai.partition.catalogue import DEC, RA, Catalogue, ColumnInfo, column_of
from cosmicai_workbench.results.run_folder import Run, load_run
from numpy.typing import NDArray
from run_folders import make_run

RANKS, SAMPLES = 3, 40


def sky(ids: Any, seed: int = 0, dtype: str = "int64") -> Catalogue:
    """Objects all over the sky."""
    rng = np.random.default_rng(seed)
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, len(ids))))
    return Catalogue(
        [
            column_of(ColumnInfo("object_id", dtype), ids),
            column_of(RA, rng.uniform(0, 360, len(ids)).tolist()),
            column_of(DEC, latitude.tolist()),
        ]
    )


def distributions(
    kind: str, redshift: NDArray[np.float64], point: str
) -> tuple[Any, NDArray[np.float64]]:
    """Return an output and raw values around redshifts."""
    rng = np.random.default_rng(1)
    sigma = rng.uniform(0.01, 0.03, (len(redshift), 1))
    centre = redshift[:, None] + sigma * rng.normal(size=sigma.shape)
    if kind == "normal":
        return NormalOutput(point=point), np.concatenate((centre, sigma), axis=1)
    if kind == "mixture":
        means = np.log1p(centre + np.array([[-0.01, 0.02]]))
        logits = rng.normal(size=means.shape)
        logs = np.log(np.repeat(sigma, 2, axis=1))
        return MixtureOutput(components=2, point=point), np.concatenate(
            (logits, means, logs), axis=1
        )
    if kind == "quantiles":
        levels = tuple(np.arange(1, 40) / 40)
        scores = outputs.quantiles(NormalOutput(), np.array([[0.0, 1.0]]), levels)
        return QuantilesOutput(levels=levels, point=point), centre + sigma * scores
    output = PdfOutput(start=0.0025, stop=0.8975, bins=180, point=point)
    grid = np.linspace(output.start, output.stop, output.bins)
    return output, np.exp(-0.5 * ((grid - centre) / sigma) ** 2) + 1e-9


def run_with(
    path: Path,
    kind: str | None = None,
    *,
    samples: int = SAMPLES,
    point: str = "median",
    **options: Any,
) -> Run:
    """Write a run whose galaxies have positions and, of a kind of output, distributions."""
    ids = {rank: [rank * 1000 + i for i in range(samples)] for rank in range(RANKS)}
    carried = {rank: {"catalogue": sky(ids[rank], rank)} for rank in ids}
    options = {"nan": 2, "carried": carried, "straggler": None} | options
    folder = make_run(path, ranks=RANKS, samples=samples, **options)
    if kind is None:
        return load_run(folder)
    for file in (folder / "predictions").glob("*.npz"):
        arrays = dict(np.load(file))
        output, raw = distributions(kind, arrays["true_redshift"].astype(float), point)
        raw[np.isnan(arrays["redshift"])] = np.nan
        meaning, kept = outputs.stored_form(output, raw)
        arrays |= outputs.estimate(output, raw)
        arrays |= {"pdf": kept, "output": np.array(meaning.model_dump_json())}
        np.savez(file, **arrays)
    return load_run(folder)
