"""The architecture of a model, as ``config.json`` of a bundle holds it."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cosmicai.facts import IMAGE_SIZE
from cosmicai.model.interface import ArchitectureConfig, Inputs, sdss_inputs

PATCH_SIZE = 8
"""Pixels on a side of a patch, which becomes one token."""
GRID = IMAGE_SIZE // PATCH_SIZE
"""Patches on a side of a cutout."""
PATCHES = GRID * GRID
TOKENS = PATCHES + 1
"""The patches and, in front of them, the class token."""
MAGNITUDE_LAYERS = 5
"""Linear layers of the magnitude branch."""


Size = Annotated[int, Field(ge=1, le=65_536)]
"""Far above any model that fits a function; it keeps a hostile config from taking minutes."""


class ModelConfig(ArchitectureConfig):
    """Sizes of an AstroMAE; the defaults are the published, full-size architecture.

    The image is always 32×32 pixels in 5 bands, cut into 4×4 patches.
    """

    architecture: Literal["AstroMAE"] = "AstroMAE"
    inputs: Inputs = Field(default_factory=sdss_inputs)
    depth: PositiveInt = Field(default=12, le=128, description="Transformer blocks of the encoder.")
    width: Size = Field(default=192, description="Values of a token.")
    heads: Size = Field(default=4, description="Attention heads of a block.")
    mlp_width: Size = Field(default=768, description="Hidden units of a block's MLP.")
    conv_width: Size = Field(
        default=768, description="Hidden channels of a block's parallel convolution (PCM)."
    )
    norm_eps: PositiveFloat = Field(default=1e-6, le=1, description="Epsilon of every LayerNorm.")
    batch_norm_eps: PositiveFloat = Field(
        default=1e-5, le=1, description="Epsilon of every BatchNorm."
    )
    branch_width: Size = Field(
        default=1096, description="Output of the encoder branch and of the inception branch."
    )
    magnitude_width: Size = Field(default=1024, description="Units of the magnitude branch.")
    head_width: Size = Field(default=1024, description="Hidden units of the joint head.")
    stem_width: Size = Field(
        default=32, description="Channels of the first convolution of the inception branch."
    )
    inception_widths: tuple[Size, Size, Size, Size, Size] = Field(
        default=(16, 16, 8, 8, 4),
        description="Channels of one branch of each inception block; a block has four "
        "branches, the last block uses three of them.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.inputs != sdss_inputs():
            raise ValueError(
                f"inputs: an AstroMAE takes {sdss_inputs().model_dump_json()} and nothing else"
            )
        return self

    def __str__(self) -> str:
        return f"depth {self.depth}, width {self.width}"

    @property
    def head_dim(self) -> int:
        """Values of a token that one attention head sees."""
        return self.width // self.heads

    @property
    def inception_inputs(self) -> tuple[int, ...]:
        """Input channels of each inception block."""
        return (self.stem_width, *(4 * width for width in self.inception_widths[:-1]))

    @property
    def inception_features(self) -> int:
        """Length of the flattened output of the last inception block (a 4×4 map)."""
        return 3 * self.inception_widths[-1] * GRID * GRID

    @property
    def concat_width(self) -> int:
        """Input of the joint head: both image branches and the magnitudes."""
        return 2 * self.branch_width + self.magnitude_width
