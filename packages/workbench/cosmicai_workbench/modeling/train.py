"""Training of an AstroMAE on painted galaxies: seeded, resumable, evaluated on unseen parents.

Every epoch sees each survey row that there is to learn from once and as many resampled galaxies,
all newly painted. Everything random in an epoch comes from the seed and the epoch's number, so a
run that was interrupted and resumed ends with the same weights as one that was not.

Validation galaxies, whose survey rows training never sees, decide which epoch is kept and how wide
its distributions are. The test split is looked at once, when all is decided.
"""

from __future__ import annotations

import json
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, TypedDict

import cosmicai
import numpy as np
import torch
from cosmicai.errors import InvalidInput
from cosmicai.model.astromae import AstroMAE
from cosmicai.model.bundle import save_bundle
from cosmicai.model.config import ModelConfig
from cosmicai.model.interface import MixtureOutput
from cosmicai.whole_files import whole_file
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cosmicai_workbench.data.photometry import concatenate, jittered, load_split, load_training
from cosmicai_workbench.data.resampling import Resampler
from cosmicai_workbench.data.synthesis import paint_galaxies, synthesize
from cosmicai_workbench.files import whole_text_file
from cosmicai_workbench.modeling.evaluation import HELD_OUT, evaluate
from cosmicai_workbench.modeling.normalisation import Normalisation, fold
from cosmicai_workbench.modeling.objectives import objective_for
from cosmicai_workbench.modeling.ranges import ranges_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cosmicai.model.interface import Training
    from cosmicai.schema import Quality
    from torch import Tensor

    from cosmicai_workbench.data.photometry import Photometry
    from cosmicai_workbench.data.synthesis import Galaxies

State = dict[str, torch.Tensor]

CHECKPOINT_NAME = "checkpoint.pt"
TRAINING_NAME = "training.json"
TRAINING_SET = "painted galaxies of the SDSS main galaxy sample, train split"

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
    output=MixtureOutput(components=4),
)
"""The architecture of the model that ships."""


class PhaseRecord(TypedDict):
    """What was measured in one phase, epoch by epoch."""

    phase: str
    losses: list[float]
    scores: list[float]
    """Mean CRPS of the averaged model on the validation galaxies."""


