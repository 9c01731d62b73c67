"""Inference speed, memory, start and cost of the engines, against what one would use otherwise.

    python benchmarks/inference.py            # tables; results/inference.json and .txt
    python benchmarks/inference.py --json     # the results as JSON on stdout as well
    python benchmarks/inference.py --sections throughput --rounds 9   # the others keep theirs

Full-size architecture with random weights; galaxies of random pixels in the true shape (speed does
not depend on values). A partition of 100 MB holds 5,113 galaxies. What is compared is measured in
turns, round by round, so that a change of the machine's pace meets all alike; figures are medians
over the rounds with the smallest and the largest. Takes about 12 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from inference_baselines import baselines, fill, galaxies
from inference_report import print_tables

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "inference.json"
CORES = len(os.sched_getaffinity(0))
DEFAULT_ENGINE = "openvino"
PARTITION = 5113
BATCH = 512
BATCH_SIZES = (32, 64, 128, 256, 512)
S3_MB_PER_SECOND = 90
SURVEY = {"bytes": 12.6e9, "galaxies": 645_000}
PUBLISHED_DOLLARS = (0.16, 0.38)
PAUSE = 0.3  # seconds, in which a library's threads stop spinning


class Bench:
    """The files all sections share, and how they measure."""

    def __init__(self, folder: Path, rounds: int, *, quick: bool = False) -> None:
        from cosmicai.model.astromae import AstroMAE
        from cosmicai.model.bundle import save_bundle
        from cosmicai.model.config import ModelConfig
        from cosmicai.model.prepare import write_prepared

        self.folder = folder
        self.rounds = rounds
        self.partition_galaxies = PARTITION // 20 if quick else PARTITION
        module = fill(AstroMAE(ModelConfig(depth=1) if quick else ModelConfig()))
        self.bundle = save_bundle(module, folder / "bundle")
        self.bare_bundle = save_bundle(module, folder / "bare").path
        write_prepared(self.bundle, self.bundle.path)

    def alternate(
        self, runs: dict[str, Callable[[], float]], rounds: int | None = None
    ) -> dict[str, list[float]]:
        """Call every run once a round, and once before; return what they return."""
        found: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        for _ in range(rounds or self.rounds):
            for name, run in runs.items():
                time.sleep(PAUSE)
                found[name].append(run())
        return found

    def partition(self, count: int) -> Path:
        """Return a partition of so many galaxies."""
        path = self.folder / f"partition-{count}.pt"
        if not path.exists():
            import torch

            image, magnitude = galaxies(count)
            tensors = [torch.from_numpy(array) for array in (image, magnitude)]
            dataset = torch.utils.data.TensorDataset(*tensors, torch.zeros(count))
            torch.save(dataset, path)
        return path

    def worker(self, *arguments: object, threads: int = CORES) -> dict[str, Any]:
        """Run ``inference_worker.py`` in a process of its own; return what it prints."""
        command = [sys.executable, HERE / "inference_worker.py", *arguments]
        environment = os.environ | {"INFERENCE_THREADS": str(threads)}
        started = time.time()
        done = subprocess.run(
            [str(part) for part in command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        if done.returncode:
            raise RuntimeError(f"{command} failed:\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found | {"process_seconds": found.get("at", time.time()) - started}


def spread(values: list[float]) -> dict[str, float]:
    """Return median, smallest, largest and count."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def timed(run: Callable[[], object], count: int) -> Callable[[], float]:
    """Return a run that gives galaxies a second."""

    def measure() -> float:
        started = time.perf_counter()
        run()
        return count / (time.perf_counter() - started)

    return measure


def predict_all(engine: Any, image: Any, magnitude: Any, size: int) -> None:
    """Predict in batches of ``size``, as a rank does."""
    for start in range(0, len(image), size):
        engine.predict(image[start : start + size], magnitude[start : start + size])


# -- sections -------------------------------------------------------------------------------------


