"""Damaged partitions: the right data or a named error, never anything else, never a hang."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cosmicai.errors import CorruptPartition, UnsafePickle
from cosmicai.partition.reader import open_partition
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.data.partition_writer import _pickle as partition_pickle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "120"))
COUNT = 3
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


@cache
def galaxies() -> Arrays:
    rng = np.random.default_rng(7)
    return (
        rng.random((COUNT, 5, 32, 32), dtype=np.float32),
        rng.random((COUNT, 5), dtype=np.float32),
        rng.random(COUNT, dtype=np.float32),
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "1.pt"
    with PartitionWriter(path, COUNT, {}) as writer:
        writer.write(*galaxies())
    return path.read_bytes()


@pytest.fixture(scope="module")
def by_torch(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch = pytest.importorskip("torch")
    from torch.utils.data import TensorDataset

    path = tmp_path_factory.mktemp("torch") / "1.pt"
    torch.save(TensorDataset(*(torch.from_numpy(array) for array in galaxies())), path)
    return path.read_bytes()


def read(path: Path, content: bytes) -> Arrays | None:
    """Read a file; None where it is refused by name. Anything else fails the test."""
    path.write_bytes(content)
    try:
        with open_partition(path, batch_size=2) as reader:
            batches = list(reader)
    except (CorruptPartition, UnsafePickle) as error:
        assert 10 < len(str(error)) < 2000  # noqa: PT017 - every message is looked at
        return None
    if not batches:
        return np.empty((0, 5, 32, 32)), np.empty((0, 5)), np.empty(0)
    return (
        np.concatenate([batch.image for batch in batches]),
        np.concatenate([batch.magnitude for batch in batches]),
        np.concatenate([batch.redshift for batch in batches]),
    )


def assert_right_or_refused(path: Path, content: bytes) -> None:
    found = read(path, content)
    if found is not None:
        for array, expected in zip(found, galaxies(), strict=True):
            np.testing.assert_array_equal(array, expected)


def structure(content: bytes) -> list[int]:
    """Where the bytes lie that are not pixels: headers, the pickle, the directory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        images = max(archive.infolist(), key=lambda info: info.file_size)
    pixels = range(images.header_offset + 200, images.header_offset + images.file_size)
    return [at for at in range(len(content)) if at not in pixels]


