"""The columns of a catalogue of predictions, each declared once and read by everything else.

What a rank stores, what an export writes and what a report describes follow from here. To add a
column, declare it: nothing else has to change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cosmicai.errors import InvalidInput
from cosmicai.facts import BAND_NAMES, INTERVAL_PERCENT, ODDS_WIDTH
from cosmicai.flags import FLAGS, flags_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from cosmicai.model.interface import Interface


@dataclass(frozen=True, slots=True)
class PredictedBatch:
    """Consecutive galaxies of one partition with their predictions."""

    partition: int
    """Position of the partition among those that are predicted together."""
    start: int
    """Index in the partition of the first galaxy."""
    image: NDArray[np.float32]
    """(b, bands, side, side)."""
    magnitude: NDArray[np.float32]
    """(b, magnitudes), or (b, 0) where the partition has none."""
    true_redshift: NDArray[np.float32]
    """(b,), NaN where unknown."""
    estimates: Mapping[str, NDArray[np.float32]]
    """What the model's output says (``cosmicai.outputs.estimate``), (b,) each."""
    model: Interface
    """What the model takes and gives."""
    magnitude_bands: tuple[str, ...] = BAND_NAMES
    """Empty where unknown."""

    def __len__(self) -> int:
        return len(self.redshift)

    @property
    def redshift(self) -> NDArray[np.float32]:
        """Predicted redshifts (b,), NaN where there is no prediction."""
        return self.estimates["redshift"]


def magnitude_in(
    band: str, magnitude: NDArray[np.float32], bands: tuple[str, ...]
) -> NDArray[np.float32]:
    """Return the magnitudes (b,) in a band; NaN where the partition has none.

    Parameters
    ----------
    magnitude, bands
        As ``magnitude`` and ``magnitude_bands`` of :class:`PredictedBatch`.
    """
    import numpy as np

    if band not in bands or not magnitude.shape[1]:
        return np.full(len(magnitude), np.nan, np.float32)
    found: NDArray[np.float32] = magnitude[:, bands.index(band)]
    return found


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
    when: Callable[[Interface], bool] | None = None
    """Says of a model whether its predictions have the column; None: those of every model."""


def _estimated(
    name: str, description: str, ucd: str, when: Callable[[Interface], bool]
) -> StoredColumn:
    """Return a column of what ``cosmicai.outputs.estimate`` gives under its name."""
    return StoredColumn(
        name=name,
        dtype="float32",
        description=description,
        ucd=ucd,
        value=lambda batch: batch.estimates[name],
        when=when,
    )


def _magnitude(band: str) -> StoredColumn:
    """Return the column of the magnitudes in a band; every model has that of r."""

    def taken(model: Interface) -> bool:
        return model.inputs.magnitude is not None and band in model.inputs.magnitude.bands

    return StoredColumn(
        name=f"{MAGNITUDE}{band}",
        dtype="float32",
        description=f"{band} magnitude as given to the model",
        ucd=f"phot.mag;em.opt{_UCD_BANDS.get(band, '')}",
        unit="mag",
        value=lambda batch: magnitude_in(band, batch.magnitude, batch.magnitude_bands),
        when=None if band == "r" else taken,
    )


def _index(batch: PredictedBatch) -> NDArray[Any]:
    import numpy as np

    return np.arange(batch.start, batch.start + len(batch))


MAGNITUDE: Final = "magnitude_"
"""What the names of the columns of magnitudes begin with; the band follows."""
_UCD_BANDS: Final = {band: f".{band.upper()}" for band in ("u", "r", "i")}

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
    *(
        _estimated(
            name,
            f"{end} end of the interval that holds the redshift with a probability of {level} %",
            f"stat.error;stat.{ucd};src.redshift.phot",
            lambda model: model.has_intervals,
        )
        for level in INTERVAL_PERCENT
        for name, end, ucd in (
            (f"z_lo{level}", "lower", "min"),
            (f"z_hi{level}", "upper", "max"),
        )
    ),
    *(
        _estimated(
            f"z_{name}",
            f"{name} of the redshift's probability distribution",
            f"src.redshift.phot;stat.{ucd}",
            lambda model: model.distribution is not None,
        )
        for name, ucd in (("mode", "mode"), ("median", "median"), ("mean", "mean"))
    ),
    _estimated(
        "odds",
        f"probability that the redshift is within {ODDS_WIDTH} (1 + z_mode) of z_mode",
        "stat.probability;src.redshift.phot",
        lambda model: model.distribution is not None,
    ),
    StoredColumn(
        name="true_redshift",
        dtype="float32",
        description="known (spectroscopic) redshift; NaN where unknown",
        ucd="src.redshift",
        value=lambda batch: batch.true_redshift,
    ),
    *(_magnitude(band) for band in BAND_NAMES),
    Column(
        name="healpix",
        dtype="int64",
        description="HEALPix index of the position, order 29, nested scheme",
        ucd="pos.healpix",
    ),
    StoredColumn(
        name="flags",
        dtype="int32",
        description="sum of " + ", ".join(f"{flag.value} {flag.name}" for flag in FLAGS),
        ucd="meta.code.qual",
        value=lambda batch: flags_of(batch, batch.model.inputs, batch.model.training),
    ),
    Column(
        name="rank",
        dtype="int32",
        description="rank that was to predict it",
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


def columns_with(names: Iterable[str]) -> dict[str, Column]:
    """Return :data:`COLUMNS` and, behind them, the magnitudes in other bands among some names.

    Models may take bands of their own. Their columns belong to the call: another run in the same
    process does not have them.
    """
    return COLUMNS | {
        name: _magnitude(name.removeprefix(MAGNITUDE))
        for name in names
        if name.startswith(MAGNITUDE) and name not in COLUMNS
    }


def stored_columns(names: Iterable[str] = ()) -> dict[str, StoredColumn]:
    """Return those of :func:`columns_with` whose values ranks compute and store, by name."""
    return {
        name: column
        for name, column in columns_with(names).items()
        if isinstance(column, StoredColumn)
    }


def columns_of(model: Interface | None) -> dict[str, StoredColumn]:
    """Return the stored columns of a model's predictions; of None, those that every model has."""
    magnitude = model.inputs.magnitude if model is not None else None
    names = [f"{MAGNITUDE}{band}" for band in magnitude.bands] if magnitude else []
    return {
        name: column
        for name, column in stored_columns(names).items()
        if column.when is None or (model is not None and column.when(model))
    }
