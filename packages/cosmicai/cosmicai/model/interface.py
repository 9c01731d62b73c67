"""What a model takes and gives: the keys ``inputs``, ``output`` and ``training`` of a config.

Whoever reads partitions, calls an engine or turns its numbers into columns follows these
declarations, whatever the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, model_validator

from cosmicai.facts import BAND_NAMES, IMAGE_SIZE, PIXEL_SCALE
from cosmicai.partition.imaging import GalaxyShape

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from cosmicai.calibration import Calibration

Name = Annotated[str, Field(min_length=1, max_length=64)]
Range = tuple[FiniteFloat, FiniteFloat]
"""The lowest and the highest value."""
Bands = Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]
PerBand = FiniteFloat | tuple[FiniteFloat, ...]
"""One number for all bands, or one for each."""


class Declaration(BaseModel):
    """Part of a model's config."""

    # Built when first used: a handler that reads no config should not pay for it.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class _Scaled(Declaration):
    """A tensor that the model takes as ``(x - offset) / scale``; its engine computes that."""

    offset: PerBand = 0.0
    scale: PerBand = 1.0
    tensor: Name | None = Field(default=None, description="Its name in the model's graph.")

    @model_validator(mode="after")
    def _scale_divides(self) -> Self:
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        if not all(scale > 0 for scale in scales):
            raise ValueError(f"scale: positive numbers expected, found {self.scale}")
        for name, value in (("offset", self.offset), ("scale", self.scale)):
            if isinstance(value, tuple) and len(value) != self._length:
                raise ValueError(
                    f"{name}: one number, or {self._length} of them expected, found {len(value)}"
                )
        return self

    @property
    def _length(self) -> int:
        return 1


class _Banded(_Scaled):
    bands: Bands = Field(description="Names of the bands, in order.")

    @model_validator(mode="after")
    def _bands_differ(self) -> Self:
        if len(set(self.bands)) != len(self.bands):
            raise ValueError(f"bands: different names expected, found {', '.join(self.bands)}")
        return self

    @property
    def _length(self) -> int:
        return len(self.bands)


class ImageInput(_Banded):
    """The cutout of a galaxy, (bands, side, side)."""

    side: int = Field(ge=4, le=1024, description="Pixels on a side.")
    pixel_scale: FiniteFloat | None = Field(
        default=None, gt=0, description="Arcseconds of a pixel; not checked where absent."
    )
    unit: Name = "nanomaggy"


class MagnitudeInput(_Banded):
    """The magnitudes of a galaxy, (bands,)."""

    unit: Name = "mag"


class ScalarInput(_Scaled):
    """One more number of a galaxy, from the catalogue that its partition carries."""

    name: Name = Field(description="Of the input, and of the catalogue's column.")
    unit: str = ""


