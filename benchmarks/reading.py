"""How fast partitions are read, how much of it hides behind the model, and in how much memory.

    python benchmarks/reading.py --json benchmarks/results/reading.json

Each figure is taken in a process of its own, sources interleaved, several times. S3 is a server in
another process on this machine, limited to 90 MB/s with 20 ms latency (what one Lambda function
gets), and unlimited.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import throttled_s3
from cosmicai.partition.reader import open_partition
from cosmicai.partition.sources import S3Object
from measuring import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

S3_MB_PER_SECOND = 90.0
S3_LATENCY_MS = 20.0


def write_partition(path: Path, megabytes: float) -> int:
    """Write random galaxies of about that size; return how many."""
    from cosmicai_workbench.data.partition_writer import GALAXY_BYTES, PartitionWriter

    rng = np.random.default_rng(0)
    count = round(megabytes * 1e6 / GALAXY_BYTES)
    with PartitionWriter(path, count, {}) as writer:
        for start in range(0, count, 1000):
            n = min(1000, count - start)
            image = rng.random((n, 5, 32, 32), dtype=np.float32)
            writer.write(image, image[:, :, 0, 0].copy(), image[:, 0, 0, 0].copy())
    return count


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """Run the server in a process of its own; give its address."""
    command = [sys.executable, throttled_s3.__file__, str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def peak_mb() -> float:
    """Return this process's peak resident memory in MB of 10^6 bytes."""
    status = Path("/proc/self/status").read_text()  # not ru_maxrss, which begins with the parent's
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def read_once(url: str | None, path: Path, batch_size: int, compute_ms: float) -> dict[str, Any]:
    """Read a partition in this process, pretending to compute for so long on each batch.

    The pretended model spins rather than sleeps, so that reading competes for the core with it.
    """
    if url is None:
        source: Path | S3Object = path
    else:
        client = throttled_s3.client(url)
        client.get_object(Bucket=path.parent.name, Key=path.name, Range="bytes=0-0")  # warm
        source = S3Object(path.parent.name, path.name, client)
    before_mb = peak_mb()
    started, cpu_started = time.perf_counter(), time.process_time()
    first = 0.0
    computed = 0.0
    with open_partition(source, batch_size=batch_size) as reader:
        for batch in reader:
            first = first or time.perf_counter() - started
            begin = time.perf_counter()
            while time.perf_counter() - begin < compute_ms / 1000 * len(batch) / batch_size:
                batch.image[0].sum()
            computed += time.perf_counter() - begin
        seconds = time.perf_counter() - started
        return {
            "megabytes": reader.nbytes / 1e6,
            "seconds": seconds,
            "mb_per_second": reader.nbytes / 1e6 / seconds,
            "cpu_seconds": None if compute_ms else time.process_time() - cpu_started,
            "first_batch_ms": first * 1e3,
            "ms_per_batch": (seconds - computed) / reader.num_batches * 1e3,
            "compute_seconds": computed,
            "over_compute": seconds / computed if compute_ms else None,
            "waited_seconds": reader.wait_seconds,
            "requests": reader.s3.requests if reader.s3 else 0,
            "peak_mb": peak_mb(),
            "peak_growth_mb": peak_mb() - before_mb,
        }


def in_process(*arguments: str) -> dict[str, Any]:
    """Take one figure in a fresh process."""
    output = subprocess.run(
        [sys.executable, __file__, "--once", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
    figures: dict[str, Any] = json.loads(output)
    return figures


def measure(sizes: list[float], repeats: int) -> dict[str, Any]:
    """Take all figures, interleaved; return medians and spreads by case."""
    samples: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="cosmicai-reading-") as scratch:
        folder = Path(scratch, "bucket")
        folder.mkdir()
        paths = {size: folder / f"{size:g}MB.pt" for size in sizes}
        for size, path in paths.items():
            write_partition(path, size)
        limit = ("--mb-per-second", str(S3_MB_PER_SECOND), "--latency-ms", str(S3_LATENCY_MS))
        free = ("--mb-per-second", "100000", "--latency-ms", "0")
        with serving(Path(scratch), *limit) as limited, serving(Path(scratch), *free) as unlimited:
            sources = {"file": "-", "s3 unlimited": unlimited, "s3 90 MB/s": limited}
            for _ in range(repeats):
                for size, path in paths.items():
                    for source, url in sources.items():
                        for batch_size in (32, 512):
                            case = f"{source}, {size:g} MB, batch {batch_size}"
                            once = in_process(url, str(path), str(batch_size), "0")
                            samples.setdefault(case, []).append(once)
                # 100 MB in 5 s, about the pace of the default engine on one vCPU at its best
                for batch_size, compute_ms in ((32, 32.0), (512, 512.0)):
                    case = f"s3 90 MB/s behind a model, {sizes[0]:g} MB, batch {batch_size}"
                    path = paths[sizes[0]]
                    once = in_process(limited, str(path), str(batch_size), str(compute_ms))
                    samples.setdefault(case, []).append(once)
    return {case: summary(figures) for case, figures in samples.items()}


def summary(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return median, minimum and maximum of each figure."""
    return {
        name: {
            "median": round(statistics.median(values), 4),
            "min": round(min(values), 4),
            "max": round(max(values), 4),
        }
        for name in figures[0]
        if (values := [each[name] for each in figures if each[name] is not None])
    }


def main() -> None:
    """Parse the command line, measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description="Measure the reading of partitions.")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=float, nargs="+", default=[100.0, 1000.0])
    parser.add_argument("--once", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        url, path, batch_size, compute_ms = options.once
        address = None if url == "-" else url
        print(json.dumps(read_once(address, Path(path), int(batch_size), float(compute_ms))))
        return
    cases = measure(options.sizes, options.repeats)
    header = ("MB/s", "first ms", "ms/batch", "CPU s", "requests", "growth MB", "over compute")
    names = (
        "mb_per_second", "first_batch_ms", "ms_per_batch", "cpu_seconds", "requests",
        "peak_growth_mb", "over_compute",
    )  # fmt: skip
    print(f"{'':44}" + "".join(f"{title:>13}" for title in header))
    for case, figures in cases.items():
        medians = [
            f"{figures[name]['median']:13.3f}" if name in figures else f"{'-':>13}"
            for name in names
        ]
        print(f"{case:44}" + "".join(medians))
    if options.json:
        setting = {
            **machine("numpy"),
            "repeats": options.repeats,
            "s3": {"mb_per_second": S3_MB_PER_SECOND, "latency_ms": S3_LATENCY_MS},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"setting": setting, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
