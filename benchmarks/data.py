"""How fast galaxies are painted, and how fast and in how much memory a data set is split.

Painting is timed by CPU seconds, so per core, with the clipped exponent and without it, in turns.
Splitting runs in a process of its own over a file of one gigabyte.

    python benchmarks/data.py [--galaxies 2000] [--megabytes 1024] [--repeat 5] [--json]

Writes ``benchmarks/results/data.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cosmicai_workbench.data import painting
from cosmicai_workbench.data.morphology import draw_morphology
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.data.photometry import load_split
from cosmicai_workbench.data.splitting import galaxies_per_partition
from cosmicai_workbench.data.synthesis import BLOCK, synthesize
from measuring import machine, spread

RESULTS = Path(__file__).parents[1] / "benchmarks/results/data.json"
SPLIT_LIMIT_MB = 500
UNCLIPPED = np.float32(-np.inf)

CHILD = """
import json, re, sys, time
from pathlib import Path
started = time.perf_counter()
from cosmicai_workbench.data.splitting import galaxies_per_partition, split_dataset
parts = split_dataset(Path(sys.argv[1]), Path(sys.argv[2]), galaxies_per_partition(100))
seconds = time.perf_counter() - started
# Not ru_maxrss, which a child begins with its parent's memory in.
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(json.dumps({
    "seconds": seconds,
    "peak_rss_mb": int(peak[1]) / 1024,
    "partitions": len(parts),
}))
"""


def measure_painting(count: int, repeat: int) -> dict[str, object]:
    """Paint ``count`` galaxies ``repeat`` times, with and without the clip in turns."""
    galaxies = load_split("train")[:count]
    clip = painting._LOWEST_EXPONENT
    rates: dict[str, list[float]] = {"clipped": [], "unclipped": []}
    for turn in range(repeat + 1):
        for name, lowest in (("clipped", clip), ("unclipped", UNCLIPPED)):
            painting._LOWEST_EXPONENT = lowest
            rng = np.random.default_rng(turn)
            started = time.process_time()
            painting.paint(galaxies.flux, draw_morphology(galaxies, rng), rng)
            if turn:  # the first round warms up
                rates[name].append(count / (time.process_time() - started))
    painting._LOWEST_EXPONENT = clip
    ratios = [a / b for a, b in zip(rates["clipped"], rates["unclipped"], strict=True)]
    return {
        "galaxies": count,
        "galaxies_per_cpu_second": spread(rates["clipped"]),
        "clipped_over_unclipped": spread(ratios),
    }


def measure_splitting(megabytes: int, repeat: int) -> dict[str, object]:
    """Split a file of so many megabytes ``repeat`` times."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "survey.pt"
        block = next(synthesize(BLOCK, "test", 0))
        blocks = -(-galaxies_per_partition(megabytes) // BLOCK)
        with PartitionWriter(source, blocks * BLOCK, {}) as writer:
            for _ in range(blocks):
                writer.write(block.image, block.magnitude, block.redshift)
        for turn in range(repeat):
            command = [sys.executable, "-c", CHILD, str(source), str(Path(folder) / str(turn))]
            child = subprocess.run(command, text=True, capture_output=True, check=True)
            runs.append(json.loads(child.stdout))
            for path in (Path(folder) / str(turn)).iterdir():
                path.unlink()
    return {
        "megabytes": megabytes,
        "partitions": runs[0]["partitions"],
        "seconds": spread([run["seconds"] for run in runs]),
        "peak_rss_mb": spread([run["peak_rss_mb"] for run in runs]),
        "limit_peak_rss_mb": SPLIT_LIMIT_MB,
    }


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--galaxies", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_args()
    results = {
        "benchmark": "data",
        "n": arguments.repeat,
        "painting": measure_painting(arguments.galaxies, arguments.repeat),
        "splitting": measure_splitting(arguments.megabytes, arguments.repeat),
        "machine": machine("numpy"),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2 if arguments.json else None))


if __name__ == "__main__":
    main()