def throughput(bench: Bench) -> dict[str, Any]:
    """Engines and baselines, galaxies a second at batch 512."""
    from cosmicai.engines.base import load_engine

    count = 3 * BATCH
    image, magnitude = galaxies(count)
    runs = {
        name: timed(run, count)
        for name, run in baselines(bench.bundle, image, magnitude, BATCH, CORES).items()
    }
    for name, precision in (("torch", "float32"), ("openvino", "float32"), ("torch", "bfloat16")):
        engine = load_engine(name, bench.bundle.path, threads=CORES, precision=precision)
        label = name if precision == "float32" else f"{name} {precision}"
        runs[label] = timed(
            lambda engine=engine: predict_all(engine, image, magnitude, BATCH), count
        )
    found = bench.alternate(runs)
    ratios = {
        f"{ours} / {theirs}": spread([a / b for a, b in zip(found[ours], rates, strict=True)])
        for ours in ("openvino", "torch")
        for theirs, rates in found.items()
        if theirs not in ("openvino", "torch", "torch bfloat16")
    }
    return {
        "galaxies_a_round": count,
        "galaxies_per_second": {name: spread(rates) for name, rates in found.items()},
        "ratios": ratios,
    }


def batch_sizes(bench: Bench) -> dict[str, Any]:
    """Read and predict a partition at the batch sizes a user may ask for, as a rank does."""
    from cosmicai.engines.base import load_engine
    from cosmicai.engines.registry import galaxies_at_once
    from cosmicai.partition.reader import open_partition

    count = 2 * BATCH
    path = bench.partition(count)
    engine = load_engine(DEFAULT_ENGINE, bench.bundle.path, threads=CORES)

    def rank(size: int) -> None:
        at_once = galaxies_at_once(DEFAULT_ENGINE, size)
        with open_partition(path, batch_size=at_once) as reader:
            for batch in reader:
                engine.predict(batch.image, batch.magnitude)

    runs = {str(size): timed(lambda size=size: rank(size), count) for size in BATCH_SIZES}
    found = bench.alternate(runs)
    best = max(statistics.median(rates) for rates in found.values())
    return {
        "galaxies_per_second": {size: spread(rates) for size, rates in found.items()},
        "of_the_best": {size: statistics.median(rates) / best for size, rates in found.items()},
    }


def accuracy(bench: Bench) -> dict[str, Any]:
    """Return max |Δz| of each engine against the plain module."""
    from cosmicai.engines.base import load_engine

    image, magnitude = galaxies(64)
    one = np.ones_like(image)
    cases = {
        "random": (image, magnitude),
        "black images": (0 * one, magnitude),
        "constant images": (one, magnitude),
        "negative images": (-image, magnitude),
        "images × 100": (100 * image, magnitude),
        "magnitudes 0": (image, 0 * magnitude),
        "magnitudes 18": (image, magnitude + 18),
        "magnitudes 99": (image, 0 * magnitude + 99),
        "magnitudes -99": (image, 0 * magnitude - 99),
    }
    golden = HERE.parent / ".." / "shared" / "model" / "golden_vectors.npz"
    if golden.is_file():
        vectors = np.load(golden)
        cases["golden vectors"] = (vectors["image"], vectors["magnitude"])
    plain = load_engine("plain", bench.bundle.path, threads=CORES)
    expected = {case: plain.predict(*values) for case, values in cases.items()}
    found = {}
    for name, precision in (("torch", "float32"), ("openvino", "float32"), ("torch", "bfloat16")):
        engine = load_engine(name, bench.bundle.path, threads=CORES, precision=precision)
        found[f"{name} {precision}"] = {
            case: float(np.abs(engine.predict(*values) - expected[case]).max())
            for case, values in cases.items()
        }
    return {
        "max_abs_dz": found,
        "largest_abs_z": {case: float(np.abs(values).max()) for case, values in expected.items()},
    }


def breakdown(bench: Bench) -> dict[str, Any]:
    """Where the default engine's time goes, by OpenVINO's own counters."""
    return bench.worker("breakdown", bench.bundle.path)


