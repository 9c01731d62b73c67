"""Our reader of a partition's zip directory beside the standard library's ``zipfile``.

Prints processor time and memory for a directory as partitions have it and for a large one,
and which damaged or hostile archives each accepts. ``docs/data-format.md`` tells what
follows from it.
"""

import argparse
import io
import json
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

from cosmicai.facts import MB
from cosmicai.partition.archive import CorruptArchive, TorchArchive
from cosmicai.partition.sources import FileSource

ROUNDS = 5
LARGEST = 20_000
"""Members of a directory as only a hostile file has it."""


def ours(path: Path) -> int:
    """Return the number of members."""
    source = FileSource(path)
    try:
        return len(TorchArchive(source).members)
    finally:
        source.close()


def standard(path: Path) -> int:
    """Return the number of members."""
    with zipfile.ZipFile(path) as archive:
        return len(archive.infolist())


def archive(members: int) -> bytes:
    """Return an archive of torch's layout with so many small members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        written.writestr("archive/data.pkl", b"\x80\x02N.")
        for number in range(members):
            written.writestr(f"a/{number:06}", b"")
    return buffer.getvalue()


def damaged() -> dict[str, bytes]:
    """Return archives that are not what torch.save writes."""
    whole = archive(2)
    end = whole.rindex(b"PK\x05\x06")
    fewer = whole[: end + 8] + struct.pack("<2H", 1, 1) + whole[end + 12 :]
    twice = io.BytesIO(whole)
    with zipfile.ZipFile(twice, "a") as written:
        written.writestr("archive/data.pkl", b"\x80\x02K\x01.")
    return {
        "bytes before the archive": b"GIF89a" + whole,
        "a directory of more members than it says": fewer,
        "one name twice": twice.getvalue(),
        "cut off": whole[:-30],
    }


def best(read: Callable[[Path], int], path: Path) -> float:
    """Return the smallest processor time of several rounds."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        read(path)
        seconds.append(time.process_time() - started)
    return min(seconds)


def peak(read: Callable[[Path], int], path: Path) -> float:
    """Return the largest memory in MB that Python held meanwhile."""
    tracemalloc.start()
    read(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / MB


def accepts(read: Callable[[Path], int], path: Path) -> bool:
    """Say whether an archive is read without complaint."""
    try:
        read(path)
    except (CorruptArchive, zipfile.BadZipFile):
        return False
    return True


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    readers = {"ours": ours, "zipfile": standard}
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, members in (("partition", 6), ("large", LARGEST)):
            path = Path(folder) / name
            path.write_bytes(archive(members))
            for label, read in readers.items():
                entry = found.setdefault(label, {})
                entry[f"{name}_milliseconds"] = round(1000 * best(read, path), 3)
                entry[f"{name}_peak_mb"] = round(peak(read, path), 1)
        for name, content in damaged().items():
            path = Path(folder) / "damaged"
            path.write_bytes(content)
            for label, read in readers.items():
                found[label][f"accepts {name}"] = accepts(read, path)
    code = "import time; t = time.process_time(); import zipfile; print(time.process_time() - t)"
    command = [sys.executable, "-c", code]
    imports = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(ROUNDS)
    ]
    found["zipfile"]["import_milliseconds"] = round(1000 * min(imports), 1)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
