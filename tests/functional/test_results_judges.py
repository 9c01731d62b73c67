"""Others' programs on our catalogues: RAIL gives our scores, LSDB finds our galaxies.

They are installed into an environment of their own (two minutes), or taken from the Python that
the variable COSMICAI_JUDGES names.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cosmicai.quality import figures, statistics_of
from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.data.synthesis import synthesize
from cosmicai_workbench.predicting import predict
from cosmicai_workbench.results.export import export
from cosmicai_workbench.results.formats import hats
from skies import RANKS, run_with

JUDGES = Path(__file__).parents[1] / "judges"
SAMPLES = 250

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """Return what runs one of the scripts and reads what it prints."""
    python = os.environ.get("COSMICAI_JUDGES")
    folder = tmp_path_factory.mktemp("judges")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    if not python:
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = str(folder / "venv/bin/python")
        words = [python, "-m", "pip", "install", "-q", "-r", JUDGES / "requirements.txt"]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        if done.returncode:
            pytest.skip(f"RAIL and LSDB cannot be installed: {done.stderr[-300:]}")

    def run(script, *words):
        done = subprocess.run(
            [python, JUDGES / script, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize("kind", ["pdf", "normal", "quantiles", "mixture"])
def test_rail_gives_our_scores(judge, tmp_path, kind):
    run = run_with(tmp_path, kind, samples=SAMPLES, point="mode")
    export(run, tmp_path / "pz.hdf5", "qp")
    theirs = judge("rail_scores.py", tmp_path / "pz.hdf5")
    found = run.predictions_of(range(RANKS), distributions=True)
    distributions = {"pdf": found.raw, "output": np.array(found.output.model_dump_json())}
    ours = figures(statistics_of(dict(found.stored) | distributions))
    assert theirs["galaxies"] == ours.num_galaxies == RANKS * SAMPLES - 2
    assert theirs["PIT_KS_stat"] == pytest.approx(ours.pit_ks, abs=1e-3)
    assert theirs["PIT_CvM_stat"] == pytest.approx(ours.pit_cvm, abs=1e-3, rel=1e-3)
    assert theirs["CDE_stat"] == pytest.approx(ours.cde_loss, rel=1e-3)
    assert theirs["POINT_SigmaMAD"] == pytest.approx(ours.nmad, abs=1e-3)
    # RAIL's mode of a histogram is the lower edge of a bin, ours its middle.
    mode = found.redshift - (found.output.width / 2 if kind == "pdf" else 0)
    error = (mode - found.true_redshift) / (1 + found.true_redshift)
    assert theirs["POINT_Bias"] == pytest.approx(np.nanmedian(error), abs=1e-3)


def test_rail_gives_the_scores_of_the_shipped_model(judge, tmp_path):
    galaxies = next(iter(synthesize(256, "test", 0)))
    write_partition(tmp_path / "1.pt", galaxies, {})
    run = predict([tmp_path / "1.pt"], SMALL_MODEL, output=tmp_path / "run")
    export(run, tmp_path / "pz.hdf5", "qp")
    theirs, ours = judge("rail_scores.py", tmp_path / "pz.hdf5"), run.summary.quality
    assert theirs["galaxies"] == ours.num_galaxies == 256
    assert theirs["PIT_KS_stat"] == pytest.approx(ours.pit_ks, abs=1e-3)
    assert theirs["PIT_CvM_stat"] == pytest.approx(ours.pit_cvm, abs=1e-3)
    assert theirs["CDE_stat"] == pytest.approx(ours.cde_loss, rel=1e-3)


def test_lsdb_finds_our_galaxies(judge, tmp_path, monkeypatch):
    monkeypatch.setattr(hats, "MAX_ROWS", 20)
    run = run_with(tmp_path, samples=SAMPLES)
    export(run, tmp_path / "sky", "hats")
    export(run, tmp_path / "all.parquet", "parquet")
    import pandas as pd

    mine = pd.read_parquet(tmp_path / "all.parquet", columns=["object_id", "ra", "dec"])
    mine.iloc[100:400].to_parquet(tmp_path / "mine.parquet")
    found = judge("lsdb_search.py", tmp_path / "sky", tmp_path / "mine.parquet")
    assert found == {
        "valid": True,
        "rows": RANKS * SAMPLES,
        "cone": [100],
        "matched": 300,
        "same": True,
    }
