"""Two runs side by side: what they took, and whether they agree."""

from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
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
    """How far the predictions of the galaxies that both runs hold lie apart."""

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

    Galaxies are matched by the file name of their partition and their index in it, so that a
    local run and a distributed one over the same partitions match.
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
            "galaxies per second, a rank",
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


def _keys(predictions: "Predictions") -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    names = np.array([PurePosixPath(path).name for path in predictions.data_paths] or [""])
    keys = np.empty(predictions.index.size, dtype=[("name", names.dtype), ("index", np.int32)])
    if keys.size:
        keys["name"], keys["index"] = names[predictions.partition], predictions.index
    return keys


def _agreement(a: "Predictions", b: "Predictions") -> Agreement:
    keys_a, keys_b = _keys(a), _keys(b)
    wider = np.promote_types(keys_a["name"].dtype, keys_b["name"].dtype)
    dtype = [("name", wider), ("index", np.int32)]
    common, in_a, in_b = np.intersect1d(
        keys_a.astype(dtype), keys_b.astype(dtype), return_indices=True
    )
    first, second = a.redshift[in_a], b.redshift[in_b]
    both = np.isfinite(first) & np.isfinite(second)
    difference = np.abs(first[both].astype(float) - second[both])
    one = np.isfinite(first) ^ np.isfinite(second)
    return Agreement(
        galaxies=int(common.size),
        only_a=int(keys_a.size - common.size),
        only_b=int(keys_b.size - common.size),
        identical=int(np.count_nonzero(difference == 0)),
        largest_difference=float(difference.max()) if difference.size else None,
        predicted_by_one=int(np.count_nonzero(one)),
    )
