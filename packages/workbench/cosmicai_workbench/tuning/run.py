"""Measure a grid of settings, estimate each, draw them, and keep the recommended one."""

from __future__ import annotations

import json
import re
from itertools import product
from typing import TYPE_CHECKING, Any

from cosmicai.engines.registry import find_engine
from cosmicai.errors import InvalidInput
from cosmicai.facts import vcpus

from cosmicai_workbench.tuning.measure import Measurement, measure
from cosmicai_workbench.tuning.model import (
    Estimate,
    Setting,
    estimate,
    pareto,
    recommend,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cosmicai.cost import Architecture

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
    engine: str,
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
    sample
        Galaxies that each measurement predicts.

    Raises
    ------
    InvalidInput
        A memory size has more vCPUs than this machine has cores, or none is enough.
    MeasurementFailed
        A measurement ended with an error.
    """
    find_engine(engine)
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
    partial = out / "tune.json.partial"
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(out / "tune.json")
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
    section = f"[{environment}.deploy.parameters]"
    try:
        text = samconfig.read_text()
    except OSError as error:
        raise InvalidInput(f"{samconfig} cannot be read: {error.strerror}") from error
    start = text.find(section)
    if start < 0:
        raise InvalidInput(f"{samconfig} has no section {section}")
    start += len(section)
    end = text.find("\n[", start)
    body, rest = (text[start:], "") if end < 0 else (text[start:end], text[end:])
    line = re.compile(r'^parameter_overrides\s*=\s*"([^"\n]*)"[^\n]*$', re.MULTILINE)
    found = line.search(body)
    current = dict(part.split("=", 1) for part in found[1].split()) if found else {}
    merged = " ".join(f"{name}={value}" for name, value in {**current, **overrides}.items())
    written = f'parameter_overrides = "{merged}"'
    body = line.sub(lambda _: written, body) if found else f"\n{written}{body}"
    partial = samconfig.with_suffix(".partial")
    partial.write_text(text[:start] + body + rest)
    partial.replace(samconfig)