class Inputs(Declaration):
    """All that a model is given of a galaxy."""

    image: ImageInput
    magnitude: MagnitudeInput | None = None
    scalars: tuple[ScalarInput, ...] = Field(default=(), max_length=64)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Bands, side, side."""
        return self.galaxy.image

    @property
    def galaxy(self) -> GalaxyShape:
        """What a partition for the model holds of a galaxy, besides its row in the catalogue."""
        return GalaxyShape(len(self.image.bands), self.image.side, self.num_magnitudes)

    @property
    def num_magnitudes(self) -> int:
        """How many magnitudes the model takes."""
        return len(self.magnitude.bands) if self.magnitude else 0

    @property
    def num_values(self) -> int:
        """How many numbers beside the image: the magnitudes, then the scalars."""
        return self.num_magnitudes + len(self.scalars)


@cache
def sdss_inputs() -> Inputs:
    """Return what AstroMAE takes."""
    return Inputs(
        image=ImageInput(bands=BAND_NAMES, side=IMAGE_SIZE, pixel_scale=PIXEL_SCALE),
        magnitude=MagnitudeInput(bands=BAND_NAMES),
    )


class _Output(Declaration):
    tensors: tuple[Name, ...] = Field(
        default=(), description="Names in the model's graph of what holds the values, in order."
    )

    @property
    def values(self) -> int:
        """Raw numbers of a galaxy."""
        raise NotImplementedError


class PointOutput(_Output):
    """The redshift alone."""

    kind: Literal["point"] = "point"

    @property
    def values(self) -> int:
        """Raw numbers of a galaxy."""
        return 1


class _Distribution(_Output):
    point: Literal["median", "mean", "mode"] = Field(
        default="median", description="Which estimate is the column ``redshift``."
    )


class PdfOutput(_Distribution):
    """Probabilities of equally wide bins of redshift."""

    kind: Literal["pdf"] = "pdf"
    start: FiniteFloat = Field(gt=-1, description="Centre of the first bin.")
    stop: FiniteFloat = Field(description="Centre of the last bin.")
    bins: int = Field(ge=2, le=10_000)
    logits: bool = Field(
        default=False,
        description="Whether the values are those before a softmax; else they are in proportion "
        "to the probabilities.",
    )

    @model_validator(mode="after")
    def _stop_above_start(self) -> Self:
        if self.stop <= self.start:
            raise ValueError(f"stop: more than start, {self.start}, expected, found {self.stop}")
        return self

    @property
    def values(self) -> int:
        """Raw numbers of a galaxy."""
        return self.bins

    @property
    def width(self) -> float:
        """Width of a bin."""
        return (self.stop - self.start) / (self.bins - 1)


class NormalOutput(_Distribution):
    """Mean and standard deviation of a normal distribution of the redshift."""

    kind: Literal["normal"] = "normal"

    @property
    def values(self) -> int:
        """Raw numbers of a galaxy."""
        return 2


class QuantilesOutput(_Distribution):
    """Redshifts at given levels of probability."""

    kind: Literal["quantiles"] = "quantiles"
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(min_length=2, max_length=1000)

    @model_validator(mode="after")
    def _levels_rise(self) -> Self:
        if sorted(set(self.levels)) != list(self.levels):
            raise ValueError(f"levels: rising numbers expected, found {self.levels}")
        return self

    @property
    def values(self) -> int:
        """Raw numbers of a galaxy."""
        return len(self.levels)


class MixtureOutput(_Distribution):
    """A Gaussian mixture in ln(1+z): logits of the components, then means, then log sigmas."""

    kind: Literal["mixture"] = "mixture"
    components: PositiveInt = Field(le=100)

    @property
    def values(self) -> int:
        """Raw numbers of a galaxy."""
        return 3 * self.components


Distribution = PdfOutput | NormalOutput | QuantilesOutput | MixtureOutput
Output = Annotated[PointOutput | Distribution, Field(discriminator="kind")]


class Training(Declaration):
    """What a model was trained on, and the ranges beyond which it extrapolates."""

    name: str = Field(default="", description="Of the training set.")
    galaxies: PositiveInt
    redshift: Range
    magnitude: dict[Name, Range] = Field(default={}, description="Band → range.")
    colour: dict[Name, Range] = Field(default={}, description="``u-g`` and so on → range.")
    image_magnitude: dict[Name, Range] = Field(
        default={},
        description="Band → range of the magnitude of the image's summed pixels, less the "
        "magnitude given.",
    )
    image_colour: dict[Name, Range] = Field(
        default={},
        description="``u-g`` and so on → range of the colour of the image's summed pixels, for "
        "models that take no magnitudes.",
    )
    digest: str = Field(default="", description="SHA-256 of the training set.")


class ArchitectureConfig(Declaration):
    """Base of the models of ``config.json``."""

    architecture: str
    inputs: Inputs
    # Made when needed, as every schema here: importing this module takes half the time.
    output: Output = Field(default_factory=PointOutput)
    training: Training | None = None

    def to_json(self) -> str:
        """Return the text of ``config.json``.

        What an architecture fixes or leaves to its default is not written: the same model keeps
        its digest.
        """
        fields = type(self).model_fields
        said = {"inputs", "output", "training"}
        unsaid = {
            name
            for name in said
            if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return self.model_dump_json(indent=2, exclude=unsaid) + "\n"

    def __str__(self) -> str:
        return self.architecture


@dataclass(frozen=True, slots=True)
class Interface:
    """What a loaded model takes and gives, and what is known of how good it is."""

    inputs: Inputs = field(default_factory=sdss_inputs)
    output: PointOutput | Distribution = field(default_factory=PointOutput)
    training: Training | None = None
    calibration: Calibration | None = None

    @property
    def distribution(self) -> Distribution | None:
        """The output, if it is more than the redshift."""
        return None if isinstance(self.output, PointOutput) else self.output

    @property
    def has_intervals(self) -> bool:
        """Whether its redshifts have error bars."""
        return self.distribution is not None or self.calibration is not None


def parse_output(text: str) -> Distribution:
    """Read the JSON text of the output that a predictions file declares.

    Raises
    ------
    ValueError
        If it does not describe an output.
    """
    found: Distribution = _adapter().validate_json(text)
    return found


@cache
def _adapter() -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(Annotated[Distribution, Field(discriminator="kind")])
