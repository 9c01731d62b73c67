"""The columns of a catalogue of predictions, each declared once and read by everything else.

What a rank stores, what an export writes and what a report describes follow from here. To add a
column, declare it: nothing else has to change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosmicai.errors import InvalidInput
from cosmicai.facts import R_BAND

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PredictedBatch:
    """Consecutive galaxies of one partition with their predictions."""

    partition: int
    """Position of the partition among those that are predicted together."""
    start: int
    """Index in the partition of the first galaxy."""
    image: NDArray[np.float32]
    """(b, 5, 32, 32)."""
    magnitude: NDArray[np.float32]
    """(b, 5)."""
    true_redshift: NDArray[np.float32]
    """(b,), NaN where unknown."""
    redshift: NDArray[np.float32]
    """(b,), NaN where there is no prediction."""

    def __len__(self) -> int:
        return len(self.redshift)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the catalogue."""

    name: str
    dtype: str
    """NumPy's name, or ``str`` for text."""
    description: str
    ucd: str
    """IVOA's name of what the column holds (UCD1+), by which TOPCAT finds positions."""
    unit: str = ""
    """As FITS and astropy write it; empty for numbers without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredColumn(Column):
    """A column that is computed where galaxies are predicted, and stored with the predictions.

    The others are known only when a catalogue is put together.
    """

    value: Callable[[PredictedBatch], NDArray[Any]]
    """Computes the values (b,) of a batch."""


def _index(batch: PredictedBatch) -> NDArray[Any]:
    import numpy as np

    return np.arange(batch.start, batch.start + len(batch))


_DECLARED = (
    Column(
        name="object_id",
        dtype="str",
        description="name of the object; partition and index where no catalogue names it",
        ucd="meta.id;meta.main",
    ),
    Column(
        name="partition",
        dtype="str",
        description="key or path of the partition it came in",
        ucd="meta.file",
    ),
    StoredColumn(
        name="index",
        dtype="int32",
        description="its place in the partition, from 0",
        ucd="meta.record",
        value=_index,
    ),
    Column(
        name="ra",
        dtype="float64",
        description="right ascension (ICRS); NaN where unknown",
        ucd="pos.eq.ra;meta.main",
        unit="deg",
    ),
    Column(
        name="dec",
        dtype="float64",
        description="declination (ICRS); NaN where unknown",
        ucd="pos.eq.dec;meta.main",
        unit="deg",
    ),
    StoredColumn(
        name="redshift",
        dtype="float32",
        description="predicted redshift; NaN where there is no prediction",
        ucd="src.redshift.phot",
        value=lambda batch: batch.redshift,
    ),
    StoredColumn(
        name="true_redshift",
        dtype="float32",
        description="known (spectroscopic) redshift; NaN where unknown",
        ucd="src.redshift",
        value=lambda batch: batch.true_redshift,
    ),
    StoredColumn(
        name="magnitude_r",
        dtype="float32",
        description="r magnitude as given to the model",
        ucd="phot.mag;em.opt.R",
        unit="mag",
        value=lambda batch: batch.magnitude[:, R_BAND],
    ),
    Column(
        name="rank",
        dtype="int32",
        description="rank that predicted it",
        ucd="meta.number",
    ),
    Column(
        name="reason",
        dtype="str",
        description="why there is no prediction; empty where there is one",
        ucd="meta.note",
    ),
)

COLUMNS: dict[str, Column] = {column.name: column for column in _DECLARED}
"""Name → column, in the catalogue's order.

With the predictions, ``partition`` is stored as int32 positions in the array ``data_paths``.
"""


def register(column: Column) -> None:
    """Add a column to the catalogue, behind the others.

    Raises
    ------
    InvalidInput
        There is a column of that name.
    """
    if column.name in COLUMNS:
        raise InvalidInput(f"column {column.name!r} is declared already")
    COLUMNS[column.name] = column


def stored_columns() -> dict[str, StoredColumn]:
    """Return the columns whose values are computed where galaxies are predicted, by name."""
    return {name: column for name, column in COLUMNS.items() if isinstance(column, StoredColumn)}
