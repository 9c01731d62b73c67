"""Choose calibration, limits and retries, then plan: what ``cosmicai plan`` calls."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cosmicai.errors import InvalidInput
from cosmicai.facts import DEFAULT_INFERENCE_MEMORY_MB, MAX_CHILDREN, Architecture
from cosmicai.model.architectures import DEFAULT
from cosmicai.model.interface import sdss_inputs

from cosmicai_workbench.simulation.calibration import profile_of
from cosmicai_workbench.simulation.parameters import Limits, Profile
from cosmicai_workbench.simulation.planning import Plan, plan, work_for
from cosmicai_workbench.simulation.published import calibrate_scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cosmicai.model.interface import ArchitectureConfig

ENGINE_RATIO = Path(__file__).with_name("engine_ratio.json")
"""How much faster our engine predicts than the published system's; by benchmarks/readme.py."""


def default_profile() -> Profile:
    """Return the published executions' times, with our engine in place of theirs.

    Time per galaxy is the published one over the ratio that was measured on AVX2, which is what
    Lambda promises on x86_64. Everything else is as published.
    """
    published, _ = calibrate_scale()
    ratio = json.loads(ENGINE_RATIO.read_text())
    median, low, high = (ratio[key] for key in ("median", "min", "max"))
    return published.model_copy(
        update={
            "source": f"{published.source}, predicting {median:.2f} ({low:.2f}-{high:.2f}) times "
            "as fast: our engine beside theirs on AVX2, docs/cost.md; arm64 is taken to be alike",
            "predict_seconds_per_sample": published.predict_seconds_per_sample / median,
        }
    )


def plan_execution(
    *,
    galaxies: float,
    partition_mb: float,
    ranks: int | None,
    memory_mb: int | None = None,
    concurrency: int,
    max_concurrency: int | None = None,
    barrier: bool,
    calibrate: "Sequence[Path] | None",
    region: str,
    architecture: str,
    simulations: int,
    seed: int,
    model: "ArchitectureConfig | None" = None,
) -> Plan:
    """Plan an execution on AWS.

    Parameters
    ----------
    concurrency
        Functions at once that the account allows.
    max_concurrency
        Children that the Map starts at once; by default no more than the account runs. What it
        starts beyond that is throttled, and retried as the state machine does.
    memory_mb
        Of a function; by default that of a stack.
    calibrate
        Run folders to take the ranks' times from, or None for those of :func:`default_profile`.
    model
        Config of the model whose galaxies are read; by default they are those of AstroMAE.

    Raises
    ------
    InvalidInput
        If a figure is impossible, the run folder is not one.
    """
    if architecture not in get_args(Architecture):
        raise InvalidInput(f"--architecture: expected arm64 or x86_64, found {architecture!r}")
    _, published_limits = calibrate_scale()
    profile = profile_of(calibrate) if calibrate else default_profile()
    limits = Limits(
        concurrency=concurrency,
        map_concurrency=min(max_concurrency or concurrency, MAX_CHILDREN),
        dispatch_rate=published_limits.dispatch_rate,
    )
    chosen: Any = architecture
    inputs = model.inputs if model else sdss_inputs()
    found = plan(
        work_for(galaxies, partition_mb, inputs.galaxy.nbytes, ranks=ranks, barrier=barrier),
        profile,
        limits,
        memory_mb=memory_mb or DEFAULT_INFERENCE_MEMORY_MB,
        region=region,
        architecture=chosen,
        simulations=simulations,
        seed=seed,
    )
    if model is None or model.architecture == DEFAULT or calibrate:
        return found
    warning = (
        f"the times are those of {DEFAULT}, and the model is another ({model}): take them from a "
        "run of it (--calibrate RUN)"
    )
    return found.model_copy(update={"warnings": (*found.warnings, warning)})
