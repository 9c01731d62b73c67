"""What is in a partition: sizes, ranges, missing values, origin."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cosmicai.facts import MB
from cosmicai.partition.reader import open_partition
from numpy.typing import NDArray


@dataclass
class _Range:
    """Running range of one array; values that are not finite are counted, not ranged."""

    minimum: float = np.inf
    maximum: float = -np.inf
    total: float = 0.0
    finite: int = 0
    nan: int = 0
    infinite: int = 0

    def add(self, values: NDArray[np.float32]) -> None:
        finite = np.isfinite(values)
        nan = int(np.isnan(values).sum())
        self.nan += nan
        self.infinite += int(values.size - finite.sum()) - nan
        if finite.any():
            good = values[finite]
            self.minimum = min(self.minimum, float(good.min()))
            self.maximum = max(self.maximum, float(good.max()))
            self.total += float(good.sum(dtype=np.float64))
            self.finite += good.size

    def summary(self) -> dict[str, float | int | None]:
        known = self.finite > 0
        return {
            "min": self.minimum if known else None,
            "mean": self.total / self.finite if known else None,
            "max": self.maximum if known else None,
            "nan": self.nan,
            "infinite": self.infinite,
        }


@dataclass(frozen=True)
class TensorSummary:
    """One tensor of a partition; ranges by band where it has bands, else under ``all``."""

    shape: tuple[int, ...]
    dtype: str
    ranges: dict[str, dict[str, float | int | None]]


@dataclass(frozen=True)
class PartitionSummary:
    """What ``cosmicai data inspect`` reports of one partition."""

    path: str
    bytes: int
    galaxies: int
    galaxies_with_nonfinite_inputs: int
    galaxies_without_redshift: int
    tensors: dict[str, TensorSummary]
    catalogue: tuple[str, ...]
    """Names of the columns that say which object each galaxy is."""
    bands: tuple[str, ...]
    pixel_scale: float | None
    """Arcseconds on a side of a pixel; None where unknown."""
    photometric_system: str | None
    metadata: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return asdict(self)


def inspect_partition(
    path: Path, *, on_galaxies: Callable[[int, int], None] = lambda *_: None
) -> PartitionSummary:
    """Read a whole partition, batch by batch, and summarize it.

    Parameters
    ----------
    path
        A ``.pt`` file.
    on_galaxies
        Called with galaxies read so far and in all.

    Raises
    ------
    PartitionNotFound, CorruptPartition, UnsafePickle
        It cannot be read.
    """
    redshift = _Range()
    nonfinite = 0
    with open_partition(path) as reader:
        bands = reader.bands
        named = reader.imaging.magnitude_bands
        image = {name: _Range() for name in bands}
        magnitude = {
            name: _Range() for name in named or map(str, range(1, reader.num_magnitudes + 1))
        }
        for batch in reader:
            for index, values in enumerate(image.values()):
                values.add(batch.image[:, index])
            for index, values in enumerate(magnitude.values()):
                values.add(batch.magnitude[:, index])
            redshift.add(batch.redshift)
            good = np.isfinite(batch.image).all(axis=(1, 2, 3))
            good &= np.isfinite(batch.magnitude).all(axis=1)
            nonfinite += int((~good).sum())
            on_galaxies(batch.start + len(batch), reader.num_samples)
        ranges = {"image": image, "magnitude": magnitude, "redshift": {"all": redshift}}
        tensors = {
            name: TensorSummary(
                tensor.shape,
                tensor.dtype,
                {band: values.summary() for band, values in ranges[name].items()},
            )
            for name, tensor in reader.tensors.items()
        }
        catalogue = reader.catalogue()
        return PartitionSummary(
            path=str(path),
            bytes=reader.nbytes,
            galaxies=reader.num_samples,
            galaxies_with_nonfinite_inputs=nonfinite,
            galaxies_without_redshift=redshift.nan,
            tensors=tensors,
            catalogue=() if catalogue is None else tuple(catalogue.columns),
            bands=bands,
            pixel_scale=reader.imaging.pixel_scale,
            photometric_system=reader.imaging.photometric_system,
            metadata=reader.metadata,
        )


def render_summary(summary: PartitionSummary) -> None:
    """Print a summary for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(markup=False)  # names of files and columns are not markup
    console.print(
        Text(summary.path, style="bold"),
        f": {summary.galaxies:,} galaxies, {summary.bytes / MB:,.1f} MB, "
        f"catalogue: {', '.join(summary.catalogue) or 'none'}",
        sep="",
    )
    scale = f"{summary.pixel_scale:g} arcsec" if summary.pixel_scale else "unknown"
    console.print(
        f"bands: {', '.join(summary.bands)}; pixel scale: {scale}; photometric system: "
        f"{summary.photometric_system or 'unknown'}"
    )
    table = Table("tensor", "min", "mean", "max", "NaN", "infinite")
    for name, tensor in summary.tensors.items():
        shape = " × ".join(f"{size:,}" for size in tensor.shape)
        table.add_section()
        table.add_row(Text.assemble((name, "bold"), f" {shape} {tensor.dtype}"))
        for band, values in tensor.ranges.items():
            numbers = [
                "–" if values[key] is None else f"{values[key]:.4g}"
                for key in ("min", "mean", "max")
            ]
            table.add_row(f"  {band}", *numbers, f"{values['nan']:,}", f"{values['infinite']:,}")
    console.print(table)
    console.print(
        f"galaxies with a missing input: {summary.galaxies_with_nonfinite_inputs:,}; "
        f"without redshift: {summary.galaxies_without_redshift:,}"
    )
    notice = (summary.metadata or {}).get("notice")
    console.print(str(notice or "no metadata of its origin"), style="dim")
