"""Write the figures of README and docs from the committed results, so that nobody types a number.

python benchmarks/readme.py            # rewrite the blocks between the markers
python benchmarks/readme.py --check    # exit 1 if a block is not what the results say

README.md has four figures in a sentence each, docs/measured.md has them all.

The ratio that `cosmicai plan` takes for our engine is written alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
README = ROOT / "README.md"
MEASURED = ROOT / "docs/measured.md"
ENGINE_RATIO = ROOT / "packages/workbench/cosmicai_workbench/simulation/engine_ratio.json"
BEGIN = "<!-- figures: made by benchmarks/readme.py from benchmarks/results/ -->\n"
END = "<!-- end of figures -->"

Figures = dict[str, Any]


def _spread(values: Figures, form: str) -> str:
    median, low, high = (format(values[key], form) for key in ("median", "min", "max"))
    return f"{median} ({low}–{high})"


def _row(what: str, figure: str, script: str, n: object) -> str:
    return f"| {what} | {figure} | {script}.py, n = {n} |"


def overhead(found: Figures) -> list[str]:
    """Show what the local cloud adds to a rank."""
    what = f"local cloud's overhead per rank, {found['ranks']:,} ranks"
    return [_row(what, f"{_spread(found['overhead_ms'], '.1f')} ms", "overhead", found["n"])]


def edit_and_run(found: Figures) -> list[str]:
    """Show how long an edit takes to run."""
    priority = ", with priority over other processes" if found["before_other_processes"] else ""
    clock = f"by the clock{priority}"
    return [
        _row(
            f"`cosmicai local invoke model_inference`, {what}: {clock}; processor time",
            f"{_spread(found['seconds'][key], '.1f')} s; "
            f"{_spread(found['cpu_seconds'][key], '.1f')} s",
            "edit_and_run",
            found["seconds"][key]["n"],
        )
        for key, what in {
            "unedited": "warm",
            "handler": "after an edit of its handler",
            "package": "after an edit of the core package",
        }.items()
    ]


def command_line(found: Figures) -> list[str]:
    """Show what the command line costs beside the Python API."""
    what = f"`cosmicai predict` of {found['galaxies']:,} galaxies, of the API's processor time"
    ratio, seconds = found["predict_to_loop"], found["cpu_seconds"]["help"]
    return [
        _row(what, _spread(ratio, ".2f"), "command_line", ratio["n"]),
        _row(
            "`cosmicai --help`, processor time",
            f"{_spread(seconds, '.2f')} s",
            "command_line",
            seconds["n"],
        ),
    ]


def planning(found: Figures) -> list[str]:
    """Show how long Initialize plans."""
    figure = f"{_spread(found['seconds'], '.1f')} s, {found['peak_rss_mb']['median']:.0f} MB"
    what = f"Initialize plans {found['partitions']:,} partitions"
    return [_row(what, figure, "planning", found["n"])]


def data(found: Figures) -> list[str]:
    """Show how fast galaxies are painted and split."""
    rate = _spread(found["painting"]["galaxies_per_cpu_second"], ",.0f")
    splitting = found["splitting"]
    seconds = _spread(splitting["seconds"], ".1f")
    memory = splitting["peak_rss_mb"]["median"]
    return [
        _row("galaxies painted per core and second", rate, "data", found["n"]),
        _row("splitting 1 GB", f"{seconds} s, {memory:.0f} MB", "data", found["n"]),
    ]


def _speeds(found: Figures, script: str) -> list[str]:
    """Show the default engine's speed beside the others', on one instruction set."""
    instructions = found["machine"]["instruction_set"].upper()
    rows = {
        f"speed on {instructions}, full-size model: {ratio}": values
        for ratio, values in found["throughput"]["ratios"].items()
        if ratio.startswith("native")
    }
    return [
        _row(what, _spread(values, ".2f"), script, values["n"]) for what, values in rows.items()
    ]


def inference(found: Figures) -> list[str]:
    """Show the default engine against what one would use otherwise, at full size."""
    script = "inference"
    lines = _speeds(found, script)
    for name, values in found["cold_start"]["of_the_reference"].items():
        if name.startswith("native"):
            what = f"cold start, {name}, of importing torch and loading the checkpoint"
            lines.append(_row(what, _spread(values, ".2f"), script, values["n"]))
    memory = f"{found['memory']['100 MB']['peak_memory_mb']:,.0f} MB"
    lines.append(_row("peak memory of a rank of 100 MB", memory, script, 1))
    return lines


def lambdas_instructions(found: Figures) -> list[str]:
    """Show speed and modelled cost on what Lambda promises."""
    script = "inference"
    dollars = found["survey_cost"]["dollars"]
    low, high = found["survey_cost"]["published_dollars"]
    spread = f"{dollars['median']:.2f} $ ({dollars['max']:.2f}–{dollars['min']:.2f})"
    cost = f"{spread}; the published system: {low} to {high} $ for the memory it used"
    what = "modelled for Lambda, x86_64: 12.6 GB, 645,000 galaxies ([how](cost.md))"
    n = found["survey_cost"]["ratio"]["n"]
    return [*_speeds(found, script), _row(what, cost, script, n)]


def gpu(found: Figures) -> list[str]:
    """Show what a GPU at hand does."""
    rates = found["gpu, float32"]["galaxies_per_second"]
    return [_row(f"galaxies per second, {found['gpu']}", _spread(rates, ",.0f"), "gpu", rates["n"])]


def fmi(found: Figures) -> list[str]:
    """Show messages between 8 processes beside gloo."""
    return [
        _row(
            f"fmilib `direct`, {row['row'].replace('_', ' ')}, 8 ranks, of gloo's time",
            f"{row['direct_to_gloo']:.2f}",
            "fmi",
            row["rounds"]["direct"],
        )
        for row in found["rows"]
        if row["ranks"] == 8
    ]


def coverage(found: Figures) -> list[str]:
    """Intervals of a calibrated point model: the bin that is furthest off."""
    counted = [row["galaxies"] for row in found["bins"].values()]
    what = (
        f"conformal intervals, {len(counted)} bins of {min(counted):,.0f} to "
        f"{max(counted):,.0f} galaxies: coverage at most this far from 68 and 95 %"
    )
    worst = " and ".join(f"{100 * value:.1f}" for value in found["worst"].values())
    return [_row(what, f"{worst} points, mean of the seeds", "coverage", found["seeds"])]


def simulation(found: Figures) -> list[str]:
    """Show how far `cosmicai plan` is off local runs."""
    errors = f"{found['local_median_error']:.1%} at the median, {found['local_largest_error']:.1%}"
    what = "error of `cosmicai plan`, calibrated, against local runs"
    return [_row(what, f"{errors} at most", "simulation", len(found["local"]))]


SECTIONS = {
    "inference": inference,
    "inference-avx2": lambdas_instructions,
    "gpu": gpu,
    "fmi": fmi,
    "overhead": overhead,
    "command_line": command_line,
    "edit_and_run": edit_and_run,
    "planning": planning,
    "coverage": coverage,
    "data": data,
    "simulation": simulation,
}


def block() -> str:
    """Return the table of all results there are."""
    rows = [
        row
        for name, show in SECTIONS.items()
        if (path := RESULTS / f"{name}.json").exists()
        for row in show(json.loads(path.read_text()))
    ]
    intro = (
        "On 2 cores of a shared server; median (smallest–largest). Machine, versions and all\n"
        "figures are in `benchmarks/results/`; each is made by the script of its name.\n\n"
    )
    return intro + "\n".join(["| what | measured | by |", "|---|---|---|", *rows]) + "\n"


def sentences() -> str:
    """Return the figures that matter most, in a sentence each."""
    wide, lambdas, card, clouds = (
        json.loads((RESULTS / f"{name}.json").read_text())
        for name in ("inference", "inference-avx2", "gpu", "overhead")
    )
    plain = "native / plain eager + DataLoader"
    speeds = [found["throughput"]["ratios"][plain] for found in (lambdas, wide)]
    dollars = lambdas["survey_cost"]["dollars"]
    low, high = lambdas["survey_cost"]["published_dollars"]
    rate = card["gpu, float32"]["galaxies_per_second"]["median"]
    first, second = (found["machine"]["instruction_set"].upper() for found in (lambdas, wide))
    speed = (
        f"**Speed**: {_spread(speeds[0], '.1f')} times plain PyTorch on {first}, which Lambda "
        f"promises, and {_spread(speeds[1], '.1f')} times on {second}."
    )
    cost = (
        f"**Cost**: 645,000 galaxies (12.6 GB) for ${dollars['median']:.2f} ({dollars['max']:.2f}–"
        f"{dollars['min']:.2f}), modelled for Lambda, not billed ([how](docs/cost.md)); the "
        f"published system's reports say ${low} to {high}, for the memory it used."
    )
    cloud = (
        f"**Local cloud**: {_spread(clouds['overhead_ms'], '.0f')} ms per rank on top of "
        f"predicting, with {clouds['ranks']:,} ranks."
    )
    gpu_instead = f"**A GPU instead**: {rate:,.0f} galaxies per second on one {card['gpu']}."
    lines = [speed, cost, cloud, gpu_instead]
    return "".join(f"- {line}\n" for line in lines)


def engine_ratio() -> str:
    """Return the file with the ratio that the modelled cost is derived from."""
    found = json.loads((RESULTS / "inference-avx2.json").read_text())
    return json.dumps(found["survey_cost"]["ratio"], indent=2) + "\n"


def _between_markers(text: str, content: str) -> str:
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:start] + content + text[end:]


def main() -> int:
    """Rewrite or check README, docs and the ratio of the engines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    files = {
        README: _between_markers(README.read_text(), sentences()),
        MEASURED: _between_markers(MEASURED.read_text(), block()),
        ENGINE_RATIO: engine_ratio(),
    }
    if options.check:
        return int(any(path.read_text() != content for path, content in files.items()))
    for path, content in files.items():
        path.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