def memory(bench: Bench) -> dict[str, Any]:
    """Peak resident memory of a rank's process, with its reader and engine."""
    found = {}
    for label, times in (("100 MB", 1), ("1 GB", 10)):
        found[label] = bench.worker(
            "rank", bench.bare_bundle, bench.partition(times * bench.partition_galaxies)
        )
    partition = bench.partition(bench.partition_galaxies)
    mapped = bench.worker("rank", bench.bundle.path, partition)
    return {**found, "100 MB, prepared file": mapped}


def throttled_s3(bench: Bench) -> dict[str, Any]:
    """Compare a 100 MB rank over S3 at 90 MB/s with the same galaxies from memory."""
    from cosmicai.engines.base import load_engine
    from cosmicai.partition.reader import open_partition
    from cosmicai.partition.sources import S3Object

    bucket = bench.folder / "s3" / "bucket"
    bucket.mkdir(parents=True, exist_ok=True)
    path = bench.partition(bench.partition_galaxies)
    if not (bucket / "1.pt").exists():
        (bucket / "1.pt").hardlink_to(path)
    server = subprocess.Popen(
        [
            *(sys.executable, HERE / "throttled_s3.py", bucket.parent),
            *("--mb-per-second", str(S3_MB_PER_SECOND)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        from throttled_s3 import client

        assert server.stdout is not None
        source = S3Object("bucket", "1.pt", client(server.stdout.readline().strip()))
        engine = load_engine(DEFAULT_ENGINE, bench.bundle.path, threads=CORES)
        image, magnitude = galaxies(bench.partition_galaxies)

        def streamed() -> float:
            started = time.perf_counter()
            with open_partition(source, batch_size=BATCH) as reader:
                for batch in reader:
                    engine.predict(batch.image, batch.magnitude)
            return time.perf_counter() - started

        def in_memory() -> float:
            started = time.perf_counter()
            predict_all(engine, image, magnitude, BATCH)
            return time.perf_counter() - started

        streamed()
        found: dict[str, list[float]] = {"streamed": [], "in memory": []}
        for _ in range(bench.rounds):
            found["in memory"].append(in_memory())
            found["streamed"].append(streamed())
    finally:
        server.terminate()
        server.wait(10)
    pairs = zip(found["streamed"], found["in memory"], strict=True)
    return {
        "mb_per_second": S3_MB_PER_SECOND,
        "transfer_seconds_alone": path.stat().st_size / 1e6 / S3_MB_PER_SECOND,
        "seconds": {name: spread(seconds) for name, seconds in found.items()},
        "streamed / in memory": spread([a / b for a, b in pairs]),
    }


def cold_start(bench: Bench) -> dict[str, Any]:
    """Process start to first predictions, against importing torch and unpickling the model."""
    import torch

    checkpoint = bench.folder / "checkpoint.pt"
    torch.save(torch.nn.DataParallel(bench.bundle.module()), checkpoint)
    commands = {
        "import torch, load checkpoint": ("reference", checkpoint),
        f"{DEFAULT_ENGINE}, prepared file, first 32": ("first", "openvino", bench.bundle.path, 32),
        f"{DEFAULT_ENGINE}, prepared file, first 1": ("first", "openvino", bench.bundle.path, 1),
        f"{DEFAULT_ENGINE}, bundle alone, first 32": ("first", "openvino", bench.bare_bundle, 32),
        "torch, prepared file, first 32": ("first", "torch", bench.bundle.path, 32),
    }
    runs = {
        name: (lambda command=command: bench.worker(*command)["process_seconds"])
        for name, command in commands.items()
    }
    found = bench.alternate(runs)
    reference = found["import torch, load checkpoint"]
    return {
        "seconds": {name: spread(seconds) for name, seconds in found.items()},
        "of_the_reference": {
            name: spread([a / b for a, b in zip(seconds, reference, strict=True)])
            for name, seconds in found.items()
        },
    }


def growth(bench: Bench) -> dict[str, Any]:
    """Partitions a rank × cores: time and GB-seconds, a process each."""
    count = bench.partition_galaxies // 4
    path = bench.partition(count)
    rows = []
    for cores in sorted({1, CORES}):
        for partitions in (1, 2, 4, 8):
            found = bench.worker("rank", bench.bundle.path, *[path] * partitions, threads=cores)
            galaxy_count = count * partitions
            core_seconds = cores * found["seconds"]
            rows.append(
                {
                    "partitions": partitions,
                    "cores": cores,
                    "seconds": found["seconds"],
                    "load_seconds": found["load_seconds"],
                    "galaxies_per_second": galaxy_count / found["seconds"],
                    "core_seconds_per_1000_galaxies": 1000 * core_seconds / galaxy_count,
                }
            )
    return {"partition_mb": 25, "rows": rows}


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "accuracy": accuracy,
    "throughput": throughput,
    "batch_sizes": batch_sizes,
    "cold_start": cold_start,
    "throttled_s3": throttled_s3,
    "growth": growth,
    "memory": memory,
    "breakdown": breakdown,
}


def survey_cost(results: dict[str, Any]) -> dict[str, Any] | None:
    """Model the cost of the 12.6 GB data set from the measured speed of one core."""
    from cosmicai_workbench.tuning.model import survey_cost as model

    if not {"growth", "cold_start"} <= results.keys():
        return None
    rows = [row for row in results["growth"]["rows"] if row["cores"] == 1]
    rate = max(row["galaxies_per_second"] for row in rows)
    start = results["cold_start"]["seconds"][f"{DEFAULT_ENGINE}, bundle alone, first 32"]["median"]
    found = model(
        galaxies=SURVEY["galaxies"],
        ranks=round(SURVEY["bytes"] / 100e6),
        galaxies_per_second=rate,
        memory_mb=1769,
        start_seconds=start,
    )
    cheapest = found["total_dollars"]["arm64"], found["total_dollars"]["x86_64"]
    return found | {
        "published_dollars": PUBLISHED_DOLLARS,
        "share_of_published_lowest": max(cheapest) / PUBLISHED_DOLLARS[0],
        "share_of_published_highest": max(cheapest) / PUBLISHED_DOLLARS[1],
    }


def machine() -> dict[str, Any]:
    """Return what was measured on and with."""
    cpu = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": CORES,
        "architecture": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            name: version(name)
            for name in ("torch", "openvino", "onnxruntime", "onnx", "numpy", "safetensors")
        },
    }


