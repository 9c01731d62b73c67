"""The model that ships: small, as good as its card says, on galaxies it has never seen."""

import json
import re
from pathlib import Path

import pytest
from cosmicai.model.bundle import Bundle
from cosmicai_workbench.cli.main import main

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "astromae-small"
CASES = ("model", "blank_images", "mean_magnitudes", "forest")
"""The columns of the card's table."""


def test_held_out_figures_pass_the_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "evaluate", str(MODEL), "--json"]) == 0
    quality = json.loads(capsys.readouterr().out)
    assert quality["num_galaxies"] == 2000
    assert quality["r2"] >= 0.85
    assert quality["nmad"] <= 0.016
    assert quality["num_distributions"] == 2000
    recorded = json.loads((MODEL / "training.json").read_text())["held_out"]
    names = ("r2", "nmad", "mae", "bias", "outlier_fraction", "pit_ks", "crps")
    for name in (*names, "coverage_68", "coverage_95"):
        assert quality[name] == pytest.approx(recorded[name], abs=1e-3), name


def test_bundle_is_small_and_its_card_tells_its_figures() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 8 * 2**20
    card = (MODEL / "README.md").read_text()
    record = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())
    for label, name in (
        ("R²", "r2"),
        ("NMAD", "nmad"),
        ("MAE", "mae"),
        ("bias", "bias"),
        ("outliers", "outlier_fraction"),
        ("CRPS", "crps"),
        ("PIT", "pit_ks"),
        ("coverage at 68 %", "coverage_68"),
        ("coverage at 95 %", "coverage_95"),
        ("half the 68 % interval", "half_width_68"),
    ):
        row = re.search(rf"^\| {label}[^|]*\|(.*)\|$", card, re.MULTILINE)
        assert row, label
        found = [float(figure) for figure in row[1].split("|")]
        expected = [record[case][name] for case in CASES]
        assert found == pytest.approx(expected, abs=6e-5), label
    assert record["bundle"] == Bundle(MODEL).digest
    assert record["bundle"] in card


def test_the_docs_say_what_the_images_add() -> None:
    record = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())
    text = (ROOT / "docs/data.md").read_text()
    found = re.search(
        r"NMAD is (0\.\d+) with images and (0\.\d+) with blank ones;.*?has (0\.\d+)",
        text,
        re.DOTALL,
    )
    assert found
    cases = ("model", "blank_images", "forest")
    expected = [record[case]["nmad"] for case in cases]
    assert [float(figure) for figure in found.groups()] == pytest.approx(expected, abs=6e-5)


def test_the_card_and_the_product_agree_on_the_figures() -> None:
    """Benchmarks compute them by SciPy on a grid, `model train` by the product's own code."""
    independent = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())["model"]
    recorded = json.loads((MODEL / "training.json").read_text())["held_out"]
    for name in ("r2", "nmad", "mae", "bias", "outlier_fraction", "crps", "pit_ks"):
        assert independent[name] == pytest.approx(recorded[name], abs=6e-4), name
    for name in ("coverage_68", "coverage_95"):
        assert independent[name] == pytest.approx(recorded[name], abs=1.1e-3), name


def test_the_cards_command_trains_with_the_settings_that_were_used() -> None:
    from cosmicai_workbench.modeling.train import TrainingConfig

    record = json.loads((MODEL / "training.json").read_text())
    assert TrainingConfig.model_validate(record["config"]) == TrainingConfig()
    assert [len(phase["losses"]) for phase in record["phases"]] == [
        TrainingConfig().epochs,
        TrainingConfig().refinement.epochs,
        record["phases"][1]["best_epoch"],
    ]