def damage(data: st.DataObject, content: bytes) -> bytes:
    """Change some bytes, mostly of the structure, and perhaps cut, repeat or insert a part."""
    damaged = bytearray(content)
    places = st.sampled_from(structure(content)) | st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(0, 6))):
        damaged[data.draw(places)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        wide = data.draw(st.sampled_from([0, 1, 2**16 - 1, 2**31, 2**32 - 1]))
        at = min(data.draw(places), len(damaged) - 4)
        struct.pack_into("<I", damaged, at, wide)
    first, last = sorted((data.draw(places), data.draw(places)))
    change = data.draw(st.sampled_from(["keep", "keep", "cut", "drop", "repeat", "swap"]))
    if change == "cut":
        del damaged[first:]
    elif change == "drop":
        del damaged[first:last]
    elif change == "repeat":
        damaged[first:first] = damaged[first:last]
    elif change == "swap":
        damaged = damaged[first:] + damaged[:first]
    return bytes(damaged)


def without_checksums(content: bytes) -> bytes:
    """Set every checksum to 0, torch's "not computed", so that the parser meets what it says."""
    changed = bytearray(content)
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        changed[at + 16 : at + 20] = bytes(4)
        at = content.find(b"PK\x01\x02", at + 4)
    return bytes(changed)


@fuzz
@given(data=st.data())
def test_a_damaged_file_gives_the_right_data_or_a_named_error(
    sound: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    assert_right_or_refused(tmp_path / "1.pt", damage(data, sound))


@fuzz
@given(data=st.data())
def test_a_damaged_file_of_torch_does_too(
    by_torch: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    assert_right_or_refused(tmp_path / "1.pt", damage(data, by_torch))


@fuzz
@given(data=st.data())
def test_without_checksums_damage_never_crashes_the_parser(
    sound: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    found = read(tmp_path / "1.pt", damage(data, without_checksums(sound)))

    assert found is None or len(found[0]) == len(found[1]) == len(found[2]) <= 10 * COUNT


@pytest.mark.parametrize("checksums", [True, False])
def test_every_length_a_file_can_be_cut_to_is_refused(
    sound: bytes, tmp_path: Path, checksums: bool
) -> None:
    content = sound if checksums else without_checksums(sound)
    lengths = [*range(0, 2000, 7), *range(2000, len(content) - 2000, 997)]
    for length in [*lengths, *range(len(content) - 2000, len(content), 7)]:
        assert read(tmp_path / "1.pt", content[:length]) is None, length


def test_every_single_changed_byte_of_the_structure_is_noticed_or_harmless(
    sound: bytes, tmp_path: Path
) -> None:
    for at in structure(sound)[:: 1 if EXAMPLES > 1000 else 7]:
        damaged = bytearray(sound)
        damaged[at] ^= 0xFF
        assert_right_or_refused(tmp_path / "1.pt", bytes(damaged))


# -- archives made to deceive -------------------------------------------------------------------


def repack(content: bytes, **options: object) -> bytes:
    """Write the same members with the standard library's zip."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(packed, "w", **options) as target,  # type: ignore[call-overload]
    ):
        for info in source.infolist():
            target.writestr(info.filename, source.read(info), options.get("compression"))
    return packed.getvalue()


def entry_of(content: bytes, name: bytes) -> int:
    """Offset of a member's entry in the central directory."""
    return content.rindex(b"PK\x01\x02", 0, content.rindex(name))


def edit(content: bytes, name: bytes, field: int, layout: str, value: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(layout, changed, entry_of(content, name) + field, value)
    return bytes(changed)


def test_a_stored_archive_of_another_program_is_read(sound: bytes, tmp_path: Path) -> None:
    assert_right_or_refused(tmp_path / "1.pt", repack(sound))
    assert read(tmp_path / "1.pt", repack(sound)) is not None


def test_a_comment_behind_the_archive_is_read_over(sound: bytes, tmp_path: Path) -> None:
    commented = io.BytesIO(sound)
    with zipfile.ZipFile(commented, "a") as archive:
        archive.comment = b"PK made by hand"

    assert read(tmp_path / "1.pt", commented.getvalue()) is not None


def deceptions(content: bytes) -> dict[str, tuple[bytes, str]]:
    image, magnitude = b"archive/data/0", b"archive/data/1"
    first, second = (
        struct.unpack_from("<I", content, entry_of(content, name) + 42)[0]
        for name in (image, magnitude)
    )
    end = content.rindex(b"PK\x05\x06")
    many = bytearray(content)
    struct.pack_into("<HH", many, end + 8, 60_000, 60_000)
    return {
        "compressed": (repack(content, compression=zipfile.ZIP_DEFLATED), "compressed"),
        "encrypted": (edit(content, magnitude, 8, "<H", 0x801), "encrypted"),
        "larger than it is": (edit(content, magnitude, 24, "<I", 2**30), "there|outside"),
        "header elsewhere": (edit(content, magnitude, 42, "<I", second + 1), "data/1 expected at"),
        "two at one place": (edit(content, magnitude, 42, "<I", first), "same place"),
        "too many members": (bytes(many), "60000 members"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "compressed",
        "encrypted",
        "larger than it is",
        "header elsewhere",
        "two at one place",
        "too many members",
    ],
)
def test_a_deceitful_directory_is_refused(sound: bytes, tmp_path: Path, name: str) -> None:
    content, message = deceptions(sound)[name]
    path = tmp_path / "1.pt"
    path.write_bytes(content)

    with pytest.raises(CorruptPartition, match=message):
        open_partition(path, batch_size=2)


def test_zip64_places_beyond_4_gib_are_read(tmp_path: Path) -> None:
    """A sparse file of 5.1 GB, whose holes read as zeros and take no room on disk."""
    count = 250_000
    sizes = {b"data/0": count * 20_480, b"data/1": count * 20, b"data/2": count * 4}
    path, pickled = tmp_path / "1.pt", partition_pickle(count)
    entries, at = b"", 0
    with path.open("wb") as file:
        for short, size in {b"data.pkl": len(pickled), **sizes}.items():
            name, wide = b"archive/" + short, min(size, 2**32 - 1)
            lengths = (0, wide, wide, len(name))
            file.seek(at)
            file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 33, *lengths, 0) + name)
            if short == b"data.pkl":
                file.write(pickled)
            extra = struct.pack("<HHQQQ", 1, 24, size, size, at)
            fields = (45, 45, 0, 0, 0, 33, 0, *[2**32 - 1] * 2, len(name), len(extra))
            tail = (0, 0, 0, 0, 2**32 - 1)
            entries += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields, *tail) + name + extra
            at += 30 + len(name) + size
        file.seek(at)
        end64 = struct.pack(
            "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 4, 4, len(entries), at
        ) + struct.pack("<4sLQL", b"PK\6\7", 0, at + len(entries), 1)
        ones = (2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1)
        file.write(entries + end64 + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *ones, 0))

    assert path.stat().st_blocks * 512 < 1e6
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("archive/data/1").header_offset > 2**32
    with open_partition(path, batch_size=512) as reader:
        assert reader.num_samples == count
        assert not next(iter(reader)).image.any()
