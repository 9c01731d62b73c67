"""Training: normalisation folds exactly; runs repeat, resume, and refuse to mix."""

import json
from pathlib import Path

import numpy as np
import pytest
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.synthesis import synthesize

TINY = {
    "resampled": 0,
    "batch_size": 3000,
    "refinement": {"epochs": 2},
    "model": {
        "depth": 1,
        "width": 8,
        "heads": 2,
        "mlp_width": 8,
        "conv_width": 8,
        "branch_width": 8,
        "magnitude_width": 8,
        "head_width": 8,
        "stem_width": 2,
        "inception_widths": [1, 1, 1, 1, 1],
        "output": {"kind": "mixture", "components": 2},
    },
}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def test_fold_gives_the_model_that_takes_raw_inputs() -> None:
    import torch
    from cosmicai.model.astromae import AstroMAE
    from cosmicai_workbench.modeling.normalisation import Normalisation, fold
    from cosmicai_workbench.modeling.train import SMALL_MODEL

    galaxies = next(synthesize(200, "train", 0))
    normalisation = Normalisation.fit(galaxies.image, galaxies.magnitude.astype(np.float64))
    whitened = normalisation.magnitude(galaxies.magnitude)
    np.testing.assert_allclose(whitened.std(axis=0), 1, atol=0.05)
    torch.manual_seed(0)
    module = AstroMAE(SMALL_MODEL).eval()
    with torch.inference_mode():
        expected = module(
            torch.from_numpy(normalisation.image(galaxies.image)), torch.from_numpy(whitened)
        )
        fold(module, normalisation)
        raw = module(torch.from_numpy(galaxies.image), torch.from_numpy(galaxies.magnitude))
    torch.testing.assert_close(raw, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", [("training", 1), ("refining", 1), ("refining on everything", 1)]
)
def test_interrupted_run_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path,
    settings: Path,
    moment: tuple[str, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from cosmicai_workbench.modeling.train import (
        CHECKPOINT_NAME,
        PHASES,
        Trainer,
        TrainingConfig,
        train,
    )

    class Interrupted(Exception):
        pass

    def interrupt(trainer: Trainer) -> None:
        if (PHASES[trainer.phase], trainer.epoch) == moment:
            raise Interrupted

    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    command = ["model", "train", "--config", str(settings), "--epochs", "3"]
    assert main([*command, str(unbroken)]) == 0

    config = TrainingConfig.model_validate({**TINY, "epochs": 3})
    with pytest.raises(Interrupted):
        train(config, broken, on_epoch=interrupt)
    assert (broken / CHECKPOINT_NAME).exists()
    capsys.readouterr()
    assert main([*command, str(broken)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--seed", "1", "--resume", str(broken)]) == 2
    assert "seed" in capsys.readouterr().err
    assert main([*command, "--resume", str(broken)]) == 0

    name = "model.safetensors"
    assert (broken / name).read_bytes() == (unbroken / name).read_bytes()
    assert not (broken / CHECKPOINT_NAME).exists()
    record = json.loads((broken / "training.json").read_text())
    training, refining, everything = record["phases"]
    assert (len(training["losses"]), len(refining["losses"])) == (3, 2)
    for phase in (training, refining):
        scores = phase["validation_crps"]
        assert phase["best_epoch"] == scores.index(min(scores)) + 1
    assert len(everything["losses"]) == refining["best_epoch"]
    assert "validation_crps" not in everything
    assert record["held_out"]["num_distributions"] == 2000
    redshift = json.loads((broken / "config.json").read_text())["training"]["redshift"]
    assert 0.01 < redshift[0] < redshift[1] < 0.4
    assert record["held_out"]["num_galaxies"] == 2000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"epoch": 3}', "epoch"),
        ('{"model": {"width": 10, "heads": 3}}', "heads"),
        ("[1]", "object"),
        ("{", "not JSON"),
        ('{"batch_size": 1000000}', "batch_size"),
    ],
)
def test_bad_settings_are_named(
    tmp_path: Path, content: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    assert main(["model", "train", "--config", str(path), str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_damaged_state_is_named(
    tmp_path: Path, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK damaged")
    command = ["model", "train", "--config", str(settings), "--resume", str(tmp_path)]
    assert main(command) == 2
    assert "not a saved training state" in capsys.readouterr().err


def test_nothing_to_resume_is_said(
    tmp_path: Path, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["model", "train", "--config", str(settings), "--resume", str(tmp_path / "none")]
    assert main(command) == 2
    assert "nothing to resume" in capsys.readouterr().err
