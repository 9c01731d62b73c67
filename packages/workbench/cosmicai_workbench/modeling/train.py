"""Training of an AstroMAE on painted galaxies: seeded, resumable, evaluated on unseen parents.

Every epoch sees each survey row of the train split once and as many resampled galaxies, all
painted anew. Everything random in an epoch comes from the seed and the epoch's number, so a run
that was interrupted and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import json
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import cosmicai
import numpy as np
import torch
from cosmicai.errors import InvalidInput
from cosmicai.model.astromae import AstroMAE
from cosmicai.model.bundle import save_bundle
from cosmicai.model.config import ModelConfig
from cosmicai.whole_files import whole_file
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cosmicai_workbench.data.files import whole_text_file
from cosmicai_workbench.data.photometry import concatenate, load_split
from cosmicai_workbench.data.resampling import Resampler
from cosmicai_workbench.data.synthesis import paint_galaxies, synthesize
from cosmicai_workbench.modeling.evaluation import HELD_OUT, evaluate
from cosmicai_workbench.modeling.normalisation import Normalisation, fold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cosmicai.schema import Quality
    from torch import Tensor

    from cosmicai_workbench.data.photometry import Photometry

CHECKPOINT_NAME = "checkpoint.pt"
TRAINING_NAME = "training.json"

SMALL_MODEL = ModelConfig(
    depth=2,
    width=64,
    heads=4,
    mlp_width=128,
    conv_width=128,
    branch_width=128,
    magnitude_width=256,
    head_width=128,
    stem_width=16,
    inception_widths=(8, 8, 8, 8, 4),
)
"""The architecture of the model that ships."""

_REDSHIFT_SCALE = 0.05
"""About the scatter of the redshifts: the loss is on residuals in this unit."""


class TrainingConfig(BaseModel):
    """Everything that decides the trained weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig = SMALL_MODEL
    seed: NonNegativeInt = 0
    epochs: PositiveInt = 20
    resampled: NonNegativeInt = Field(
        default=7500, description="Resampled galaxies in an epoch, beside every survey row."
    )
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 2e-3
    weight_decay: float = Field(default=0.01, ge=0)
    average: float = Field(
        default=0.995, ge=0, lt=1, description="Decay, a step, of the averaged weights."
    )


def batches_per_epoch(config: TrainingConfig) -> int:
    """Return the number of whole batches in an epoch.

    Raises
    ------
    InvalidInput
        There is none.
    """
    galaxies = len(load_split("train")) + config.resampled
    if galaxies < config.batch_size:
        raise InvalidInput(
            f"batch_size {config.batch_size} is above the {galaxies} galaxies of an epoch"
        )
    return galaxies // config.batch_size


