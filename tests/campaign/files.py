"""Campaign part: files damaged at random, read under limits of memory, time and conduct.

Each trial damages a partition, a checkpoint, a bundle, a prepared file, or a file of arrays to be
converted, and reads it in a process of its own that may use so much memory and time, and where an
audit hook ends whatever opens a socket, starts a program or writes outside its folder. Right is
what was in the sound file, or a named error; a bundle may differ if its digest does, and an array
where its format has no checksums.

    PYTHONPATH=tests python -m campaign.files --seed 1 --trials 500
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from campaign.campaign import Outcome, Verdict, main
from cosmicai.errors import CosmicAIError
from cosmicai.model.bundle import Bundle
from cosmicai.model.prepare import PREPARED_NAME, build_prepared, prepare, write_prepared
from cosmicai.partition.catalogue import Catalogue, ColumnInfo, column_of
from cosmicai.partition.imaging import GalaxyShape
from cosmicai.partition.reader import open_partition
from cosmicai_workbench.data.arrays.converting import convert_arrays
from cosmicai_workbench.data.arrays.layout import Choices
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.modeling.checkpoint import import_checkpoint
from model_fill import SMALL, filled_bundle
from reference_checkpoint import save_reference_checkpoint

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from numpy.typing import NDArray

MEMORY_BYTES = 1024**3
"""More address space than the process has when a trial begins."""
SECONDS = 20.0
LONGEST_MESSAGE = 4000
COUNT = 3
FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "ctypes.",
)


# -- one read, in a process of its own -----------------------------------------------------------


def isolated(folder: Path, read: Callable[[], Verdict]) -> Verdict:
    """Run ``read`` in a child process under limits; a child that does not end is hung."""
    outgoing, incoming = os.pipe()
    child = os.fork()
    if not child:
        os.close(outgoing)
        _read_and_report(folder, read, incoming)
    os.close(incoming)
    said, end = b"", time.monotonic() + SECONDS
    try:
        while select.select([outgoing], [], [], max(0.0, end - time.monotonic()))[0]:
            part = os.read(outgoing, 65536)
            if not part:
                break
            said += part
        else:
            return Outcome.HUNG, f"no end within {SECONDS} s"
    finally:
        os.close(outgoing)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if not said:
        return Outcome.WRONG, f"the reading process died, status {status}"
    outcome, detail = json.loads(said)
    return Outcome(outcome), detail


def _read_and_report(folder: Path, read: Callable[[], Verdict], incoming: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
    crimes: list[str] = []
    sys.addaudithook(lambda event, arguments: _watch(event, arguments, folder, crimes))
    try:
        verdict = read()
    except CosmicAIError as error:
        named = 10 < len(str(error)) < LONGEST_MESSAGE
        outcome = Outcome.HELD if named else Outcome.UNCLEAR
        verdict = outcome, f"{type(error).__name__}: {str(error)[:300]}"
    except BaseException:  # noqa: BLE001 - whatever it is, it is no named error
        verdict = Outcome.UNCLEAR, traceback.format_exc(limit=-4)[-1500:]
    if crimes:
        verdict = Outcome.WRONG, f"while reading: {crimes[0]}"
    os.write(incoming, json.dumps(verdict).encode())
    os._exit(0)


def _watch(event: str, arguments: tuple[Any, ...], folder: Path, crimes: list[str]) -> None:
    path, mode, flags = (*arguments, None, None, None)[:3]
    writes = event == "open" and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    if writes and isinstance(path, str) and path != os.devnull:
        writes = not Path(path).is_relative_to(folder)
    elif writes:
        writes = isinstance(path, bytes)
    # An event loop of asyncio, which Zarr has, wakes itself through a pair of sockets.
    pair = event == "socket.__new__" and arguments[1] == socket.AF_UNIX
    if (event.startswith(FORBIDDEN) and not pair) or writes:
        crimes.append(f"{event} {str(arguments)[:200]} {mode or ''}")


# -- damage --------------------------------------------------------------------------------------


def damage(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes, mostly near the ends, where structure is; perhaps move, cut or repeat."""
    damaged = bytearray(content)

    def place() -> int:
        size = len(content)
        edge = min(size, 4096)
        at = rng.choice((rng.randrange(edge), size - 1 - rng.randrange(edge), rng.randrange(size)))
        return min(at, len(damaged) - 1)

    if rng.random() < 0.5:  # the least damage is the hardest to notice
        damaged[place()] ^= 1 << rng.randrange(8)
        return bytes(damaged)
    for _ in range(rng.randrange(6)):
        damaged[place()] = rng.randrange(256)
    if rng.random() < 0.3 and len(damaged) > 8:
        number = rng.choice((0, 1, 2**16 - 1, 2**31, 2**32 - 1))
        struct.pack_into("<I", damaged, min(place(), len(damaged) - 4), number)
    first, last = sorted((place(), place()))
    change = rng.choice(("keep", "keep", "keep", "cut", "drop", "repeat", "swap"))
    if change == "cut":
        del damaged[first:]
    elif change == "drop":
        del damaged[first:last]
    elif change == "repeat":
        damaged[first:first] = damaged[first:last]
    elif change == "swap":
        damaged = damaged[first:] + damaged[:first]
    return bytes(damaged)


