"""How fast, and in how much memory, ``cosmicai data convert`` reads each format.

Each conversion runs in a process of its own, in turns, over galaxies of 5 × 64 × 64 pixels; the
Parquet file has a single row group, and HDF5 and Zarr chunks of 100 galaxies.

    python benchmarks/convert.py [--galaxies 8000] [--repeat 3] [--json]

Writes ``benchmarks/results/convert.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import zarr
from measuring import machine, spread
from pyarrow import parquet

RESULTS = Path(__file__).parents[1] / "benchmarks/results/convert.json"
BANDS, SIDE, CHUNK, BLOCK = 5, 64, 100, 500

CHILD = """
import json, re, sys, time
from pathlib import Path
started = time.perf_counter()
from cosmicai_workbench.data.arrays.converting import convert_arrays
from cosmicai_workbench.data.arrays.layout import Choices
convert_arrays([Path(sys.argv[1])], Path(sys.argv[2]), Choices(bands=tuple("ugriz")), size=100)
seconds = time.perf_counter() - started
# Not ru_maxrss, which a child begins with its parent's memory in.
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(json.dumps({"seconds": seconds, "peak_rss_mb": int(peak[1]) / 1024}))
"""


def write_files(folder: Path, count: int) -> dict[str, Path]:
    """Write ``count`` galaxies of noise in each format."""
    block = np.random.default_rng(0).random((BLOCK, BANDS, SIDE, SIDE), np.float32)
    shape, chunks = (count, *block.shape[1:]), (CHUNK, *block.shape[1:])
    files = {name: folder / f"a.{name}" for name in ("hdf5", "zarr", "npz", "parquet")}
    with h5py.File(files["hdf5"], "w") as file:
        dataset = file.create_dataset("image", shape, "f4", chunks=chunks, compression="gzip")
        group = zarr.open_group(files["zarr"], mode="w")
        array = group.create_array("image", shape=shape, chunks=chunks, dtype="f4")
        for start in range(0, count, BLOCK):
            dataset[start : start + BLOCK] = block
            array[start : start + BLOCK] = block
    np.savez_compressed(files["npz"], image=np.concatenate([block] * (count // BLOCK)))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block[0].size)
    images = pa.chunked_array([flat.cast(pa.list_(pa.float32()))] * (count // BLOCK))
    parquet.write_table(pa.table({"image": images}), files["parquet"], row_group_size=count)
    return files


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--galaxies", type=int, default=8000, help=f"a multiple of {BLOCK}")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        files = write_files(Path(scratch), arguments.galaxies)
        for turn in range(arguments.repeat):
            for name, path in files.items():
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    command = [sys.executable, "-c", CHILD, str(path), f"{folder}/{turn}"]
                    child = subprocess.run(command, text=True, capture_output=True, check=True)
                runs.setdefault(name, []).append(json.loads(child.stdout))
    results = {
        "benchmark": "convert",
        "n": arguments.repeat,
        "galaxies": arguments.galaxies,
        "megabytes": arguments.galaxies * BANDS * SIDE**2 * 4 / 2**20,
        "formats": {
            name: {
                figure: spread([run[figure] for run in each])
                for figure in ("seconds", "peak_rss_mb")
            }
            for name, each in runs.items()
        },
        "machine": machine("numpy", "h5py", "zarr", "pyarrow"),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2 if arguments.json else None))


if __name__ == "__main__":
    main()
