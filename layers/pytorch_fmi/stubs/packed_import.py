"""Unpack the layer's zstd archive into /tmp when a packed module is first imported.

A function that never imports torch never pays for it. Any number of processes may come at once and
any of them may be killed half-way: one holds the lock, the others wait; the folder appears by one
rename, whole; what a killed one left is removed by the next.
"""

import fcntl
import os
import shutil
import sys
import tarfile
from importlib.machinery import PathFinder
from pathlib import Path

ARCHIVE = Path(__file__).with_name("torch.tar.zst")


def unfold(name: str) -> None:
    """Turn the stub module `name` into the real one from the archive.

    Raises
    ------
    ImportError
        The archive does not hold `name`.
    """
    # The one folder of Lambda that can be written.
    writable = "/tmp"  # noqa: S108  # nosec B108
    folder = unpack(ARCHIVE, Path(os.environ.get("COSMICAI_UNPACK_FOLDER", writable)))
    spec = PathFinder.find_spec(name, [str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{ARCHIVE.name} does not hold {name}", name=name)
    module = sys.modules[name]
    module.__spec__, module.__loader__ = spec, spec.loader
    module.__file__, module.__path__ = spec.origin, list(spec.submodule_search_locations or ())
    spec.loader.exec_module(module)


def unpack(archive: Path, parent: Path) -> Path:
    """Unpack the archive under `parent` unless it is there; return the folder that holds it.

    Raises
    ------
    OSError
        Not enough room in `parent`; nothing half-written stays.
    """
    digest = archive.with_name(f"{archive.name}.sha256").read_text().strip()
    folder = parent / f"{archive.name}-{digest[:16]}"
    if folder.is_dir():
        return folder
    with (parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases a killed holder's lock
        if not folder.is_dir():
            partial = parent / f"{folder.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            try:
                _extract(archive, partial)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)  # /tmp outlives a failed import
                raise
            partial.rename(folder)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    import zstandard  # Python 3.13's standard library has no zstd

    with (
        archive.open("rb") as packed,
        zstandard.ZstdDecompressor().stream_reader(packed) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        tar.extractall(folder, filter="data")
