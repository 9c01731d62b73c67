"""Inference speed, memory, start and cost of the engines, against what one would use otherwise.

    python benchmarks/inference.py            # tables; results/inference.json and .txt
    python benchmarks/inference.py --json     # the results as JSON on stdout as well
    python benchmarks/inference.py --sections throughput --rounds 9   # the others keep theirs
    python benchmarks/inference.py --instruction-set avx2 --sections throughput,products,survey_cost

Lambda promises AVX2 on x86_64 and no more. ``--instruction-set avx2`` holds every contestant that
can be held to it, each by its own setting; ONNX Runtime has none and is left out.

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
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.engines.registry import DEFAULT_ENGINE
from cosmicai.facts import BANDS, IMAGE_SIZE
from cosmicai.machine import multiplies_bfloat16, processor_features
from cosmicai.model.config import PATCH_SIZE, PATCHES, TOKENS
from inference_baselines import AS_PUBLISHED, baselines, fill, galaxies
from inference_report import print_tables
from measuring import spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from cosmicai.model.config import ModelConfig

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "inference.json"
CORES = len(os.sched_getaffinity(0))
PARTITION = 5113
BATCH = 512
BATCH_SIZES = (32, 64, 128, 256, 512)
S3_MB_PER_SECOND = 90
SURVEY = {"bytes": 12.6e9, "galaxies": 645_000}
PUBLISHED_DOLLARS = (0.16, 0.38)
PUBLISHED_RATE = {"galaxies_per_second": 222, "vcpus": 5.8}
"""Of a rank of the published system (median of 517 ranks, 10,240 MB, x86_64)."""
HELD_TO_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
"""Settings of PyTorch, oneDNN (in PyTorch and OpenVINO), MKL and OpenBLAS."""
PAUSE = 0.3  # seconds, in which a library's threads stop spinning


class Bench:
    """The files all sections share, and how they measure."""

    def __init__(
        self, folder: Path, rounds: int, *, instruction_set: str | None, quick: bool = False
    ) -> None:
        from cosmicai.model.astromae import AstroMAE
        from cosmicai.model.bundle import save_bundle
        from cosmicai.model.config import ModelConfig
        from cosmicai.model.prepare import write_prepared

        self.folder = folder
        self.rounds = rounds
        self.instruction_set = instruction_set
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

    def engine(self, name: str, precision: str = "float32") -> Any:
        """Load an engine, held to the instruction set."""
        from cosmicai.engines.base import load_engine
        from cosmicai.engines.native_engine import NativeEngine

        if name == "native":
            return NativeEngine(self.bundle, CORES, self.instruction_set)
        return load_engine(name, self.bundle.path, threads=CORES, precision=precision)

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


def timed(run: Callable[[], object], count: int) -> Callable[[], float]:
    """Return a run that gives galaxies per second."""

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
    """Engines and baselines, galaxies per second at batch 512."""
    count = BATCH
    image, magnitude = galaxies(count)
    runs = {
        name: timed(run, count)
        for name, run in baselines(
            bench.bundle, image, magnitude, BATCH, CORES, held=bench.instruction_set is not None
        ).items()
    }
    ours = {name: bench.engine(name) for name in ("native", "openvino", "torch")}
    if multiplies_bfloat16(processor_features()) and bench.instruction_set is None:
        ours["torch bfloat16"] = bench.engine("torch", "bfloat16")
    for name, engine in ours.items():
        runs[name] = timed(
            lambda engine=engine: predict_all(engine, image, magnitude, BATCH), count
        )
    found = bench.alternate(runs)
    pairs = [(name, other) for name in ("native", "openvino", "torch") for other in found]
    ratios = {
        f"{name} / {other}": spread([a / b for a, b in zip(found[name], found[other], strict=True)])
        for name, other in pairs
        if other not in ours or (name, other) == ("native", "openvino")
    }
    return {
        "galaxies_a_round": count,
        "galaxies_per_second": {name: spread(rates) for name, rates in found.items()},
        "ratios": ratios,
    }


def product_operations(config: ModelConfig) -> dict[str, float]:
    """Return a galaxy's multiplications and additions in products, by the engine's parts.

    The scores and the weighted sums of attention are products too, but small ones: they count as
    attention.
    """
    width, side = config.width, IMAGE_SIZE // 2  # pixels on a side of the first maps
    other = PATCHES * BANDS * PATCH_SIZE**2 * width
    other += side**2 * BANDS * config.stem_width
    inputs, pooled = BANDS, config.stem_width
    last = len(config.inception_widths) - 1
    for index, channels in enumerate(config.inception_widths):
        branches, kernels = (2, 3 * 3) if index == last else (3, 3 * 3 + 5 * 5)
        other += side**2 * channels * (inputs * branches + channels * kernels + pooled)
        inputs = pooled = 4 * channels
        side //= 2 if index in (1, 3) else 1
    flat = 3 * config.inception_widths[-1] * side**2
    other += (width + flat) * config.branch_width
    other += (BANDS + 3 * config.magnitude_width) * config.magnitude_width
    other += (2 * config.branch_width + config.magnitude_width) * config.head_width
    other += config.head_width * config.output.values
    mlp_rows = 2 * TOKENS * (config.depth - 1) + TOKENS + 1  # the last layer is applied to a mean
    multiplications = {
        "convolutions": 2 * 36 * width * config.conv_width * config.depth,
        "qkv and proj": TOKENS * 4 * width * width * config.depth,
        "mlp": mlp_rows * width * config.mlp_width,
        "other products": other,
    }
    return {part: 2 * count for part, count in multiplications.items()}


def products(bench: Bench) -> dict[str, Any]:
    """Compare the native engine's products with the fastest that PyTorch's library reaches."""
    import torch

    engine = bench.engine("native")
    image, magnitude = galaxies(BATCH)
    operations = product_operations(bench.bundle.config)
    side = 2048
    a, b = torch.rand(side, side), torch.rand(side, side)

    def library() -> float:
        torch.set_num_threads(CORES)
        started = time.perf_counter()
        for _ in range(4):
            torch.mm(a, b)
        return 4 * 2 * side**3 / (time.perf_counter() - started) / CORES / 1e9

    shares: list[float] = []

    def native() -> float:
        before = engine.seconds()
        engine.predict(image, magnitude)
        spent = {part: value - before[part] for part, value in engine.seconds().items()}
        shares.append(1 - sum(spent[part] for part in operations) / sum(spent.values()))
        rate = sum(operations.values()) * BATCH / sum(spent[part] for part in operations)
        return float(rate) / 1e9

    found = bench.alternate({"library": library, "native": native})
    pairs = zip(found["native"], found["library"], strict=True)
    return {
        "gflops_per_core": {name: spread(rates) for name, rates in found.items()},
        "native / library": spread([ours / theirs for ours, theirs in pairs]),
        "share_of_time_beside_products": spread(shares),
    }


def threads(bench: Bench) -> dict[str, Any]:
    """Compare the native engine on every core with itself on one."""
    from cosmicai.engines.native_engine import NativeEngine

    image, magnitude = galaxies(BATCH)
    runs = {}
    for count in sorted({1, CORES}):
        engine = NativeEngine(bench.bundle, count, bench.instruction_set)
        runs[str(count)] = timed(partial(engine.predict, image, magnitude), BATCH)
    found = bench.alternate(runs)
    pairs = zip(found[str(CORES)], found["1"], strict=True)
    return {
        "galaxies_per_second": {name: spread(rates) for name, rates in found.items()},
        "ratio": spread([many / one for many, one in pairs]),
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
    kinds = [("native", "float32"), ("openvino", "float32"), ("torch", "float32")]
    kinds += [("torch", "bfloat16")] if multiplies_bfloat16(processor_features()) else []
    for name, precision in kinds:
        engine = bench.engine(name, precision)
        found[f"{name} {precision}"] = {
            case: float(np.abs(engine.predict(*values) - expected[case]).max())
            for case, values in cases.items()
        }
    return {
        "max_abs_dz": found,
        "largest_abs_z": {case: float(np.abs(values).max()) for case, values in expected.items()},
    }


def breakdown(bench: Bench) -> dict[str, Any]:
    """Where the default engine's time goes, by its own clocks."""
    engine = bench.engine("native")
    image, magnitude = galaxies(BATCH)
    best: dict[str, float] = {}
    for _ in range(bench.rounds):
        before = engine.seconds()
        engine.predict(image, magnitude)
        for part, seconds in engine.seconds().items():
            spent = seconds - before[part]
            best[part] = min(best.get(part, spent), spent)
    parts = {part: seconds / BATCH * 1e6 for part, seconds in best.items()}
    ordered = dict(sorted(parts.items(), key=lambda part: -part[1]))
    return {"threads": CORES, "galaxies_at_once": BATCH, "microseconds_a_galaxy": ordered}


