"""What error bars and p(z) add to a rank: memory, processor time, and the predictions file.

    python benchmarks/distributions.py [--json benchmarks/results/distributions.json]

Each figure is of a process of its own that does what a rank does but for S3 and the model: it reads
partitions of 100 MB, takes raw outputs that are ready, computes columns, statistics and the file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cosmicai.calibration import Calibration
from cosmicai.facts import galaxies_in
from cosmicai.inference import measured_fields
from cosmicai.machine import peak_memory_mb
from cosmicai.model.interface import (
    Distribution,
    Interface,
    MixtureOutput,
    NormalOutput,
    PdfOutput,
    PointOutput,
    QuantilesOutput,
)
from cosmicai.outputs import estimate, stored_form
from cosmicai.prediction import Predictor, npz_bytes
from cosmicai_workbench.data.partition_writer import PartitionWriter
from measuring import machine, spread
from numpy.typing import NDArray

GALAXIES = galaxies_in(100)
BATCH = 512
_HALF_WIDTHS = {"68": 0.02, "95": 0.05}
OUTPUTS: dict[str, PointOutput | Distribution] = {
    "point": PointOutput(),
    "calibrated point": PointOutput(),
    "normal": NormalOutput(),
    "mixture of 5": MixtureOutput(components=5),
    "99 quantiles": QuantilesOutput(levels=tuple(np.linspace(0.01, 0.99, 99).tolist())),
    "180 bins": PdfOutput(start=0.001, stop=0.399, bins=180, logits=True),
}


def raw_outputs(output: PointOutput | Distribution) -> NDArray[np.float32]:
    """Return raw numbers as a model might give them for a batch."""
    rng = np.random.default_rng(0)
    z = rng.uniform(0.05, 0.35, (BATCH, 1))
    sigma = rng.uniform(0.01, 0.03, (BATCH, 1))
    found = z
    if isinstance(output, PdfOutput):
        grid = np.linspace(output.start, output.stop, output.bins)
        found = -0.5 * ((grid - z) / sigma) ** 2
    elif isinstance(output, NormalOutput):
        found = np.concatenate((z, sigma), axis=1)
    elif isinstance(output, QuantilesOutput):
        found = np.sort(z + sigma * rng.standard_normal((BATCH, len(output.levels))), axis=1)
    elif isinstance(output, MixtureOutput):
        shape = (BATCH, output.components)
        means = np.log1p(z) + rng.normal(0, 0.02, shape)
        found = np.concatenate((rng.normal(0, 1, shape), means, rng.uniform(-5, -3, shape)), axis=1)
    return np.ascontiguousarray(found, np.float32)


def calibration() -> Calibration:
    """Return one of 25 cells."""
    levels = {
        f"level{name}": {"lower": -half, "upper": half, "coverage": int(name) / 100}
        for name, half in _HALF_WIDTHS.items()
    }
    return Calibration.model_validate(
        {
            "redshift_edges": [0.1, 0.15, 0.2, 0.3],
            "magnitude_edges": [16.0, 17.0, 18.0, 19.0],
            "cell_of": [[5 * row + column for column in range(5)] for row in range(5)],
            "cells": [{"galaxies": 200, **levels}] * 25,
            "labelled": {"galaxies": 5000},
        }
    )


class Ready:
    """An engine whose raw outputs are ready."""

    name = "plain"  # whose batches come as they are

    def __init__(self, output: PointOutput | Distribution) -> None:
        raw = raw_outputs(output)
        self._raw = raw[:, 0] if isinstance(output, PointOutput) else raw

    def predict(
        self, image: NDArray[np.float32], _values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See ``cosmicai.engines.base.Engine.predict``."""
        return self._raw[: len(image)].copy()


def rank(name: str, partition: str, partitions: int) -> dict[str, float]:
    """Do what a rank does with some partitions; return what it took."""
    output = OUTPUTS[name]
    interface = Interface(
        output=output, calibration=calibration() if name == "calibrated point" else None
    )
    predictor = Predictor(Ready(output), digest="", interface=interface)
    paths = [partition] * partitions
    predictions = predictor.predict_partitions(paths, batch_size=BATCH)
    columns = predictions.arrays(paths)
    started = time.process_time()
    measured_fields(predictions, columns, BATCH)
    statistics = time.process_time() - started
    body, peak = npz_bytes(columns), peak_memory_mb()
    return {
        "peak_mb": peak,
        "columns_us": columns_seconds(interface) / BATCH * 1e6,
        "statistics_us": statistics / predictions.num_samples * 1e6,
        "file_bytes": len(body) / predictions.num_samples,
    }


def columns_seconds(interface: Interface) -> float:
    """Return the processor time of one batch's columns, the least of several."""
    raw, magnitude = raw_outputs(interface.output), np.full(BATCH, 17.5, np.float32)
    found = []
    for _ in range(20):
        started = time.process_time()
        estimate(interface.output, raw, interface.calibration, magnitude)
        if interface.distribution is not None:
            stored_form(interface.distribution, raw)
        found.append(time.process_time() - started)
    return min(found)


def measure(partition: Path, partitions: int, repeat: int) -> dict[str, Any]:
    """Return name of an output → spread of each figure."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in OUTPUTS}
    for _ in range(repeat):
        for name, found in rounds.items():
            words = [sys.executable, __file__, "--rank", name, str(partition), str(partitions)]
            outcome = subprocess.run(words, check=True, capture_output=True, text=True)
            found.append(json.loads(outcome.stdout))
    return {
        name: {key: spread([each[key] for each in found], 1) for key in found[0]}
        for name, found in rounds.items()
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--partitions", type=int, nargs="*", default=[1, 10])
    parser.add_argument("--rank", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        name, partition, partitions = arguments.rank
        print(json.dumps(rank(name, partition, int(partitions))))
        return
    report: dict[str, Any] = {"machine": machine("numpy"), "galaxies_of_a_partition": GALAXIES}
    with tempfile.TemporaryDirectory() as folder:
        partition = Path(folder) / "1.pt"
        rng = np.random.default_rng(1)
        with PartitionWriter(partition, GALAXIES, {}) as writer:
            for start in range(0, GALAXIES, BATCH):
                count = min(BATCH, GALAXIES - start)
                image = rng.random((count, 5, 32, 32), dtype=np.float32)
                magnitude = rng.uniform(15, 20, (count, 5)).astype(np.float32)
                writer.write(image, magnitude, rng.uniform(0.05, 0.35, count).astype(np.float32))
        for partitions in arguments.partitions:
            report[f"{partitions} partitions"] = found = measure(
                partition, partitions, arguments.repeat
            )
            point = found["point"]["peak_mb"]["median"]
            print(f"{partitions} partitions of 100 MB")
            for name, figures in found.items():
                more = figures["peak_mb"]["median"] - point
                print(
                    f"  {name:18} {figures['peak_mb']['median']:7.1f} MB ({more:+6.1f})  "
                    f"{figures['columns_us']['min']:6.1f} us a galaxy for its columns, "
                    f"{figures['statistics_us']['min']:6.1f} for the statistics, "
                    f"{figures['file_bytes']['median']:6.1f} bytes stored"
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