def same(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(array, expected[name], equal_nan=array.dtype.kind == "f")
        for name, array in found.items()
    )


# -- the files -----------------------------------------------------------------------------------


@cache
def _sound() -> Path:
    """Make the sound files, once."""
    folder = Path(tempfile.mkdtemp(prefix="campaign-files-"))
    atexit.register(shutil.rmtree, folder)
    rng = np.random.default_rng(7)
    names = Catalogue([column_of(ColumnInfo("object_id", "int64"), range(COUNT))])
    with PartitionWriter(folder / "1.pt", COUNT, {"notice": "a test"}, rejected=names) as writer:
        writer.write(
            rng.random((COUNT, 5, 32, 32), dtype=np.float32),
            rng.random((COUNT, 5), dtype=np.float32),
            rng.random(COUNT, dtype=np.float32),
        )
        writer.write_catalogue(names)
    shape = GalaxyShape(bands=3, side=8, magnitudes=0)
    stated = {"bands": ["g", "r", "z"], "pixel_scale": 0.262, "photometric_system": "DECam"}
    with PartitionWriter(folder / "2.pt", COUNT, stated, shape=shape) as writer:
        writer.write(
            rng.random((COUNT, *shape.image), dtype=np.float32),
            np.empty((COUNT, 0), np.float32),
            rng.random(COUNT, dtype=np.float32),
        )
    _write_arrays(folder, rng.random((COUNT, *shape.image), dtype=np.float32))
    bundle = filled_bundle(SMALL, folder / "bundle")
    save_reference_checkpoint(folder / "mae.pt", SMALL, bundle.tensors())
    write_prepared(bundle, folder)
    return folder


