"""fmilib as a library of its own: its README runs, and it needs NumPy alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import fmilib as fmi
import pytest
from fmi_support import free_port, start_rendezvous, stop

PACKAGE = Path(__file__).parents[2] / "packages/fmilib"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)


def check_readme(python: str, folder: Path) -> None:
    """Run both programs of the README, outside of any checkout."""
    text = (PACKAGE / "README.md").read_text()
    threads, processes = snippets()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    answer = subprocess.run([python, "-c", threads], capture_output=True, text=True, cwd=folder,
                            env=environment, timeout=60)  # fmt: skip
    assert f"prints `{answer.stdout.strip()}`" in text, answer
    program, port = folder / "program.py", free_port()
    program.write_text(processes)
    server = start_rendezvous(port, "--no-auth")
    try:
        ranks = [
            subprocess.Popen([python, str(program), "2", str(rank)], cwd=folder, text=True,
                             env={**environment, "FMI_RENDEZVOUS": f"127.0.0.1:{port}"},
                             stdout=subprocess.PIPE)
            for rank in range(2)
        ]  # fmt: skip
        assert [rank.communicate(timeout=60)[0] for rank in ranks] == ["2.0\n", "None\n"]
    finally:
        stop(server)


def test_the_readme_runs(tmp_path: Path) -> None:
    check_readme(sys.executable, tmp_path)


@pytest.mark.slow
def test_the_wheel_alone_installs_with_numpy_only_and_its_readme_runs(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=600
        ).stdout

    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", "wheels", str(PACKAGE))
    run(sys.executable, "-m", "venv", "alone")
    python = str(tmp_path / "alone/bin/python")
    (wheel,) = (tmp_path / "wheels").glob("fmilib-*.whl")
    run(python, "-m", "pip", "install", str(wheel))
    installed = {line.partition("==")[0] for line in run(
        python, "-m", "pip", "freeze", "--exclude", "pip", "--exclude", "setuptools"
    ).splitlines()}  # fmt: skip
    assert {name.partition(" @")[0] for name in installed} == {"fmilib", "numpy"}
    assert run(python, "-c", "import fmilib; print(fmilib.__version__)").strip() in wheel.name
    check_readme(python, tmp_path)
    needs_boto3 = (
        "import fmilib; fmilib.Communicator(0, 1, {'backends': {'S3': {'bucket_name': 'b'}}}, 'x')"
    )
    answer = subprocess.run([python, "-c", needs_boto3], capture_output=True, text=True)
    assert "pip install fmilib[s3]" in answer.stderr


def test_threads_return_in_rank_order_and_raise_the_cause() -> None:
    assert fmi.run_threads(3, lambda comm: comm.allgather(comm.rank)) == [[0, 1, 2]] * 3

    def fails(comm: fmi.Communicator) -> None:
        if comm.rank == 2:
            raise KeyError("galaxy")
        comm.barrier()

    with pytest.raises(KeyError, match="galaxy"):
        fmi.run_threads(3, fails)
    with pytest.raises(ValueError, match="at least one rank"):
        fmi.run_threads(0, fails)


def test_a_channel_of_ones_own_is_registered_once_under_its_name() -> None:
    from fmilib import backend as registry

    memory = registry.find("Memory")
    toy = memory._replace(name="ToyOfTheLibrary", settings={"speed": float, "network": object})
    fmi.register(toy)
    fmi.register(toy)  # the same once more changes nothing
    configuration = fmi.Configuration({"backends": {"ToyOfTheLibrary": {"speed": "2"}}})
    assert configuration.backends == {"ToyOfTheLibrary": {"speed": 2.0}}
    with fmi.Communicator(0, 1, configuration, "toy") as comm:
        assert [estimate.channel for estimate in comm.explain("barrier")] == ["ToyOfTheLibrary"]
    with pytest.raises(fmi.FmiConfigError, match=r"unknown key ToyOfTheLibrary\.sped"):
        fmi.Configuration({"backends": {"ToyOfTheLibrary": {"sped": 2}}})
    with pytest.raises(fmi.FmiConfigError, match="registered already"):
        fmi.register(memory._replace(costs={}))
    with pytest.raises(fmi.FmiConfigError, match=r"unknown backend.*Direct, Memory, Redis, S3"):
        fmi.Configuration({"backends": {"Pigeons": {}}})