class Trainer:
    """A training run, at the start of an epoch.

    Parameters
    ----------
    config
        What to train and how.
    """

    def __init__(self, config: TrainingConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self._originals = load_split("train")
        self._resampler = Resampler(self._originals) if config.resampled else None
        self._normalisation = self._fit_normalisation()
        # Channels last: the small convolutions train a third faster on a CPU.
        self._model = AstroMAE(config.model)
        self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in torch's docs, not in its stubs
        _initialise(self._model)
        self._average = AveragedModel(
            self._model,
            multi_avg_fn=get_ema_multi_avg_fn(config.average),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )
        self._optimiser = torch.optim.AdamW(
            self._model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.batches_per_epoch = batches_per_epoch(config)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser,
            max_lr=config.learning_rate,
            total_steps=config.epochs * self.batches_per_epoch,
            pct_start=0.1,
        )
        self.epoch = 0
        self.losses: list[float] = []

    def run_epoch(self, on_batch: Callable[[int], None] = lambda _: None) -> None:
        """Train for one epoch; ``on_batch`` is called after each batch with 1."""
        self._model.train()
        total = 0.0
        for image, magnitude, redshift in self._batches():
            predicted = self._model(image, magnitude)[:, 0]
            residual = (predicted - redshift) / _REDSHIFT_SCALE
            loss = functional.smooth_l1_loss(residual, torch.zeros_like(residual), beta=0.1)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimiser.step()
            self._schedule.step()
            self._average.update_parameters(self._model)
            total += float(loss.detach())
            on_batch(1)
        self.epoch += 1
        self.losses.append(total / self.batches_per_epoch)

    def model(self) -> AstroMAE:
        """Return the averaged model, taking raw inputs."""
        module = AstroMAE(self.config.model)
        module.load_state_dict(self._average.module.state_dict())
        fold(module, self._normalisation)
        return module.eval()

    def save(self, path: Path) -> None:
        """Write the state of the run; whole or not at all."""
        state = {
            "config": self.config.model_dump_json(),
            "epoch": self.epoch,
            "losses": self.losses,
            "model": self._model.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        with whole_file(path) as partial:
            torch.save(state, partial)

    def load(self, path: Path) -> None:
        """Go on from a saved state.

        Raises
        ------
        InvalidInput
            The state cannot be read, or is of a run with another configuration.
        """
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
        except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
            raise InvalidInput(f"{path} is no saved training state: {error}") from error
        theirs = TrainingConfig.model_validate_json(state["config"])
        if theirs != self.config:
            ours = self.config.model_dump()
            differing = [key for key, value in theirs.model_dump().items() if ours[key] != value]
            raise InvalidInput(
                f"{path} belongs to a run with other settings ({', '.join(differing)}); "
                "resume with the settings it began with, or train into another folder"
            )
        self._model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self.epoch, self.losses = state["epoch"], state["losses"]

    def _rng(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, 1, epoch))

    def _fit_normalisation(self) -> Normalisation:
        rng = self._rng(0)
        some = rng.choice(len(self._originals), 1000, replace=False)
        return Normalisation.fit(
            paint_galaxies(self._originals[some], rng).image, self._originals.magnitude
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the galaxies of this epoch, shuffled, normalised, painted as they are needed."""
        rng = self._rng(1 + self.epoch)
        photometry: Photometry = self._originals
        if self._resampler:
            photometry = concatenate(photometry, self._resampler.draw(self.config.resampled, rng))
        order = rng.permutation(len(photometry))
        for batch in range(self.batches_per_epoch):
            rows = order[batch * self.config.batch_size :][: self.config.batch_size]
            galaxies = paint_galaxies(photometry[rows], rng)
            image = self._normalisation.image(galaxies.image)
            yield (
                torch.from_numpy(image).contiguous(memory_format=torch.channels_last),
                torch.from_numpy(self._normalisation.magnitude(galaxies.magnitude)),
                torch.from_numpy(galaxies.redshift),
            )


def _initialise(model: AstroMAE) -> None:
    """Keep the signal's size through the ReLU layers, and start at the mean redshift."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    state = model.state_dict()
    nn.init.normal_(state["concat_block.2.weight"], std=1e-3)
    nn.init.constant_(state["concat_block.2.bias"], 0.1)


def train(
    config: TrainingConfig,
    folder: Path,
    *,
    resume: bool = False,
    threads: int = 1,
    on_start: Callable[[Trainer], None] = lambda _: None,
    on_epoch: Callable[[Trainer], None] = lambda _: None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Quality:
    """Train a model, write it as a bundle, and measure it on held-out galaxies.

    Parameters
    ----------
    config
        What to train and how.
    folder
        Receives the bundle and ``training.json`` (settings, losses, figures); ``checkpoint.pt``
        while the run lasts.
    resume
        Go on from the checkpoint in ``folder``.
    threads
        CPU threads. The weights are the same to the bit for the same number of threads only.
    on_start, on_epoch
        Called with the run before its first epoch, and after each.
    on_batch
        Called after each batch with the number of batches, one.

    Returns
    -------
    Quality
        Figures on ``HELD_OUT`` galaxies of the test split.

    Raises
    ------
    InvalidInput
        ``folder`` holds an unfinished run and ``resume`` is not set, or the other way round, or
        the unfinished run has other settings.
    """
    checkpoint = folder / CHECKPOINT_NAME
    if checkpoint.exists() != resume:
        raise InvalidInput(
            f"{folder} holds an unfinished run: pass --resume, or remove {CHECKPOINT_NAME}"
            if checkpoint.exists()
            else f"nothing to resume: {checkpoint} does not exist"
        )
    torch.set_num_threads(threads)
    trainer = Trainer(config)
    if resume:
        trainer.load(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    on_start(trainer)
    while trainer.epoch < config.epochs:
        trainer.run_epoch(on_batch)
        trainer.save(checkpoint)
        on_epoch(trainer)
    save_bundle(trainer.model(), folder)
    quality = evaluate(folder, synthesize(HELD_OUT, "test", config.seed), threads=threads)
    record = {
        "made_by": f"cosmicai {cosmicai.__version__}, torch {torch.__version__}",
        "config": config.model_dump(mode="json"),
        "losses": [round(loss, 5) for loss in trainer.losses],
        "held_out": quality.model_dump(mode="json"),
    }
    with whole_text_file(folder / TRAINING_NAME) as file:
        file.write(json.dumps(record, indent=2) + "\n")
    checkpoint.unlink()
    return quality