def _write_arrays(folder: Path, image: NDArray[np.float32]) -> None:
    """Write galaxies in every format that ``cosmicai data convert`` takes."""
    import h5py
    import pyarrow as pa
    import zarr
    from pyarrow import parquet

    columns = {"image": image, "object_id": np.arange(COUNT), "ra": np.full(COUNT, 2.5)}
    np.savez_compressed(folder / "arrays.npz", **columns)
    options = {"chunks": (2, 3, 8, 8), "compression": "gzip", "fletcher32": True}
    with h5py.File(folder / "arrays.hdf5", "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, **(options if name == "image" else {}))
    for version in (2, 3):
        store = zarr.open_group(folder / f"arrays{version}.zarr", mode="w", zarr_format=version)
        for name, values in columns.items():
            store.create_array(name, data=values, chunks=(2, *values.shape[1:]))
    lists = {name: pa.array(values.tolist()) for name, values in columns.items()}
    parquet.write_table(pa.table(lists), folder / "arrays.parquet", write_page_checksum=True)


def _partition_values(path: Path) -> dict[str, NDArray[Any]]:
    with open_partition(path, batch_size=2) as reader:
        batches = list(reader)
        said = str((reader.imaging, reader.metadata))
        carried, rejected = reader.catalogue(), reader.rejected()
    values: dict[str, NDArray[Any]] = {
        name: np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("image", "magnitude", "redshift")
        if batches
    }
    values["said"] = np.array(said)
    for kind, catalogue in (("catalogue", carried), ("rejected", rejected)):
        values |= catalogue.to_arrays(kind) if catalogue is not None else {}
    return values


@cache
def _expected_partition(name: str) -> dict[str, NDArray[Any]]:
    return _partition_values(_sound() / name)


@cache
def _expected_arrays(name: str) -> dict[str, NDArray[Any]]:
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        return _converted(_sound() / name, Path(folder))


@cache
def _expected_bundle() -> tuple[str, dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    bundle = Bundle(_sound() / "bundle")
    return bundle.digest, bundle.tensors(), dict(prepare(bundle))


def _trial(rng: random.Random, name: str, read: Callable[[Path, Path], Verdict]) -> Verdict:
    """Damage the sound file of that name in a folder of the trial's own, and read it."""
    source = _sound() / name
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        folder = Path(scratch)
        path = folder / source.name
        path.write_bytes(damage(source.read_bytes(), rng))
        return isolated(folder, lambda: read(folder, path))


def partition(rng: random.Random) -> Verdict:
    """A damaged partition gives the right galaxies, with their names, or a named error."""
    name = rng.choice(("1.pt", "2.pt"))
    expected = _expected_partition(name)

    def read(_: Path, path: Path) -> Verdict:
        right = same(_partition_values(path), expected)
        return (Outcome.SURVIVED, "") if right else (Outcome.WRONG, "other galaxies were read")

    return _trial(rng, name, read)


def _converted(path: Path, folder: Path) -> dict[str, NDArray[Any]]:
    result = convert_arrays([path], folder / "out", Choices(bands=("g", "r", "z")))
    return _partition_values(Path(result.partitions[0]))


def arrays(rng: random.Random) -> Verdict:
    """A damaged file of arrays gives whole partitions, or a named error and none at all."""
    name = rng.choice(
        ("arrays.npz", "arrays.hdf5", "arrays.parquet", "arrays2.zarr", "arrays3.zarr")
    )
    expected = _expected_arrays(name)
    source = _sound() / name
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        folder = Path(scratch)
        path = folder / name
        if source.is_dir():
            shutil.copytree(source, path)
            damaged = rng.choice(sorted(each for each in path.rglob("*") if each.is_file()))
        else:
            damaged = Path(shutil.copy(source, path))
        damaged.write_bytes(damage(damaged.read_bytes(), rng))

        def read() -> Verdict:
            try:
                found = _converted(path, folder)
            except CosmicAIError:
                if (folder / "out").exists():
                    return Outcome.WRONG, "partitions were left behind"
                raise
            if same(found, expected):
                return Outcome.SURVIVED, ""
            if name == "arrays.npz":
                return Outcome.WRONG, "other galaxies were read in spite of checksums"
            return Outcome.SURVIVED, "other values, where the format has no checksums"

        return isolated(folder, read)


def checkpoint(rng: random.Random) -> Verdict:
    """A damaged checkpoint gives the right weights, or a named error and no bundle."""
    _, expected, _ = _expected_bundle()

    def read(folder: Path, path: Path) -> Verdict:
        try:
            imported = import_checkpoint(path, folder / "out")
        except CosmicAIError:
            if (folder / "out").exists():
                return Outcome.WRONG, "a bundle was left behind"
            raise
        right = same(imported.bundle.tensors(), expected) and imported.bundle.config == SMALL
        return (Outcome.SURVIVED, "") if right else (Outcome.WRONG, "other weights were read")

    return _trial(rng, "mae.pt", read)


def bundle(rng: random.Random) -> Verdict:
    """A damaged bundle is refused by name, or has another digest."""
    digest, expected, _ = _expected_bundle()
    name = rng.choice(("config.json", "model.safetensors", "model.safetensors"))

    def read(folder: Path, _: Path) -> Verdict:
        for other in (_sound() / "bundle").iterdir():
            if not (folder / other.name).exists():
                (folder / other.name).write_bytes(other.read_bytes())
        found = Bundle(folder)
        if found.digest != digest:
            found.tensors()
            return Outcome.SURVIVED, "another model, and its digest says so"
        right = same(found.tensors(), expected) and found.config == SMALL
        return (Outcome.SURVIVED, "") if right else (Outcome.WRONG, "another model, same digest")

    return _trial(rng, f"bundle/{name}", read)


def prepared(rng: random.Random) -> Verdict:
    """A damaged prepared file is not used, or is refused by name."""
    _, _, expected = _expected_bundle()

    def read(folder: Path, _: Path) -> Verdict:
        for other in (_sound() / "bundle").iterdir():
            (folder / other.name).write_bytes(other.read_bytes())
        found = build_prepared(Bundle(folder), dict, threads=1)
        right = same(found, expected)
        return (Outcome.SURVIVED, "") if right else (Outcome.WRONG, "other tensors were used")

    return _trial(rng, PREPARED_NAME, read)


PARTS = {
    "partition": partition,
    "arrays": arrays,
    "checkpoint": checkpoint,
    "bundle": bundle,
    "prepared": prepared,
}

if __name__ == "__main__":
    sys.exit(main(PARTS))
