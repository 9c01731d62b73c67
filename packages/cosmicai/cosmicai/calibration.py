"""Intervals of a redshift from how far off a model was on galaxies with known ones.

``calibration.json`` of a bundle holds, for cells of predicted redshift and r magnitude, the
quantiles of the residual (z_true - z) / (1 + z), z being the prediction. Split-conformal quantiles
make intervals that cover the stated part of galaxies like those of the labelled set
(``cosmicai model calibrate`` computes them).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from cosmicai.errors import ModelMismatch, problems_of
from cosmicai.facts import INTERVAL_PERCENT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INTERVALS: Final = tuple(
    f"z_{end}{percent}" for percent in INTERVAL_PERCENT for end in ("lo", "hi")
)
"""Names of the intervals' columns."""

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Edges = Annotated[tuple[FiniteFloat, ...], Field(max_length=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Residuals(_Part):
    """Between which residuals an interval of one level lies, in Δz/(1+z)."""

    lower: FiniteFloat
    upper: FiniteFloat
    coverage: _Fraction = Field(description="Part of a cell's galaxies to be covered.")
    measured: _Fraction | None = Field(
        default=None, description="Part that was, in cross-validation within the labelled set."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.lower > self.upper:
            raise ValueError(f"lower: at most upper, {self.upper}, expected, found {self.lower}")
        return self


class Cell(_Part):
    """Galaxies that are calibrated together."""

    galaxies: PositiveInt
    level68: Residuals
    level95: Residuals


class LabelledSet(_Part):
    """The galaxies that the calibration was computed from."""

    name: str = ""
    galaxies: PositiveInt
    digest: str = Field(
        default="", description="SHA-256 over its true redshifts and r magnitudes, little-endian."
    )
    date: AwareDatetime | None = Field(default=None, description="When it was computed.")
    model_digest: str = Field(default="", description="Of the bundle without a calibration.")


class Calibration(_Part):
    """What ``calibration.json`` holds.

    Attributes
    ----------
    redshift_edges, magnitude_edges
        Inner edges of the bins, rising; values on an edge belong to the bin above it, and the
        outer bins are unbounded.
    cell_of
        For each bin of redshift, for each bin of magnitude: the index of its cell. Neighbouring
        bins with few galaxies share one.
    """

    redshift_edges: _Edges = ()
    magnitude_edges: _Edges = ()
    cell_of: tuple[tuple[NonNegativeInt, ...], ...]
    cells: tuple[Cell, ...] = Field(min_length=1, max_length=100_000)
    labelled: LabelledSet

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in ("redshift_edges", "magnitude_edges"):
            edges = getattr(self, name)
            if any(low >= high for low, high in pairwise(edges)):
                raise ValueError(f"{name}: rising numbers expected, found {edges}")
        rows, columns = len(self.redshift_edges) + 1, len(self.magnitude_edges) + 1
        if len(self.cell_of) != rows or any(len(row) != columns for row in self.cell_of):
            raise ValueError(f"cell_of: {rows} rows of {columns} cells expected")
        if any(cell >= len(self.cells) for row in self.cell_of for cell in row):
            raise ValueError(f"cell_of: numbers below {len(self.cells)} expected")
        return self

    def cells_of(
        self, redshift: NDArray[np.floating[Any]], magnitude_r: NDArray[np.floating[Any]] | None
    ) -> NDArray[np.intp]:
        """Return the index of each galaxy's cell, (N,).

        Parameters
        ----------
        redshift
            (N,), as predicted.
        magnitude_r
            (N,); None will do if there is one bin of magnitude.

        Raises
        ------
        ModelMismatch
            There are several bins, and no magnitudes.
        """
        import numpy as np

        row = np.searchsorted(self.redshift_edges, redshift, side="right")
        column = np.zeros_like(row)
        if self.magnitude_edges:
            if magnitude_r is None:
                raise ModelMismatch(
                    "calibration.json has bins of r magnitude, and these galaxies have none; "
                    "calibrate the model with galaxies like them"
                )
            column = np.searchsorted(self.magnitude_edges, magnitude_r, side="right")
        found: NDArray[np.intp] = np.array(self.cell_of, np.intp)[row, column]
        return found

    def intervals(
        self,
        redshift: NDArray[np.floating[Any]],
        magnitude_r: NDArray[np.floating[Any]] | None = None,
    ) -> tuple[NDArray[np.float32], ...]:
        """Return lo68, hi68, lo95 and hi95, each float32 (N,); NaN where an input is NaN.

        Parameters
        ----------
        redshift, magnitude_r
            As for :meth:`cells_of`.

        Raises
        ------
        ModelMismatch
            As :meth:`cells_of`.
        """
        import numpy as np

        cell = self.cells_of(redshift, magnitude_r)
        unknown = np.isnan(redshift)
        if self.magnitude_edges and magnitude_r is not None:
            unknown = unknown | np.isnan(magnitude_r)
        z = np.where(unknown, np.nan, redshift).astype(np.float64)
        quantiles = np.array(
            [
                (c.level68.lower, c.level68.upper, c.level95.lower, c.level95.upper)
                for c in self.cells
            ]
        )
        bounds = z[:, None] + quantiles[cell] * (1 + z[:, None])
        return tuple(np.ascontiguousarray(bounds.T.astype(np.float32)))


def read_calibration(content: bytes, where: str) -> Calibration:
    """Read a bundle's ``calibration.json``.

    Parameters
    ----------
    content
        The file.
    where
        Its name in error messages.

    Raises
    ------
    ModelMismatch
        If ``content`` is not a valid calibration; the message says why.
    """
    try:
        return Calibration.model_validate_json(content)
    except ValidationError as error:
        raise ModelMismatch(
            f"{where} is not a calibration: {problems_of(error)}; remove it, or run "
            "`cosmicai model calibrate`"
        ) from None