def earlier(path: Path, *, quick: bool) -> dict[str, Any]:
    """Return the results in ``path``, so that the other sections keep theirs.

    Unless they are of another machine or other versions, which one table must not mix.
    """
    own = {"machine": machine(), "quick": quick}
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        if {key: found[key] for key in own} == own:
            return found
    return {**own, "measured_at": {}}


def write(results: dict[str, Any], out: Path) -> None:
    """Write the results, as JSON and beside it as tables."""
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")
    with out.with_suffix(".txt").open("w") as file:
        print_tables(results, file=file)


def main() -> None:
    """Measure, write the results file, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the results as JSON as well")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every comparison")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="comma-separated")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="depth 1 and small partitions: only to see that it runs; the figures mean nothing",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    options = parser.parse_args()
    results = earlier(options.out, quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="cosmicai-bench-") as folder:
        bench = Bench(Path(folder), options.rounds, quick=options.quick)
        for name in options.sections.split(","):
            print(f"{name} …", file=sys.stderr, flush=True)
            results[name] = SECTIONS[name](bench)
            results["measured_at"][name] = time.strftime("%Y-%m-%d %H:%M")
            if modelled := survey_cost(results):
                results["survey_cost"] = modelled
            write(results, options.out)  # after each section: the next may be interrupted
    print_tables(results, file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
