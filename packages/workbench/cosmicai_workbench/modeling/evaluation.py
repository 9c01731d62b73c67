"""How good a model is on galaxies with known redshifts: painted ones, or those of partitions."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from cosmicai.calibration import INTERVALS
from cosmicai.engines.base import load_engine
from cosmicai.engines.registry import BUILT_IN, fitting_engine
from cosmicai.errors import InvalidInput, ModelMismatch
from cosmicai.facts import BAND_NAMES, R_BAND
from cosmicai.model.bundle import Bundle
from cosmicai.outputs import estimate
from cosmicai.prediction import Predictor
from cosmicai.quality import figures, statistics, statistics_of
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
    magnitudes = inputs.magnitude.bands if inputs.magnitude else ()
    if not {*inputs.image.bands, *magnitudes} <= set(BAND_NAMES) or inputs.scalars:
        raise ModelMismatch(
            f"{bundle}: painted galaxies have images and magnitudes in {', '.join(BAND_NAMES)} "
            "alone, and the model takes others; name partitions with known redshifts behind it"
        )
    channels, columns_taken = (
        [BAND_NAMES.index(band) for band in bands] for bands in (inputs.image.bands, magnitudes)
    )
    model = load_engine(_engine(checked, engine), checked, threads=threads)
    parts = [
        (
            model.predict(block.image[:, channels], block.magnitude[:, columns_taken]),
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


def evaluate_partitions(
    bundle: Path,
    partitions: Sequence[str],
    *,
    engine: str | None = None,
    threads: int = 1,
    on_partition: Callable[[str], None] | None = None,
) -> Quality:
    """Predict the galaxies of partitions and compare with their known redshifts.

    Parameters are those of :func:`evaluate`, but for the partitions: ``.pt`` files or
    ``s3://bucket/key``.

    Raises
    ------
    CosmicAIError
        The bundle cannot be used, or a partition cannot be read or is not one for it.
    InvalidInput
        No galaxy has both a known and a predicted redshift.
    """
    checked = Bundle(bundle)
    predictor = Predictor.load(
        checked, _engine(checked, engine), threads=threads, precision="float32"
    )
    found = predictor.predict_partitions(partitions, on_partition=on_partition)
    quality = figures(statistics_of(found.arrays(partitions)))
    if not quality.num_galaxies:
        raise InvalidInput(
            f"{', '.join(partitions):.200}: galaxies with known redshifts expected, found none "
            f"among {found.num_samples:,}"
        )
    return quality


def _engine(bundle: Bundle, name: str | None) -> str:
    return name or fitting_engine(bundle.architecture.name, ("plain", *BUILT_IN))
