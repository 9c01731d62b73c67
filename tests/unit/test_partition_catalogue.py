"""The catalogue inside a partition: types kept, missing values kept, hostile records refused."""

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cosmicai.errors import CorruptPartition
from cosmicai.partition import catalogue as records
from cosmicai.partition.catalogue import (
    Catalogue,
    CatalogueError,
    ColumnInfo,
    column_of,
    concatenate,
    from_arrays,
)
from cosmicai.partition.reader import open_partition
from cosmicai_workbench.data.partition_writer import PartitionWriter

VALUES: dict[str, tuple[str, list[Any]]] = {
    "object_id": ("int64", [1237648720693755918, None, -7]),
    "big": ("uint64", [2**64 - 1, 0, None]),
    "ra": ("float64", [150.0, 0.1 + 0.2, None]),
    "single": ("float32", [float(np.float32(0.1)), None, 3.0]),
    "flag": ("bool", [True, False, None]),
    "label": ("str", ["NGC 1234 β", None, "000123"]),
}


def example() -> Catalogue:
    return Catalogue(
        column_of(ColumnInfo(name, dtype, "deg" if name == "ra" else ""), values)
        for name, (dtype, values) in VALUES.items()
    )


def plain(catalogue: Catalogue) -> dict[str, tuple[str, list[Any]]]:
    return {n: (c.info.dtype, c.plain()) for n, c in catalogue.columns.items()}


def write(path: Path, catalogue: Catalogue, **options: Any) -> Path:
    count = len(catalogue)
    with PartitionWriter(path, count, {}, **options) as writer:
        writer.write(
            np.zeros((count, 5, 32, 32), np.float32),
            np.zeros((count, 5), np.float32),
            np.zeros(count, np.float32),
        )
        writer.write_catalogue(catalogue[:1])
        writer.write_catalogue(catalogue[1:])
    return path


def test_a_partition_keeps_every_value_its_type_and_its_unit(tmp_path: Path) -> None:
    path = write(tmp_path / "1.pt", example(), rejected=example()[:2])
    with open_partition(path, batch_size=2) as reader:
        found, rejected = reader.catalogue(), reader.rejected()
        assert sum(len(batch) for batch in reader) == 3
    assert found is not None
    assert rejected is not None
    assert plain(found) == VALUES
    assert plain(rejected) == plain(example()[:2])
    assert found.columns["ra"].info.unit == "deg"


def test_torch_and_zipfile_read_a_partition_with_a_catalogue(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.data import TensorDataset

    path = write(tmp_path / "1.pt", example())
    with torch.serialization.safe_globals([TensorDataset]):
        assert torch.load(path, weights_only=True).tensors[0].shape == (3, 5, 32, 32)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_predictions_files_keep_them_without_pickles() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **example().to_arrays("catalogue"))
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as arrays:
        found = from_arrays(arrays, "catalogue")
        assert from_arrays(arrays, "rejected") is None
    assert found is not None
    assert plain(found) == VALUES


def test_joined_catalogues_lose_no_digit() -> None:
    whole = Catalogue([column_of(ColumnInfo("object_id", "int64"), [2**62 + 1])])
    text = Catalogue([column_of(ColumnInfo("object_id", "str"), ["a"])])
    bare = Catalogue((), 2)
    joined = concatenate([whole, bare, text])
    assert joined.columns["object_id"].plain() == [str(2**62 + 1), None, None, "a"]
    assert plain(concatenate([whole, whole]))["object_id"][0] == "int64"
    assert len(concatenate([bare, bare])) == 4


def header(columns: str = '{"name": "a", "dtype": "int64"}', rows: object = 1) -> bytes:
    return f'{{"rows": {rows}, "columns": [{columns}]}}\n'.encode()


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (b"", "a line that describes"),
        (b"[]\n", "header"),
        (b"\xff\n", "UTF-8"),
        (header(rows=-1), "header"),
        (header(rows='"1"'), "header"),
        (header(rows=2) + b"[1]\n", "2 rows expected, found 1"),
        (header() + b"[1, 2]\n", "a list of 1 values"),
        (header() + b'["x"]\n', "int64 expected, found str"),
        (header() + b"[true]\n", "int64 expected, found bool"),
        (header() + b"[9223372036854775808]\n", "int64 expected"),
        (header() + b"[" + b"9" * 5000 + b"]\n", "JSON expected"),
        (header() + b"[" * 30000 + b"\n", "JSON expected"),
        (header() + b"[1]", "a line of at most"),
        (header() + b"[" + b" " * 70000 + b"1]\n", "a line of at most"),
        (header('{"name": "a", "dtype": "object"}'), "dtype"),
        (header('{"name": "", "dtype": "str"}'), "name"),
        (header('{"name": "a", "dtype": "str", "x": 1}'), "columns with name"),
        (header('{"name": "a", "dtype": "str"}') + b'["' + b"a" * 300 + b'"]\n', "256 characters"),
        (header(", ".join(['{"name": "a", "dtype": "int64"}'] * 2)) + b"[1, 2]\n", "different"),
    ],
)
def test_a_damaged_record_is_refused_by_name(record: bytes, named: str) -> None:
    with pytest.raises(CatalogueError, match=named):
        records.parse(record)


@pytest.mark.parametrize("row", [b"[[]]", b"[{}]", b'["a"]'])
def test_reading_is_linear_in_the_record(row: bytes) -> None:
    """A hostile record of 10 MB ends at its first bad row, or is read in seconds."""
    record = header('{"name": "a", "dtype": "str"}', rows=10**9) + (row + b"\n") * 10**6
    started = time.process_time()
    with pytest.raises(CatalogueError):
        records.parse(record)
    assert time.process_time() - started < 30


def test_a_partition_with_too_few_rows_is_corrupt(tmp_path: Path) -> None:
    path = write(tmp_path / "1.pt", example())
    record = b"".join([records.header_line([ColumnInfo("a", "int64")], 1), b"[1]\n"])
    other = tmp_path / "2.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for info in source.infolist():
            name = info.filename
            target.writestr(name, record if name.endswith(".jsonl") else source.read(info))
    with (
        open_partition(other, batch_size=1) as reader,
        pytest.raises(CorruptPartition, match="catalogue of 3 rows expected, found 1"),
    ):
        reader.catalogue()


@pytest.mark.parametrize("name", [b"extra/catalogue.jsonl", b"extra/rejected.jsonl"])
def test_a_record_under_a_damaged_name_is_not_taken_for_absent(tmp_path: Path, name: bytes) -> None:
    path = write(tmp_path / "1.pt", example(), rejected=example())
    content = bytearray(path.read_bytes())
    content[content.rindex(name)] ^= 1  # in the directory at the end of the file
    path.write_bytes(content)
    with open_partition(path, batch_size=1) as reader:
        read = reader.catalogue if b"catalogue" in name else reader.rejected
        with pytest.raises(CorruptPartition):
            read()


@pytest.mark.parametrize("content", [b"made by me", b"[1, 2]", b"\xff\xfe", b'"x"', b"[" * 99999])
def test_metadata_of_another_program_is_none_of_ours(tmp_path: Path, content: bytes) -> None:
    ours, path = tmp_path / "ours.pt", tmp_path / "1.pt"
    with PartitionWriter(ours, 0, {}):
        pass
    with zipfile.ZipFile(ours) as source, zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            theirs = content if name.endswith("metadata.json") else source.read(name)
            archive.writestr(name, theirs)
    with open_partition(path) as reader:
        assert reader.metadata is None
        assert reader.bands == ("u", "g", "r", "i", "z")