class Cycle(BaseModel):
    """What one cycle of the learning rate, up and down to zero, goes by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: PositiveInt
    learning_rate: PositiveFloat
    crps: float = Field(ge=0, description="Weight of the CRPS, for distributions.")
    likelihood: float = Field(
        ge=0, description="Weight of the negative log likelihood, for distributions."
    )
    jitter: float = Field(
        ge=0, description="Noise added to fluxes, in units of their standard errors."
    )


class Refinement(Cycle):
    """A short second cycle, from the best weights of the first.

    Its galaxies' fluxes are noisier, and its loss is nearly the CRPS alone: it forgets what the
    first cycle learned by heart. Once validation has judged it, it is repeated on the whole train
    split, for as many epochs as validation chose.
    """

    epochs: PositiveInt = 4
    learning_rate: PositiveFloat = 1e-3
    crps: float = Field(default=1.0, ge=0)
    likelihood: float = Field(default=0.02, ge=0)
    jitter: float = Field(default=0.5, ge=0)


class TrainingConfig(Cycle):
    """Everything that decides the trained weights."""

    model: ModelConfig = SMALL_MODEL
    seed: NonNegativeInt = 0
    epochs: PositiveInt = 20
    resampled: NonNegativeInt = Field(
        default=7500, description="Resampled galaxies in an epoch, beside every survey row."
    )
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 2e-3
    crps: float = Field(default=5.0, ge=0)
    likelihood: float = Field(default=1.0, ge=0)
    jitter: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    average: float = Field(
        default=0.995, ge=0, lt=1, description="Decay, a step, of the averaged weights."
    )
    refinement: Refinement | None = Refinement()


PHASES = ("training", "refining", "refining on everything")
"""The cycles of a run: the first, the refinement, and its repetition on the whole train split."""


def total_batches(config: TrainingConfig) -> int:
    """Return the number of batches of a run.

    Raises
    ------
    InvalidInput
        There is not one whole batch.
    """
    learned, validated = map(len, load_training())
    galaxies = learned + config.resampled
    if galaxies < config.batch_size:
        raise InvalidInput(
            f"batch_size {config.batch_size} is above the {galaxies} galaxies of an epoch"
        )
    first, again = (count // config.batch_size for count in (galaxies, galaxies + validated))
    refinement = config.refinement.epochs if config.refinement else 0
    return first * config.epochs + (first + again) * refinement


class Trainer:
    """One cycle of a training run, at the start of an epoch.

    Parameters
    ----------
    config
        What to train and how.
    phase
        Which cycle: an index of ``PHASES``.
    start
        The weights it starts from; at random where there are none.
    width_factor
        Of the last phase: what validation found in the one before.
    """

    def __init__(
        self,
        config: TrainingConfig,
        phase: int = 0,
        start: State | None = None,
        width_factor: float | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.phase = config, phase
        self.cycle: Cycle = config.refinement if phase and config.refinement else config
        self._objective = objective_for(config.model.output, self.cycle.crps, self.cycle.likelihood)
        self._start, self._width_factor = start, width_factor
        self._originals, validation = load_training()
        self._normalisation = self._fit_normalisation()
        self._validation = self._inputs(paint_galaxies(validation, self._rng(0, stream=2)))
        if self._is_last:
            self._originals = concatenate(self._originals, validation)
        self._resampler = Resampler(self._originals) if config.resampled else None
        # Channels last: the small convolutions train a third faster on a CPU.
        self._model = AstroMAE(config.model)
        self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in torch's docs, not in its stubs
        if start is None:
            _initialise(self._model)
            self._objective.initialise(_last_layer(self._model))
        else:
            self._model.load_state_dict(start)
        self._average = AveragedModel(
            self._model,
            multi_avg_fn=get_ema_multi_avg_fn(config.average),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )
        self._optimiser = torch.optim.AdamW(
            self._model.parameters(), lr=self.cycle.learning_rate, weight_decay=config.weight_decay
        )
        self.batches_per_epoch = (len(self._originals) + config.resampled) // config.batch_size
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser,
            max_lr=self.cycle.learning_rate,
            total_steps=self.cycle.epochs * self.batches_per_epoch,
            pct_start=0.1,
        )
        self.epoch = 0
        self.history: list[PhaseRecord] = [PhaseRecord(phase=PHASES[phase], losses=[], scores=[])]
        """What was measured in this phase and those before it."""
        self._best: State = {}

    @property
    def _is_last(self) -> bool:
        return self._width_factor is not None

    @property
    def batches_done(self) -> int:
        """Batches of the whole run so far."""
        before = sum(len(phase["losses"]) for phase in self.history[:-1])
        first = (len(load_training()[0]) + self.config.resampled) // self.config.batch_size
        return before * first + self.epoch * self.batches_per_epoch

    @property
    def is_done(self) -> bool:
        """Whether the phase has had its epochs; the last has those that validation chose."""
        chosen = best_epoch(self.history[-2]) if self._is_last else self.cycle.epochs
        return self.epoch >= chosen

    def run_epoch(self, on_batch: Callable[[int], None] = lambda _: None) -> None:
        """Train for one epoch; ``on_batch`` is called after each batch with 1."""
        self._model.train()
        total = 0.0
        for image, magnitude, redshift in self._batches():
            loss = self._objective.loss(self._model(image, magnitude), redshift)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimiser.step()
            self._schedule.step()
            self._average.update_parameters(self._model)
            total += float(loss.detach())
            on_batch(1)
        self.epoch += 1
        record = self.history[-1]
        record["losses"].append(total / self.batches_per_epoch)
        state = self._average.module.state_dict()
        if not self._is_last:  # which learns from the validation galaxies, too
            scores = self._objective.score(self._validation_outputs(state), self._validation[2])
            record["scores"].append(float(scores.mean()))
        if self._is_last or record["scores"][-1] == min(record["scores"]):
            self._best = {name: tensor.clone() for name, tensor in state.items()}

    def _validation_outputs(self, state: State) -> Tensor:
        module = AstroMAE(self.config.model).eval()
        module.load_state_dict(state)
        image, magnitude, _ = self._validation
        with torch.inference_mode():
            parts = zip(torch.split(image, 256), torch.split(magnitude, 256), strict=True)
            return torch.cat([module(*part) for part in parts])

    def next_phase(self) -> Trainer | None:
        """Return what follows this phase, which is done, or None."""
        if self.config.refinement is None or self._is_last:
            return None
        start = self._best if self.phase == 0 else self._start
        factor = None if self.phase == 0 else self.width_factor()
        trainer = Trainer(self.config, self.phase + 1, start, factor)
        trainer.history = [*self.history, *trainer.history]
        return trainer

    def width_factor(self) -> float:
        """Return by how much validation widens the distributions of the best epoch."""
        if self._width_factor is not None:
            return self._width_factor
        return self._objective.width_factor(
            self._validation_outputs(self._best), self._validation[2]
        )

    def model(self) -> AstroMAE:
        """Return the averaged model of the best epoch, taking raw inputs."""
        module = AstroMAE(self.config.model)
        module.load_state_dict(self._best)
        fold(module, self._normalisation)
        self._objective.fold(_last_layer(module), self.width_factor())
        return module.eval()

    def save(self, path: Path) -> None:
        """Write the state of the run; whole or not at all."""
        state = {
            "config": self.config.model_dump_json(),
            "phase": self.phase,
            "start": self._start,
            "width_factor": self._width_factor,
            "epoch": self.epoch,
            "history": self.history,
            "best": self._best,
            "model": self._model.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        with whole_file(path) as partial:
            torch.save(state, partial)

    @classmethod
    def load(cls, config: TrainingConfig, path: Path) -> Trainer:
        """Return the run with these settings whose state was saved.

        Raises
        ------
        InvalidInput
            The state cannot be read, or is of a run with another configuration.
        """
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
        except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
            raise InvalidInput(f"{path} is not a saved training state: {error}") from error
        if "phase" not in state:
            raise InvalidInput(f"{path} is of a run of an earlier version; train from the start")
        theirs = TrainingConfig.model_validate_json(state["config"])
        if theirs != config:
            ours = config.model_dump()
            differing = [key for key, value in theirs.model_dump().items() if ours[key] != value]
            raise InvalidInput(
                f"{path} belongs to a run with other settings ({', '.join(differing)}); "
                "resume with the settings it began with, or train into another folder"
            )
        trainer = cls(config, state["phase"], state["start"], state["width_factor"])
        trainer._model.load_state_dict(state["model"])
        trainer._average.load_state_dict(state["average"])
        trainer._optimiser.load_state_dict(state["optimiser"])
        trainer._schedule.load_state_dict(state["schedule"])
        trainer.epoch, trainer.history = state["epoch"], state["history"]
        trainer._best = state["best"]
        return trainer

    def _rng(self, epoch: int, stream: int = 1) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, stream, epoch))

    def _fit_normalisation(self) -> Normalisation:
        rng = self._rng(0)
        some = rng.choice(len(self._originals), 1000, replace=False)
        return Normalisation.fit(
            paint_galaxies(self._originals[some], rng).image, self._originals.magnitude
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the galaxies of this epoch, shuffled, normalised, painted as they are needed."""
        before = self.config.epochs if self.phase else 0
        rng = self._rng(1 + before + self.epoch)
        photometry: Photometry = self._originals
        if self._resampler:
            photometry = concatenate(photometry, self._resampler.draw(self.config.resampled, rng))
        order = rng.permutation(len(photometry))
        for batch in range(self.batches_per_epoch):
            rows = order[batch * self.config.batch_size :][: self.config.batch_size]
            chosen = photometry[rows]
            if self.cycle.jitter:
                chosen = jittered(chosen, self.cycle.jitter, rng)
            yield self._inputs(paint_galaxies(chosen, rng))

    def _inputs(self, galaxies: Galaxies) -> tuple[Tensor, Tensor, Tensor]:
        """Return images and magnitudes, normalised, and redshifts."""
        image = self._normalisation.image(galaxies.image)
        return (
            torch.from_numpy(image).contiguous(memory_format=torch.channels_last),
            torch.from_numpy(self._normalisation.magnitude(galaxies.magnitude)),
            torch.from_numpy(galaxies.redshift),
        )