def memory(bench: Bench) -> dict[str, Any]:
    """Peak resident memory of a rank's process, with its reader and engine."""
    found = {}
    for label, times in (("100 MB", 1), ("1 GB", 10)):
        found[label] = bench.worker(
            "rank", bench.bare_bundle, bench.partition(times * bench.partition_galaxies)
        )
    return found


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
        "native, first 1": ("first", "native", bench.bare_bundle, 1),
        "native, first 32": ("first", "native", bench.bare_bundle, 32),
        "openvino, prepared file, first 32": ("first", "openvino", bench.bundle.path, 32),
        "openvino, bundle alone, first 32": ("first", "openvino", bench.bare_bundle, 32),
        "torch, prepared file, first 32": ("first", "torch", bench.bundle.path, 32),
    }
    runs = {
        name: (lambda command=command: bench.worker(*command)["process_seconds"])
        for name, command in commands.items()
    }
    found = bench.alternate(runs)
    reference = found["import torch, load checkpoint"]
    first = [bench.worker(*commands["native, first 32"])["processor_seconds"] for _ in range(5)]
    return {
        "native_processor_seconds": {
            part: spread([parts[part] for parts in first]) for part in first[0]
        },
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
    "products": products,
    "threads": threads,
    "batch_sizes": batch_sizes,
    "cold_start": cold_start,
    "throttled_s3": throttled_s3,
    "growth": growth,
    "memory": memory,
    "breakdown": breakdown,
}


