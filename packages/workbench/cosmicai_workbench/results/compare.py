"""Two runs side by side: what they took, and whether they agree."""

from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmicai_workbench.results.run_folder import Predictions, Run


@dataclass(frozen=True)
class Figure:
    """One figure of both runs; None where a run does not have it."""

    name: str
    a: float | None
    b: float | None

    @property
    def ratio(self) -> float | None:
        """B over A; None where either is missing or A is 0."""
        return self.b / self.a if self.a and self.b is not None else None


@dataclass(frozen=True)
class Agreement:
    """How far apart the predictions of the galaxies in both runs are."""

    galaxies: int
    only_a: int
    only_b: int
    identical: int
    largest_difference: float | None
    """Largest |Δz| between the runs; None without a galaxy in common that both predicted."""
    predicted_by_one: int
    """Galaxies in common that only one of the runs has a prediction for."""


@dataclass(frozen=True)
class Comparison:
    """What ``cosmicai compare`` shows."""

    a: str
    b: str
    same_model: bool
    figures: tuple[Figure, ...]
    agreement: Agreement

    def document(self) -> dict[str, object]:
        """Return the comparison as JSON would have it."""
        rows = [asdict(figure) | {"ratio": figure.ratio} for figure in self.figures]
        return asdict(self) | {"figures": rows}


def compare(a: "Run", b: "Run") -> Comparison:
    """Compare two runs.

    Galaxies are matched by the file name of their partition, their index in it, and what the
    partition says of them (true redshift, r magnitude): a local run and a distributed one over
    the same partitions match, and other galaxies in files of the same name do not.
    """
    return Comparison(
        a=a.name,
        b=b.name,
        same_model=a.summary.model_digest == b.summary.model_digest,
        figures=tuple(
            Figure(name, x, y) for (name, x), (_, y) in zip(_figures(a), _figures(b), strict=True)
        ),
        agreement=_agreement(a.predictions, b.predictions),
    )


def _figures(run: "Run") -> list[tuple[str, float | None]]:
    summary, quality = run.summary, run.summary.quality
    working = [record for record in run.records if record.num_samples]
    return [
        ("galaxies", summary.num_samples),
        ("ranks", summary.world_size),
        ("wall time (s)", summary.wall_seconds),
        ("inference, first rank to last (s)", summary.inference_seconds),
        ("galaxies per second, all ranks", summary.samples_per_second),
        (
            "galaxies per second per rank",
            fmean(r.sample_persec for r in working) if working else None,
        ),
        ("time per batch (s)", fmean(r.execution_time for r in working) if working else None),
        ("throughput (Mbit/s), all ranks", summary.throughput_bps / 1e6),
        ("processor time (s)", sum(r.process_cpu_seconds for r in run.records)),
        ("peak memory (MB)", summary.peak_memory_mb),
        ("cost on AWS (US dollars)", summary.cost.total if summary.cost else None),
        ("σ NMAD", quality.nmad if quality else None),
        ("bias", quality.bias if quality else None),
    ]


def _galaxies(predictions: "Predictions", name: "np.dtype[Any]") -> "NDArray[np.void]":
    """Return what identifies each galaxy, wherever its partition is."""
    # Real numbers as bits, by which unknown values are equal too.
    fields = [("name", name), *((f, np.int32) for f in ("index", "redshift", "magnitude", "copy"))]
    keys = np.zeros(predictions.index.size, dtype=fields)
    if not keys.size:
        return keys
    keys["name"] = _names(predictions)[predictions.partition]
    keys["index"] = predictions.index
    keys["redshift"] = predictions.true_redshift.view(np.int32)
    keys["magnitude"] = predictions.magnitude_r.view(np.int32)
    # A run may hold copies of a partition: the first copy matches the other run's first.
    _, first, same = np.unique(keys, return_index=True, return_inverse=True)
    if first.size < keys.size:
        order = np.argsort(same, kind="stable")
        starts = np.searchsorted(same[order], np.arange(first.size))
        keys["copy"][order] = np.arange(keys.size) - starts[same[order]]
    return keys


def _names(predictions: "Predictions") -> "NDArray[np.str_]":
    return np.array([PurePosixPath(path).name for path in predictions.data_paths] or [""])


def _agreement(a: "Predictions", b: "Predictions") -> Agreement:
    name = np.promote_types(_names(a).dtype, _names(b).dtype)
    _, in_a, in_b = np.intersect1d(
        _galaxies(a, name), _galaxies(b, name), assume_unique=True, return_indices=True
    )
    first, second = a.redshift[in_a], b.redshift[in_b]
    both = np.isfinite(first) & np.isfinite(second)
    difference = np.abs(first[both].astype(float) - second[both])
    one = np.isfinite(first) ^ np.isfinite(second)
    return Agreement(
        galaxies=int(in_a.size),
        only_a=int(a.index.size - in_a.size),
        only_b=int(b.index.size - in_a.size),
        identical=int(np.count_nonzero(difference == 0)),
        largest_difference=float(difference.max()) if difference.size else None,
        predicted_by_one=int(np.count_nonzero(one)),
    )
