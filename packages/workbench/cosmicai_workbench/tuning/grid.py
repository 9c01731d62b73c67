"""Measure a grid of settings, estimate each, draw them, and keep the recommended one."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, Any

from cosmicai.engines.registry import BUILT_IN, find_engine, fitting_engine
from cosmicai.errors import InvalidInput
from cosmicai.facts import vcpus
from cosmicai.model.bundle import Bundle

from cosmicai_workbench.files import whole_text_file
from cosmicai_workbench.tuning.estimates import (
    Estimate,
    Setting,
    estimate,
    pareto,
    recommend,
)
from cosmicai_workbench.tuning.measure import Measurement, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cosmicai.facts import Architecture

MEMORY_HEADROOM = 1.15
"""Least ratio of memory size to measured peak memory; the handler needs some as well."""
METHOD = (
    "measured on this machine; the share of a vCPU that a memory size buys is emulated by "
    "stopping and continuing the process; S3 time taken to be hidden behind compute; every rank "
    "pays a cold start; list prices"
)


def tune(
    bundle: Path,
    out: Path,
    *,
    engine: str | None = None,
    memory_sizes: Sequence[int],
    batch_sizes: Sequence[int],
    partition_mbs: Sequence[float],
    galaxies: int,
    concurrency: int,
    sample: int,
    architecture: Architecture = "arm64",
    max_seconds: float | None = None,
    on_measured: Callable[[int, int, Measurement], None] | None = None,
) -> dict[str, Any]:
    """Write ``tune.json`` and ``tune.png`` into folder ``out``; return the former's content.

    Parameters
    ----------
    engine
        By default the fastest that runs the model.
    sample
        Galaxies that each measurement predicts.

    Raises
    ------
    InvalidInput
        A memory size has more vCPUs than this machine has cores, or none is enough.
    ModelMismatch
        The engine does not run the model.
    MeasurementFailed
        A measurement ended with an error.
    """
    model = Bundle(bundle)
    engine = engine or fitting_engine(model.architecture.name, BUILT_IN)
    find_engine(engine).check_model(model.architecture.name)
    measurements: dict[tuple[int, int], Measurement] = {}
    for memory_mb, batch_size in product(memory_sizes, batch_sizes):
        found = measure(bundle, engine, memory_mb=memory_mb, batch_size=batch_size, galaxies=sample)
        measurements[memory_mb, batch_size] = found
        if on_measured:
            on_measured(memory_mb, batch_size, found)
    estimates = [
        estimate(
            Setting(memory_mb=memory_mb, batch_size=batch_size, partition_mb=partition_mb),
            galaxies=galaxies,
            galaxy_bytes=model.config.inputs.galaxy.nbytes,
            galaxies_per_second=found.galaxies_per_second,
            start_seconds=found.start_seconds,
            vcpus=vcpus(memory_mb),
            concurrency=concurrency,
            architecture=architecture,
        )
        for ((memory_mb, batch_size), found), partition_mb in product(
            measurements.items(), partition_mbs
        )
        if memory_mb >= MEMORY_HEADROOM * found.peak_memory_mb
    ]
    if not estimates:
        peak = max(found.peak_memory_mb for found in measurements.values())
        raise InvalidInput(
            f"no memory size of {list(memory_sizes)} MB is enough: the engine needs {peak:.0f} MB "
            f"and {MEMORY_HEADROOM - 1:.0%} headroom"
        )
    best = recommend(estimates, max_seconds=max_seconds)
    content = {
        "method": METHOD,
        "engine": engine,
        "architecture": architecture,
        "galaxies": galaxies,
        "concurrency": concurrency,
        "measurements": [
            {"memory_mb": memory_mb, "batch_size": batch_size, **found._asdict()}
            for (memory_mb, batch_size), found in measurements.items()
        ],
        "estimates": [one.model_dump() for one in estimates],
        "pareto": [one.setting.model_dump() for one in pareto(estimates)],
        "recommended": best.model_dump(),
        "parameter_overrides": {
            "InferenceMemorySize": str(best.setting.memory_mb),
            "Engine": engine,
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    with whole_text_file(out / "tune.json") as file:
        file.write(json.dumps(content, indent=2) + "\n")
    draw(estimates, best, out / "tune.png")
    return content


def draw(estimates: Sequence[Estimate], best: Estimate, path: Path) -> None:
    """Draw time against cost: every setting, those that none beats, and the recommended one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for memory_mb in sorted({one.setting.memory_mb for one in estimates}):
        group = [one for one in estimates if one.setting.memory_mb == memory_mb]
        label = f"{memory_mb:,} MB, {vcpus(memory_mb):.2g} vCPU"
        axes.scatter([one.seconds for one in group], [one.dollars for one in group], label=label)
    front = pareto(estimates)
    axes.plot([one.seconds for one in front], [one.dollars for one in front], "k--", lw=1, zorder=0)
    axes.scatter([best.seconds], [best.dollars], s=160, facecolors="none", edgecolors="k")
    chosen = best.setting
    text = f"recommended: {chosen.memory_mb:,} MB, {chosen.partition_mb:g} MB partitions"
    axes.annotate(text, (best.seconds, best.dollars), (12, 12), textcoords="offset points")
    axes.set(xlabel="time of the inference, s", ylabel="cost, $", xscale="log")
    axes.set_ylim(bottom=0)
    axes.legend(title="memory size")
    figure.savefig(path, dpi=120)


def write_parameters(
    samconfig: Path, overrides: dict[str, str], environment: str = "default"
) -> None:
    """Set ``parameter_overrides`` of ``[<environment>.deploy.parameters]`` in a samconfig.toml.

    Parameters that the line has and ``overrides`` has not stay; so does the rest of the file.

    Raises
    ------
    InvalidInput
        The file is absent or has no such section.
    """
    import tomlkit
    from tomlkit.exceptions import NonExistentKey, TOMLKitError

    try:
        document = tomlkit.parse(samconfig.read_text(encoding="utf-8"))
        section: Any = document[environment]["deploy"]["parameters"]
    except OSError as error:
        raise InvalidInput(f"{samconfig} cannot be read: {error.strerror}") from error
    except NonExistentKey:
        missing = f"[{environment}.deploy.parameters]"
        raise InvalidInput(f"{samconfig} has no section {missing}") from None
    except (UnicodeDecodeError, TOMLKitError) as error:
        raise InvalidInput(f"{samconfig}: not a TOML file ({error})") from None
    current = section.get("parameter_overrides", "")
    words = current if isinstance(current, list) else current.split()
    merged = dict(word.split("=", 1) for word in words) | overrides
    pairs = [f"{name}={value}" for name, value in merged.items()]
    section["parameter_overrides"] = pairs if isinstance(current, list) else " ".join(pairs)
    with whole_text_file(samconfig) as file:
        file.write(tomlkit.dumps(document))
