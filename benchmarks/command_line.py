"""What the command line costs beside the same work by hand in Python.

    python benchmarks/command_line.py --json benchmarks/results/command_line.json

Every figure is the processor time of a process of its own, start included, the commands in turns,
round by round: a busy machine moves wall times, and all of them alike. The loop by hand is a
script of four lines: open the model, predict each partition. `cosmicai predict` also writes the
run folder; with `--to` the catalogue, with `--report` the page.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.demo import dataset
from measuring import machine, main_with_limits, spread

GALAXIES = 2500
PARTITIONS = 11
PREDICT_LIMIT = 1.5
"""Of the loop's time, at most, for `cosmicai predict`."""
HELP_LIMIT = 0.4
"""Seconds, at most, for `cosmicai --help`."""

LOOP = """
import sys, cosmicai
model = cosmicai.open_model(sys.argv[1])
for path in sys.argv[2:]:
    model.predict_partitions([path]).redshift
"""
_UNUSUAL = ("COLUMNS", "PYTHONDONTWRITEBYTECODE")
"""Variables that a user's shell lacks: Python keeps what it compiled unless told otherwise."""
COMMAND = [sys.executable, "-m", "cosmicai_workbench.cli.main"]


def seconds(command: list[str], folder: Path) -> float:
    """Run a command; return its processor time, system time included."""
    environment = {name: value for name, value in os.environ.items() if name not in _UNUSUAL}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds: int) -> dict[str, Any]:
    """Return the figures of so many rounds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = dataset(GALAXIES, PARTITIONS, bar=no_bar, cache=folder / "demo")
        paths = [str(path) for path in sorted(data.glob("*.pt"))]
        predict = [*COMMAND, "predict", str(data), "-o"]
        found: dict[str, list[float]] = {}
        for number in range(-1, rounds):
            commands = {
                "loop": [sys.executable, "-c", LOOP, str(SMALL_MODEL), *paths],
                "predict": [*predict, f"run{number}"],
                "predict_catalogue": [*predict, f"fits{number}", "--to", "fits"],
                "predict_report": [*predict, f"report{number}", "--report"],
                "help": [*COMMAND, "--help"],
                "predict_help": [*COMMAND, "predict", "--help"],
            }
            for what, command in commands.items():
                taken = seconds(command, folder)
                if number >= 0:  # the first round fills the caches
                    found.setdefault(what, []).append(taken)
    ratios = [one / loop for one, loop in zip(found["predict"], found["loop"], strict=True)]
    return {
        "galaxies": GALAXIES,
        "partitions": PARTITIONS,
        "cpu_seconds": {what: spread(values, 3) for what, values in found.items()},
        "predict_to_loop": spread(ratios, 2),
        "machine": machine("numpy", "typer", "rich"),
    }


def missed(found: dict[str, Any]) -> list[str]:
    """Return the limits that the figures are over."""
    over = []
    if found["predict_to_loop"]["median"] > PREDICT_LIMIT:
        over.append(f"predict takes more than {PREDICT_LIMIT} of the loop's time")
    if found["cpu_seconds"]["help"]["median"] > HELP_LIMIT:
        over.append(f"--help takes more than {HELP_LIMIT} s")
    return over


if __name__ == "__main__":
    sys.exit(main_with_limits(__doc__, measure, missed))
