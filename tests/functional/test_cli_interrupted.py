"""Ctrl-C: an answer at once that says what goes on, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cosmicai_workbench.data.partition_writer import write_partition
from s3_stack import make_galaxies

SLOW = """
import sys, time, types, typer
from cosmicai_workbench.cli import main as cli
from cosmicai_workbench.cli.interruption import if_interrupted

slow = types.ModuleType("cosmicai_workbench.cli.slow")
slow.app = typer.Typer()

@slow.app.command()
def wait():
    "Wait."
    told = "the tide rises"
    with if_interrupted(lambda: told):
        told = "the tide goes on"
        print("waiting", flush=True)
        time.sleep(float(sys.argv[1]))

sys.modules[slow.__name__] = slow
cli.GROUPS = ("slow",)
sys.exit(cli.main(["slow"]))
"""


def started(
    command: list[str], folder: Path, handler: signal.Handlers = signal.SIG_DFL
) -> subprocess.Popen[str]:
    """Start a process that takes SIGINT as this test wants, however the tests were started."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )


def wait_for(happened: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_answer_says_what_goes_on(tmp_path: Path) -> None:
    process = started([sys.executable, "-c", SLOW, "60"], tmp_path)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert told == "\ncosmicai: interrupted; the tide goes on\n"
    assert process.returncode == 130


def test_where_the_shell_has_it_ignored_it_is_ignored(tmp_path: Path) -> None:
    process = started([sys.executable, "-c", SLOW, "1"], tmp_path, signal.SIG_IGN)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


@pytest.mark.slow
def test_a_run_ends_with_its_local_cloud(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(1, 30):
        path = tmp_path / "data" / f"{number}.pt"
        write_partition(path, make_galaxies(512, seed=number), {"from": "test"})
    words = ["-m", "cosmicai_workbench.cli.main", "run", "--data", "data", "--set", "engine=plain"]
    process = started([sys.executable, *words], tmp_path)
    wait_for(lambda: [*tmp_path.glob(".cosmicai/run-*/logs/model_inference/*.log")])
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*") if child_of(path, process.pid)]
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, told = process.communicate(timeout=30)
    assert "interrupted; the execution ends with its local cloud" in told
    assert process.returncode == 130
    assert time.monotonic() - began < 15
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)
    assert not [*(tmp_path / "runs").iterdir()]


def child_of(path: Path, parent: int) -> bool:
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()[1] == str(parent)
    except OSError:
        return False
