"""Copies of bundles whose redshifts have intervals, calibrated on galaxies with known ones."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.calibration import Calibration, LabelledSet
from cosmicai.errors import InvalidInput
from cosmicai.model.bundle import Bundle
from cosmicai.model.layout import CALIBRATION_NAME
from cosmicai.models import open_model

from cosmicai_workbench.modeling.bundle_copies import copied, require_place
from cosmicai_workbench.modeling.conformal import MINIMUM, fit
from cosmicai_workbench.modeling.ranges import folders_of, training_of

if TYPE_CHECKING:
    from cosmicai.model.interface import Training
    from numpy.typing import NDArray

    from cosmicai_workbench.results.run_folder import Run

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """Predicted galaxies, of which some have known redshifts.

    Attributes
    ----------
    name
        Where they are from.
    redshift, true, magnitude_r
        (N,), NaN where unknown.
    training
        Ranges of their inputs, where the galaxies themselves were at hand.
    """

    name: str
    redshift: "Floats"
    true: "Floats"
    magnitude_r: "Floats"
    training: "Training | None" = None


def predicted(
    bundle: Bundle,
    partitions: Sequence[str],
    *,
    engine: str | None = None,
    threads: int | None = None,
    on_partition: Callable[[str], None] | None = None,
) -> Labelled:
    """Predict labelled partitions; where the bundle has no training ranges, take theirs.

    Raises
    ------
    CosmicAIError
        A partition cannot be read, or is not one for this model.
    """
    predictor = open_model(bundle.path, engine=engine, threads=threads)
    found = predictor.predict_partitions(partitions, on_partition=on_partition)
    name = folders_of(partitions)
    training = None
    if bundle.config.training is None:
        training = training_of(bundle, partitions, name=name)
    return Labelled(name, found["redshift"], found["true_redshift"], found["magnitude_r"], training)


def recorded(bundle: Bundle, runs: "Sequence[Run]") -> Labelled:
    """Return the galaxies of executions of the same model: the ranks have predicted them.

    Raises
    ------
    InvalidInput
        A run is of another model, or its predictions cannot be read.
    """
    for run in runs:
        if run.summary.model_digest != bundle.digest:
            raise InvalidInput(
                f"{run.path}: the predictions are of another model: {bundle.path} has the digest "
                f"{bundle.digest}, the run says {run.summary.model_digest}"
            )
    parts = [run.predictions for run in runs]
    return Labelled(
        ", ".join(run.name for run in runs),
        np.concatenate([part.redshift for part in parts]),
        np.concatenate([part.true_redshift for part in parts]),
        np.concatenate([part.magnitude_r for part in parts]),
    )


def write_calibrated(
    bundle: Bundle,
    out: Path,
    labelled: Labelled,
    *,
    name: str | None = None,
    minimum: int = MINIMUM,
    overwrite: bool = False,
) -> Calibration:
    """Calibrate a model and write a copy of its bundle with ``calibration.json``.

    Galaxies without a known or a predicted redshift are left out; those without an r magnitude as
    well, unless none has one.

    Parameters
    ----------
    name
        What the calibration calls the labelled set.
    minimum
        Galaxies of a cell.

    Raises
    ------
    InvalidInput
        ``out`` exists, or there are too few galaxies; nothing is written.
    """
    require_place(bundle, out, overwrite=overwrite)
    known = np.isfinite(labelled.redshift) & np.isfinite(labelled.true)
    known &= (labelled.redshift > -1) & (labelled.true > -1)
    bright = known & np.isfinite(labelled.magnitude_r)
    magnitude = labelled.magnitude_r[bright] if bright.any() else None
    used = known if magnitude is None else bright
    redshift, true = labelled.redshift[used], labelled.true[used]
    digest = hashlib.sha256(true.astype("<f4").tobytes())
    digest.update((redshift[:0] if magnitude is None else magnitude).astype("<f4").tobytes())
    calibration = fit(
        redshift,
        true,
        magnitude,
        LabelledSet(
            name=name or labelled.name,
            galaxies=max(1, len(true)),
            digest=digest.hexdigest(),
            date=datetime.now(UTC).replace(microsecond=0),
            model_digest=bundle.digest,
        ),
        minimum=minimum,
    )
    with copied(bundle, out, training=labelled.training, overwrite=overwrite) as folder:
        text = calibration.model_dump_json(indent=2, exclude_none=True)
        (folder / CALIBRATION_NAME).write_text(text + "\n")
    return calibration


def document(calibration: Calibration) -> dict[str, Any]:
    """Return the cells with the ranges of redshift and magnitude they are for, as JSON has it."""
    rows = []
    for number, cell in enumerate(calibration.cells):
        places = [
            (i, j)
            for i, row in enumerate(calibration.cell_of)
            for j, found in enumerate(row)
            if found == number
        ]
        redshift = _span(calibration.redshift_edges, [i for i, _ in places])
        magnitude = _span(calibration.magnitude_edges, [j for _, j in places])
        row = json.loads(cell.model_dump_json())
        rows.append({"redshift": redshift, "magnitude_r": magnitude, **row})
    return {"labelled": json.loads(calibration.labelled.model_dump_json()), "cells": rows}


def _span(edges: Sequence[float], bins: Sequence[int]) -> list[float | None]:
    """Return the outer edges of neighbouring bins; None where a bin is open."""
    limits = (None, *edges, None)
    return [limits[min(bins)], limits[max(bins) + 1]]