def best_epoch(record: PhaseRecord) -> int:
    """Return the epoch that validation chose, counted from 1."""
    return record["scores"].index(min(record["scores"])) + 1


def _initialise(model: AstroMAE) -> None:
    """Keep the signal's size through the ReLU layers."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _last_layer(model: AstroMAE) -> nn.Linear:
    layer = model.concat_block[-1]
    assert isinstance(layer, nn.Linear)  # noqa: S101 (for the type checker)
    return layer


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
    trainer = Trainer.load(config, checkpoint) if resume else Trainer(config)
    folder.mkdir(parents=True, exist_ok=True)
    on_start(trainer)
    while True:
        while not trainer.is_done:
            trainer.run_epoch(on_batch)
            trainer.save(checkpoint)
            on_epoch(trainer)
        following = trainer.next_phase()
        if following is None:
            break
        trainer = following
    module = trainer.model()
    module.config = config.model.model_copy(update={"training": _ranges(config)})
    save_bundle(module, folder)
    quality = evaluate(folder, synthesize(HELD_OUT, "test", config.seed), threads=threads)
    record = {
        "made_by": f"cosmicai {cosmicai.__version__}, torch {torch.__version__}",
        "config": config.model_dump(mode="json"),
        "phases": [_rounded(phase) for phase in trainer.history],
        "width_factor": trainer.width_factor(),
        "held_out": quality.model_dump(mode="json"),
    }
    with whole_text_file(folder / TRAINING_NAME) as file:
        file.write(json.dumps(record, indent=2) + "\n")
    checkpoint.unlink()
    return quality


def _ranges(config: TrainingConfig) -> Training:
    """Return the ranges of an epoch's galaxies: the survey rows, and as many resampled."""
    count = len(load_split("train")) + config.resampled
    return ranges_of(synthesize(count, "train", config.seed), config.model.inputs, TRAINING_SET)


def _rounded(record: PhaseRecord) -> dict[str, Any]:
    """Return a phase as ``training.json`` shows it."""
    found: dict[str, Any] = {
        "phase": record["phase"],
        "losses": [round(loss, 5) for loss in record["losses"]],
    }
    if record["scores"]:
        found["validation_crps"] = [round(score, 6) for score in record["scores"]]
        found["best_epoch"] = best_epoch(record)
    return found
