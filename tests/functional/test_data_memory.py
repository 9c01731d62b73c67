"""Memory stays flat whatever the size of a data set."""

import subprocess
import sys
from pathlib import Path

import pytest
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.data.splitting import galaxies_per_partition
from cosmicai_workbench.data.synthesis import BLOCK, synthesize

GIGABYTE = 1024  # in megabytes
LIMIT = 500  # megabytes

MEASURED = """
import pathlib, re, sys
from cosmicai_workbench.cli.main import main
code = main(sys.argv[1:])
# Not ru_maxrss, which a child begins with its parent's memory in.
peak = re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())
print(code, int(peak[1]) // 1024)
"""


def peak_megabytes(*words: str) -> int:
    """Run the command in a process of its own and return its peak resident memory."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True
    )
    code, peak = run.stdout.splitlines()[-1].split()
    assert code == "0", run.stderr
    return int(peak)


@pytest.mark.slow
def test_splitting_a_gigabyte_stays_under_500_mb(tmp_path: Path) -> None:
    source, folder = tmp_path / "survey.pt", tmp_path / "parts"
    block = next(synthesize(BLOCK, "test", 0))
    blocks = galaxies_per_partition(GIGABYTE) // BLOCK + 1
    with PartitionWriter(source, blocks * BLOCK, {}) as writer:
        for _ in range(blocks):
            writer.write(block.image, block.magnitude, block.redshift)
    assert source.stat().st_size > GIGABYTE * 2**20
    assert peak_megabytes("data", "split", "--size", "100", str(source), str(folder)) < LIMIT
    assert len([*folder.glob("*.pt")]) == 11
    assert all(path.stat().st_size <= 100 * 2**20 for path in folder.glob("*.pt"))


@pytest.mark.slow
def test_making_ten_times_the_galaxies_takes_no_more_memory(tmp_path: Path) -> None:
    few, many = (
        peak_megabytes("data", "make", "-n", str(count), str(tmp_path / f"{count}.pt"))
        for count in (3000, 30000)
    )
    assert many < few + 40
    assert many < LIMIT


def _image_files(folder: Path, count: int) -> list[Path]:
    """Write ``count`` galaxies in each format, as large chunks as users' programs write."""
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    block = np.random.default_rng(0).random((500, 5, 64, 64), np.float32)
    shape = (count, *block.shape[1:])
    with h5py.File(folder / "a.hdf5", "w") as file:
        dataset = file.create_dataset("image", shape, "f4", chunks=(100, 5, 64, 64))
        array = zarr.open_group(folder / "a.zarr", mode="w").create_array(
            "image", shape=shape, chunks=(100, 5, 64, 64), dtype="f4"
        )
        for start in range(0, count, len(block)):
            dataset[start : start + len(block)] = block
            array[start : start + len(block)] = block
    np.savez_compressed(folder / "a.npz", image=np.concatenate([block] * (count // len(block))))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block[0].size)
    images = pa.chunked_array([flat.cast(pa.list_(pa.float32()))] * (count // len(block)))
    parquet.write_table(pa.table({"image": images}), folder / "a.parquet", row_group_size=count)
    return [folder / f"a.{kind}" for kind in ("hdf5", "zarr", "npz", "parquet")]


@pytest.mark.slow
def test_converting_eight_times_the_galaxies_takes_no_more_memory(tmp_path: Path) -> None:
    files = [_image_files(tmp_path / str(count), count) for count in (1000, 8000)]
    for pair in zip(*files, strict=True):
        few, many = (
            peak_megabytes(
                "data", "convert", str(path), str(path.parent / "parts"), "--bands", "u,g,r,i,z",
                "--size", "20", "--overwrite",
            )
            for path in pair
        )  # fmt: skip
        assert many < few + 60, pair[0].name
        assert many < LIMIT, pair[0].name
