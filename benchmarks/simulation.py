"""Simulated against measured: the published executions, and runs on this machine.

    python benchmarks/simulation.py [--repeat 3] [--append] [--json] [--cache DIR]

Published: calibrated on part of the executions, checked on those held out (``cosmicai plan
--check``). Local: each round runs two small executions, calibrates on these alone, predicts larger
ones (more ranks; smaller, equal and larger partitions; several partitions per rank), runs those,
and compares wall times. Rounds follow one another, so the spread of one execution's measured wall
times over the rounds is shown beside the error: no prediction can do better than that. Every
execution has a local cloud of its own, so all start cold. Writes
``benchmarks/results/simulation.json``; ``--append`` adds rounds to those of the file (made on the
same machine). The figures are only as steady as the machine: run it on a quiet one. ``--cache``
keeps the painted partitions, 6 GB.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.data.splitting import galaxies_per_partition
from cosmicai_workbench.results.run_folder import Run, load_run
from cosmicai_workbench.simulation.calibration import calibrate, limits_of
from cosmicai_workbench.simulation.events import simulate
from cosmicai_workbench.simulation.parameters import Work
from cosmicai_workbench.simulation.published import check_published
from cosmicai_workbench.sweep.executors import LocalExecutor
from cosmicai_workbench.sweep.experiment import Experiment, Point
from measuring import machine

RESULTS = Path(__file__).parent / "results" / "simulation.json"
CALIBRATION = (
    Point(partition="5MB", file_limit=24, batch_size=128),
    Point(partition="25MB", file_limit=12, batch_size=128),
)
PREDICTED = (
    Point(partition="10MB", file_limit=120, batch_size=128),
    Point(partition="25MB", file_limit=80, batch_size=128),
    Point(partition="25MB", file_limit=80, batch_size=128, world_size=20),
    Point(partition="50MB", file_limit=40, batch_size=128),
)
SEEDS = range(15)


def run_cold(point: Point, folder: Path, cache: Path) -> Run:
    """Run one execution in a local cloud of its own."""
    experiment = Experiment(
        name="simulation", fixed=dict(point), grid={"file_limit": [point["file_limit"]]}
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with LocalExecutor(experiment, SMALL_MODEL, cache) as executor:
        executor.run(point, f"simulation/{folder.name}", folder)
    return load_run(folder)


def predicted_wall(point: Point, calibration: list[Run]) -> float:
    """Return the median simulated wall time of an execution."""
    galaxies = point["file_limit"] * galaxies_per_partition(point.partition_mb)
    ranks = point["world_size"] or point["file_limit"]
    summary = calibration[0].summary
    work = Work(
        ranks=ranks,
        samples_per_rank=galaxies // ranks,
        bytes_per_rank=int(galaxies * summary.num_bytes / summary.num_samples / ranks),
    )
    profile, limits = calibrate(calibration), limits_of(calibration[0])
    return statistics.median(simulate(work, profile, limits, seed=seed).wall for seed in SEEDS)


def one_round(folder: Path, cache: Path) -> list[dict[str, Any]]:
    """Calibrate on small runs, predict larger ones, run them and compare."""
    calibration = [
        run_cold(point, folder / f"calibration{number}", cache)
        for number, point in enumerate(CALIBRATION)
    ]
    rows = []
    for number, point in enumerate(PREDICTED):
        simulated = predicted_wall(point, calibration)
        measured = run_cold(point, folder / f"predicted{number}", cache).summary.wall_seconds
        rows.append(
            {
                "execution": point.folder,
                "measured_seconds": round(measured, 3),
                "simulated_seconds": round(simulated, 3),
                "error": round(simulated / measured - 1, 4),
            }
        )
    return rows


def by_execution(local: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sum up the rounds: of each execution the median error and how far repeats lie apart."""
    found = []
    for name in dict.fromkeys(row["execution"] for row in local):
        rows = [row for row in local if row["execution"] == name]
        walls = [row["measured_seconds"] for row in rows]
        middle = statistics.median(walls)
        found.append(
            {
                "execution": name,
                "rounds": len(rows),
                "median_measured_seconds": middle,
                "median_error": statistics.median(row["error"] for row in rows),
                "repeats_below_median": round(min(walls) / middle - 1, 4),
                "repeats_above_median": round(max(walls) / middle - 1, 4),
            }
        )
    return found


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--append", action="store_true", help="keep the rounds of the file")
    parser.add_argument("--cache", type=Path, help="folder to keep painted partitions in")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rounds = [
            one_round(Path(name) / f"round{i}", options.cache or Path(name) / "cache")
            for i in range(options.repeat)
        ]
    earlier = json.loads(options.out.read_text())["local"] if options.append else []
    local = earlier + [row for rows in rounds for row in rows]
    published = [
        {
            "execution": check.what,
            "held_out": check.held_out,
            "published_seconds": round(check.published_seconds, 2),
            "simulated_seconds": round(check.simulated_seconds, 2),
            "error": round(check.error, 4),
        }
        for check in check_published()
    ]
    held_out = [abs(row["error"]) for row in published if row["held_out"]]
    errors = [abs(row["error"]) for row in local]
    document = {
        "published": published,
        "published_held_out_largest_error": max(held_out),
        "local": local,
        "local_by_execution": by_execution(local),
        "local_median_error": statistics.median(errors),
        "local_largest_error": max(errors),
        "machine": machine("numpy", "moto", "torch"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    if options.json:
        print(json.dumps(document, indent=2))
        return
    print(f"published, held out: largest error {max(held_out):.1%} (n = {len(held_out)})")
    for row in local:
        print("{execution}: measured {measured_seconds} s, simulated {simulated_seconds} s, "
              "error {error:+.1%}".format(**row))  # fmt: skip
    print(f"local: median error {statistics.median(errors):.1%}, largest {max(errors):.1%}")


if __name__ == "__main__":
    main()
