"""The model that ships: small, as good as its card says, on galaxies it has never seen."""

import json
import re
from pathlib import Path

import pytest
from cosmicai.model.bundle import Bundle
from cosmicai_workbench.cli.main import main

MODEL = Path(__file__).parents[2] / "models" / "astromae-small"


def test_held_out_figures_pass_the_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "evaluate", str(MODEL), "--json"]) == 0
    quality = json.loads(capsys.readouterr().out)
    assert quality["num_galaxies"] == 2000
    assert quality["r2"] >= 0.85
    assert quality["nmad"] <= 0.016
    recorded = json.loads((MODEL / "training.json").read_text())["held_out"]
    for name in ("r2", "nmad", "mae", "bias", "outlier_fraction"):
        assert quality[name] == pytest.approx(recorded[name], abs=1e-4), name


def test_bundle_is_small_and_its_card_tells_its_figures() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 8 * 2**20
    card = (MODEL / "README.md").read_text()
    record = json.loads((MODEL / "training.json").read_text())
    for label, name in (
        ("R²", "r2"),
        ("NMAD", "nmad"),
        ("MAE", "mae"),
        ("bias", "bias"),
        ("outliers", "outlier_fraction"),
    ):
        row = re.search(rf"^\| {label}[^|]*\| ([-0-9.]+)", card, re.MULTILINE)
        assert row, label
        assert float(row[1]) == pytest.approx(record["held_out"][name], abs=6e-5), label
    assert Bundle(MODEL).digest in card


def test_the_cards_command_trains_with_the_settings_that_were_used() -> None:
    from cosmicai_workbench.modeling.train import TrainingConfig

    record = json.loads((MODEL / "training.json").read_text())
    assert TrainingConfig.model_validate(record["config"]) == TrainingConfig()
    assert len(record["losses"]) == TrainingConfig().epochs
