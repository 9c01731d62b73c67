"""Choose calibration, limits and retries, then plan: what ``cosmicai plan`` calls."""

from typing import TYPE_CHECKING, Any, get_args

from cosmicai.cost import Architecture
from cosmicai.errors import InvalidInput
from cosmicai.facts import GALAXY_BYTES

from cosmicai_workbench.simulation.calibration import profile_of
from cosmicai_workbench.simulation.parameters import MAX_CHILDREN, Limits
from cosmicai_workbench.simulation.planning import Plan, plan, work_for
from cosmicai_workbench.simulation.published import calibrate_scale

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def plan_execution(
    *,
    galaxies: float,
    partition_mb: float,
    ranks: int | None,
    memory_mb: int,
    concurrency: int,
    max_concurrency: int | None = None,
    barrier: bool,
    calibrate: "Sequence[Path] | None",
    region: str,
    architecture: str,
    simulations: int,
    seed: int,
) -> Plan:
    """Plan an execution on AWS.

    Parameters
    ----------
    concurrency
        Functions at once that the account allows.
    max_concurrency
        Children that the Map starts at once; by default no more than the account runs. What it
        starts beyond that is throttled, and retried as the state machine does.
    calibrate
        Run folders to take the ranks' times from, or None for the published executions.

    Raises
    ------
    InvalidInput
        If a figure is impossible, the run folder is not one.
    """
    if architecture not in get_args(Architecture):
        raise InvalidInput(f"--architecture: expected arm64 or x86_64, found {architecture!r}")
    published_profile, published_limits = calibrate_scale()
    profile = profile_of(calibrate) if calibrate else published_profile
    limits = Limits(
        concurrency=concurrency,
        map_concurrency=min(max_concurrency or concurrency, MAX_CHILDREN),
        dispatch_rate=published_limits.dispatch_rate,
    )
    chosen: Any = architecture
    return plan(
        work_for(galaxies, partition_mb, GALAXY_BYTES, ranks=ranks, barrier=barrier),
        profile,
        limits,
        memory_mb=memory_mb,
        region=region,
        architecture=chosen,
        simulations=simulations,
        seed=seed,
    )