def survey_cost(results: dict[str, Any]) -> dict[str, Any] | None:
    """Model the cost of the 12.6 GB data set on Lambda's x86_64.

    The published rate per vCPU, times our engine's measured ratio to the way the published system
    ran its model, both held to AVX2. Nothing of it was run on AWS.
    """
    from cosmicai_workbench.tuning.estimates import survey_cost as model

    if results["machine"]["instruction_set"] != "avx2" or "throughput" not in results:
        return None
    ratio = results["throughput"]["ratios"][f"native / {AS_PUBLISHED}"]
    per_vcpu = PUBLISHED_RATE["galaxies_per_second"] / PUBLISHED_RATE["vcpus"]
    start_seconds = 3.0  # budget of docs/deploy.md: imports, 190 MB of model, packing
    dollars = {
        bound: model(
            galaxies=SURVEY["galaxies"],
            ranks=round(SURVEY["bytes"] / 100e6),
            galaxies_per_second=per_vcpu * ratio[bound],
            memory_mb=1769,
            start_seconds=start_seconds,
        )["total_dollars"]["x86_64"]
        for bound in ("median", "min", "max")
    }
    return {
        "dollars": dollars,
        "ratio": ratio,
        "published_galaxies_per_second_and_vcpu": per_vcpu,
        "start_seconds": start_seconds,
        "memory_mb": 1769,
        "published_dollars": PUBLISHED_DOLLARS,
    }


def widest_instruction_set() -> str:
    """Return the name of what the native engine takes here: ``avx512``, ``avx2`` or ``neon``."""
    from cosmicai.engines.native_engine import widest_instruction_set

    return widest_instruction_set()


def machine(instruction_set: str) -> dict[str, Any]:
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
        "instruction_set": instruction_set,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            name: version(name)
            for name in ("torch", "openvino", "onnxruntime", "onnx", "numpy", "safetensors")
        },
    }


def earlier(path: Path, instruction_set: str, *, quick: bool) -> dict[str, Any]:
    """Return the results in ``path``, so that the other sections keep theirs.

    Unless they are of another machine or other versions, which one table must not mix.
    """
    own = {"machine": machine(instruction_set), "quick": quick}
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
    parser.add_argument(
        "--instruction-set",
        choices=("avx2",),
        help="hold every contestant to it; by default, each takes the widest there is",
    )
    parser.add_argument("--out", type=Path, help="results file")
    options = parser.parse_args()
    held = options.instruction_set
    if held and not os.environ.get("COSMICAI_BENCHMARK_HELD"):
        # Libraries read their settings when they load: start again with them.
        os.environ.update(HELD_TO_AVX2, COSMICAI_BENCHMARK_HELD="1")
        os.execv(sys.executable, [sys.executable, *sys.argv])
    out = options.out or RESULTS.with_stem(f"inference-{held}" if held else "inference")
    results = earlier(out, held or widest_instruction_set(), quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="cosmicai-bench-") as folder:
        bench = Bench(Path(folder), options.rounds, instruction_set=held, quick=options.quick)
        for name in options.sections.split(","):
            print(f"{name} …", file=sys.stderr, flush=True)
            results[name] = SECTIONS[name](bench)
            results["measured_at"][name] = time.strftime("%Y-%m-%d %H:%M")
            if modelled := survey_cost(results):
                results["survey_cost"] = modelled
            write(results, out)  # after each section: the next may be interrupted
    print_tables(results, file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
