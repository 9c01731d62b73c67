"""The three packages as wheels, installed in fresh environments outside any checkout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fmilib", "cosmicai", "workbench")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command: str | Path, cwd: Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run a command outside the checkout, with nothing of this environment on its path."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=kept, text=True, capture_output=True
    )
    assert not check or done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run(*pip, "-w", folder, *(ROOT / "packages" / name for name in PACKAGES), cwd=folder)
    # The versions that we test, without the hashes: the wheels of this checkout have none.
    pins = re.findall(r"^[\w.-]+==[^\s;]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    (folder / "constraints.txt").write_text("\n".join(pins) + "\n")
    return folder


class Environment:
    """A fresh virtual environment, and an empty folder to work in."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.work, self._bin, self._wheels = folder / "work", folder / "venv" / "bin", wheels
        self.work.mkdir()
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)

    def install(self, *requirements: str) -> None:
        options = ["-q", "--find-links", self._wheels, "-c", self._wheels / "constraints.txt"]
        run(self._bin / "pip", "install", *options, *requirements, cwd=self.work)

    def libraries(self) -> set[str]:
        listed = run(self._bin / "pip", "list", "--format=json", cwd=self.work)
        return {row["name"].lower() for row in json.loads(listed.stdout)} - {"pip", "setuptools"}

    def python(self, program: str) -> str:
        return run(self._bin / "python", "-c", program, cwd=self.work).stdout

    def cosmicai(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return run(self._bin / "cosmicai", *words, cwd=self.work, check=check)


@pytest.fixture
def fresh(tmp_path: Path, wheels: Path) -> Environment:
    return Environment(tmp_path, wheels)


def test_a_source_archive_gives_the_same_wheel(wheels: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path]
    run(*build, cwd=ROOT / "packages" / "workbench")
    (archive,) = tmp_path.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run(*pip, "-w", tmp_path / "wheel", archive, cwd=tmp_path)
    names = []
    for folder in (wheels, tmp_path / "wheel"):
        (wheel,) = folder.glob("cosmicai_workbench-*.whl")
        names.append(sorted(ZipFile(wheel).namelist()))
    assert names[0] == names[1]
    assert "cosmicai_workbench/packaged/template.yaml" in names[0]


def test_fmilib_needs_numpy_alone(fresh: Environment) -> None:
    fresh.install("fmilib")
    assert fresh.libraries() == {"fmilib", "numpy"}
    assert "site-packages" in fresh.python("import fmilib; print(fmilib.__file__)")


def test_the_core_predicts_with_an_engine_and_little_else(fresh: Environment) -> None:
    fresh.install("cosmicai[openvino]")
    assert not fresh.libraries() & {"torch", "moto", "astropy", "pandas", "typer", "aws-sam-cli"}
    fresh.python(
        f"""
import cosmicai
import numpy as np

model = cosmicai.open_model({str(ROOT / "models" / "astromae-small")!r}, engine="openvino")
found = model.predict(np.ones((3, 5, 32, 32), np.float32), np.full((3, 5), 17.0, np.float32))
assert found.redshift.shape == (3,) and np.isfinite(found.redshift).all(), found.redshift
assert (found["z_lo68"] < found["z_hi68"]).all()
"""
    )


def test_the_workbench_names_the_extra_it_lacks_and_then_runs_the_demo(fresh: Environment) -> None:
    fresh.install("cosmicai-workbench")
    assert not fresh.libraries() & {"torch", "moto", "astropy", "openvino", "aws-sam-cli"}
    refused = fresh.cosmicai("demo", check=False)
    assert refused.returncode == 2
    assert "pip install 'cosmicai-workbench[data]'" in refused.stderr
    assert "Traceback" not in refused.stderr

    fresh.install("cosmicai-workbench[local,data]")
    assert "torch" not in fresh.libraries()
    fresh.cosmicai("demo")
    summary = json.loads((fresh.work / "runs" / "latest" / "summary.json").read_text())
    assert summary["status"] == "SUCCEEDED"
    assert summary["num_samples"] == 2500
    assert (fresh.work / "runs" / "latest" / "redshifts.png").is_file()
    assert "executions to do" in fresh.cosmicai("sweep", "quick", "--local", "--dry-run").stdout
