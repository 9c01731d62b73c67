"""How good a model is on galaxies whose parents it has never seen."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from cosmicai.calibration import INTERVALS
from cosmicai.engines.base import load_engine
from cosmicai.engines.registry import BUILT_IN, fitting_engine
from cosmicai.errors import ModelMismatch
from cosmicai.facts import BAND_NAMES, R_BAND
from cosmicai.model.bundle import Bundle
from cosmicai.outputs import estimate
from cosmicai.quality import figures, statistics
from cosmicai.schema import Quality
from cosmicai.scores import scores_of

from cosmicai_workbench.data.synthesis import Galaxies

HELD_OUT = 2000
"""Galaxies of the test split that a model's figures are measured on; all are survey rows."""


def evaluate(
    bundle: Path, galaxies: Iterable[Galaxies], *, engine: str | None = None, threads: int = 1
) -> Quality:
    """Predict galaxies and compare redshifts, intervals and p(z) with the true redshifts.

    Parameters
    ----------
    bundle
        Folder of the model.
    galaxies
        Blocks of galaxies, as :func:`~cosmicai_workbench.data.synthesis.synthesize` yields them.
    engine
        Name of the engine that predicts; by default the plain one, if it runs the model.
    threads
        Threads of the engine.

    Raises
    ------
    ModelNotFound, ModelMismatch
        The bundle cannot be used, or takes more than painted galaxies have.
    """
    checked = Bundle(bundle)
    interface = checked.interface
    inputs = checked.config.inputs
    taken = {inputs.image.bands, inputs.magnitude.bands if inputs.magnitude else BAND_NAMES}
    if taken != {BAND_NAMES} or inputs.scalars:
        raise ModelMismatch(
            f"{bundle}: painted galaxies have images and magnitudes in {', '.join(BAND_NAMES)} "
            "alone, and the model takes others; measure it on partitions with known redshifts "
            "(`cosmicai predict`, then `cosmicai results show`)"
        )
    name = engine or fitting_engine(checked.architecture.name, ("plain", *BUILT_IN))
    model = load_engine(name, checked, threads=threads)
    parts = [
        (
            model.predict(block.image, block.magnitude[:, : inputs.num_magnitudes]),
            block.redshift,
            block.magnitude[:, R_BAND],
        )
        for block in galaxies
    ]
    raw, true, magnitude = map(np.concatenate, zip(*parts, strict=True))
    columns = estimate(interface.output, raw, interface.calibration, magnitude)
    distribution = interface.distribution
    return figures(
        statistics(
            columns["redshift"],
            true,
            magnitude,
            intervals={name: columns[name] for name in INTERVALS} if "z_lo68" in columns else None,
            scores=scores_of(distribution, raw, true) if distribution else None,
        )
    )
