"""How long an edit takes to show: `cosmicai local up --reload`, edit, `cosmicai local invoke`.

    python benchmarks/edit_and_run.py --json benchmarks/results/edit_and_run.json

Works on a copy of the application, with a Python environment that imports the copy. A round calls
Model Inference once each: as it is, after an edit of its handler, and after an edit of a module of
the core package. Each call predicts the same partition of 100 galaxies again. The time runs from
the saved file to the end of the command, and the command must print what the edit added. On a
busy machine the processor time of command, cloud and sandboxes says more than the clock. Root can
give the script priority over other processes, by ``chrt --rr 1``; the results then say so.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from cosmicai import keys
from cosmicai_workbench.application import ROOT
from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.demo import dataset
from cosmicai_workbench.place import running_cloud
from measuring import machine, main_with_limits, spread

LIMIT = 3.0
"""Seconds from a saved edit to the answer, at most."""
COPIED = ("functions", "layers", "models", "packages", "statemachine", "template.yaml")
EDITS = {
    "handler": ("functions/model_inference/app.py", "    log_rank(item)\n"),
    "package": ("packages/cosmicai/cosmicai/inference.py", "    started_at, started = "),
}
"""What is edited → the file, and the text before which a line is added."""


def copied(folder: Path) -> Path:
    """Copy the application; return a Python that imports the copy and what is installed here."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    own = [str(folder / "packages" / name) for name in ("cosmicai", "fmilib", "workbench")]
    (site / "_copy.pth").write_text("\n".join([*own, *(path for path in sys.path if path)]))
    return environment / "bin/python"


class Project:
    """A copy of the application, with a cloud up in it and one finished execution."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._python = copied(folder)
        self.cosmicai("local", "up", "--reload", "--concurrency", "1")
        data = dataset(100, 1, bar=no_bar, cache=folder / "demo")
        self.cosmicai("run", "--local", "--data", str(data), "--name", "measured")
        status = json.loads(self.cosmicai("local", "status", "--json"))
        self._cloud = psutil.Process(status["process_id"])
        place = running_cloud("local", folder / ".cosmicai")
        if place is None:
            raise SystemExit("the local cloud has ended")
        self._store = place.connection.store(place.connection.outputs["BucketName"])
        self._result_path = "results/measured"
        (item, *_) = json.loads(self._store.read(keys.manifest(self._result_path)))
        (folder / "event.json").write_text(json.dumps(item))

    def forget_rank(self) -> None:
        """Delete what the rank wrote, so that it computes again."""
        path = self._result_path
        self._store.delete([keys.rank(path, 0), keys.predictions(path, 0)])

    def edit(self, what: str, text: str) -> None:
        """Let a file of the copy print a text when the rank runs."""
        name, before = EDITS[what]
        path = self.folder / name
        whole = (ROOT / name).read_text()
        if whole.count(before) != 1:
            raise SystemExit(f"{name}: {before!r} expected once")
        path.write_text(whole.replace(before, f"    print({text!r})\n{before}"))

    def call(self, what: str, text: str = "") -> tuple[float, float]:
        """Edit, call Model Inference, and wait until its answer is printed.

        Returns
        -------
        tuple
            Seconds by the clock, and of processor time: command, cloud and sandboxes.
        """
        self.forget_rank()
        if text:
            self.edit(what, text)
        begin, before, own = time.perf_counter(), self._processor_times(), _children_seconds()
        said = self.cosmicai("local", "invoke", "model_inference", "-e", "event.json")
        seconds, after = time.perf_counter() - begin, self._processor_times()
        if text not in said or "already there" in said:
            raise SystemExit(f"{what}: the edit is not in the answer: {said}")
        # A sandbox that was replaced is not in ``after``.
        work = sum(taken - before.get(process, 0.0) for process, taken in after.items())
        return seconds, work + _children_seconds() - own

    def _processor_times(self) -> dict[int, float]:
        """Return the processor time so far of the cloud's processes that are alive."""
        found = {}
        for process in [self._cloud, *self._cloud.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        return found

    def cosmicai(self, *words: str) -> str:
        """Run a command; return all that it printed."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [self._python, "-m", "cosmicai_workbench.cli.main", *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"cosmicai {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(rounds: int) -> dict[str, Any]:
    """Return the figures of so many rounds."""
    seconds: dict[str, list[float]] = {"unedited": [], **{what: [] for what in EDITS}}
    work: dict[str, list[float]] = {what: [] for what in seconds}
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        project = Project(Path(name))
        try:
            for number in range(-1, rounds):
                edits = {what: f"edit {number} of the {what}" for what in EDITS}
                for what, text in {**edits, "unedited": ""}.items():
                    taken = project.call(what, text)
                    if number >= 0:  # the first round fills the caches
                        seconds[what].append(taken[0])
                        work[what].append(taken[1])
        finally:
            project.cosmicai("local", "down")
    load.append(os.getloadavg()[0])
    return {
        "seconds": {what: spread(values, 2) for what, values in seconds.items()},
        "cpu_seconds": {what: spread(values, 2) for what, values in work.items()},
        "load_average_before_and_after": load,
        "before_other_processes": os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO),
        "machine": machine("numpy", "boto3", "moto", "typer"),
    }


def missed(found: dict[str, Any]) -> list[str]:
    """Return the edits that took longer than the limit."""
    return [
        f"{what}: the edit shows after more than {LIMIT} s"
        for what in EDITS
        if found["seconds"][what]["median"] > LIMIT
    ]


if __name__ == "__main__":
    sys.exit(main_with_limits(__doc__, measure, missed))
