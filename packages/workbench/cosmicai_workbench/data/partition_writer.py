"""Partitions written as a stream, so that memory stays flat whatever their size.

The file is what ``torch.save(TensorDataset(image, magnitude, redshift))`` writes, and torch reads
it, but no torch is needed to write it: an uncompressed zip with one record a tensor and a pickle
that names them (see ``cosmicai.partition.archive`` for the layout). A record
``extra/metadata.json`` says where the galaxies come from, and ``extra/catalogue.jsonl`` which
object each is (see ``cosmicai.partition.catalogue``); torch leaves both alone.
"""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import tempfile
import zipfile
from contextlib import ExitStack
from math import prod
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
from cosmicai.facts import MB
from cosmicai.partition.catalogue import REJECTED_RECORD, header_line, lines
from cosmicai.partition.imaging import CATALOGUE_RECORD, METADATA_RECORD, SDSS_SHAPE, GalaxyShape
from cosmicai.whole_files import whole_file

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from cosmicai.partition.catalogue import Catalogue, ColumnInfo
    from numpy.typing import NDArray

    from cosmicai_workbench.data.synthesis import Galaxies

_PREFIX = "archive"
_ALIGNMENT = 64
_ZIP64_EXTRA = 20
_PADDING_ID = 0x4246  # "FB", the field torch pads records with
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same galaxies give the same bytes
_SPOOL = 8 * MB


class PartitionWriter:
    """Writes one partition, batch by batch.

    A context manager: the file appears under its name only when the block ends without an error and
    every galaxy announced has come.

    Parameters
    ----------
    path
        File to write.
    count
        Galaxies it will hold.
    metadata
        JSON object for the file's metadata record; see ``cosmicai.partition.imaging`` for the keys
        that say which bands there are.
    shape
        Bands, side and magnitudes of its galaxies.
    rejected
        Objects of the data set that are in no partition; where there are any, one partition of the
        set holds them.
    replace
        Put it in the place of a file that appears meanwhile.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        metadata: dict[str, Any],
        *,
        shape: GalaxyShape = SDSS_SHAPE,
        rejected: Catalogue | None = None,
        replace: bool = True,
    ) -> None:
        self.path = path
        self.count = count
        self.shape = shape
        self.written = 0
        self._metadata = metadata
        self._rejected = rejected
        self._infos: tuple[ColumnInfo, ...] = ()
        self._rows = 0
        self._replace = replace

    def __enter__(self) -> Self:
        with ExitStack() as files:
            partial = files.enter_context(whole_file(self.path, replace=self._replace))
            # Magnitudes and redshifts come with their images but are stored behind them.
            self._magnitude = files.enter_context(tempfile.SpooledTemporaryFile(_SPOOL))
            self._redshift = files.enter_context(tempfile.SpooledTemporaryFile(_SPOOL))
            self._lines = files.enter_context(tempfile.SpooledTemporaryFile(_SPOOL))
            self._file = files.enter_context(partial.open("wb"))
            self._zip = files.enter_context(zipfile.ZipFile(self._file, "w"))
            self._put("data.pkl", _pickle(self.count, self.shape))
            self._put("byteorder", b"little")
            self._put(METADATA_RECORD, json.dumps(self._metadata, indent=1).encode())
            image_bytes = self.count * 4 * prod(self.shape.image)
            self._image = files.enter_context(self._open("data/0", image_bytes))
            self._files = files.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._files.__exit__(kind, error, trace)
            return
        with self._files:
            self._image.close()
            if self.written != self.count or self._rows not in (0, self.count):
                raise ValueError(
                    f"{self.path}: {self.count} galaxies announced, {self.written} came"
                    + (f", and {self._rows} rows of their catalogue" if self._rows else "")
                )
            self._put_column("data/1", self._magnitude, self.shape.magnitudes)
            self._put_column("data/2", self._redshift, 1)
            self._put_catalogues()
            self._put("version", b"3\n")

    def write(
        self,
        image: NDArray[np.float32],
        magnitude: NDArray[np.float32],
        redshift: NDArray[np.float32],
    ) -> None:
        """Append galaxies: (b, bands, side, side), (b, magnitudes) and (b,)."""
        count = len(redshift)
        expected = (count, *self.shape.image), (count, self.shape.magnitudes)
        if (image.shape, magnitude.shape) != expected:
            raise ValueError(
                f"expected image {expected[0]} and magnitude {expected[1]}, found "
                f"{image.shape} and {magnitude.shape}"
            )
        self._image.write(_little_endian(image))
        self._magnitude.write(_little_endian(magnitude))
        self._redshift.write(_little_endian(redshift))
        self.written += count

    def write_catalogue(self, part: Catalogue) -> None:
        """Append rows to the catalogue: one per galaxy, in the same order, in the same columns."""
        infos = tuple(column.info for column in part.columns.values())
        if self._infos not in ((), infos):
            raise ValueError(f"{self.path}: the catalogue's columns changed to {infos}")
        self._infos = infos
        self._lines.writelines(lines(part))
        self._rows += len(part)

    def _put_catalogues(self) -> None:
        # Near the end of the file, which a reader fetches for the archive's directory anyway.
        if self._infos:
            header = header_line(self._infos, self._rows)
            size = len(header) + self._lines.tell()
            self._lines.seek(0)
            with self._open(CATALOGUE_RECORD, size) as record:
                record.write(header)
                shutil.copyfileobj(self._lines, record)
        if self._rejected:
            infos = [column.info for column in self._rejected.columns.values()]
            header = header_line(infos, len(self._rejected))
            self._put(REJECTED_RECORD, header + b"".join(lines(self._rejected)))

    def _open(self, name: str, size: int) -> IO[bytes]:
        """Open a record whose bytes begin at a multiple of 64, as torch's do, for mapped reads."""
        info = zipfile.ZipInfo(f"{_PREFIX}/{name}", _EPOCH)
        large = size >= zipfile.ZIP64_LIMIT
        header = 30 + len(info.filename) + 4 + (_ZIP64_EXTRA if large else 0)
        padding = -(self._file.tell() + header) % _ALIGNMENT
        info.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
        return self._zip.open(info, "w", force_zip64=large)

    def _put(self, name: str, content: bytes) -> None:
        with self._open(name, len(content)) as record:
            record.write(content)

    def _put_column(self, name: str, column: IO[bytes], width: int) -> None:
        column.seek(0)
        with self._open(name, self.count * 4 * width) as record:
            shutil.copyfileobj(column, record)


def write_partition(path: Path, galaxies: Galaxies, metadata: dict[str, Any]) -> None:
    """Write galaxies that are all in memory as one partition."""
    with PartitionWriter(path, len(galaxies), metadata) as writer:
        writer.write(galaxies.image, galaxies.magnitude, galaxies.redshift)


def _little_endian(array: NDArray[np.float32]) -> memoryview:
    return np.ascontiguousarray(array, dtype="<f4").data


def _pickle(count: int, shape: GalaxyShape = SDSS_SHAPE) -> bytes:
    """Pickle of a TensorDataset of three tensors, protocol 2, as torch.save writes it.

    Put together by hand because Python's pickler would have to import torch, which costs 200 MB.
    """
    shapes = ((count, *shape.image), (count, shape.magnitudes), (count,))
    tensors = b"".join(_tensor(str(key), shape) for key, shape in enumerate(shapes))
    dataset = _global("torch.utils.data.dataset", "TensorDataset") + b")\x81"
    return b"\x80\x02" + dataset + b"}" + _text("tensors") + b"(" + tensors + b"tsb."


def _tensor(key: str, shape: tuple[int, ...]) -> bytes:
    strides = tuple(prod(max(size, 1) for size in shape[axis + 1 :]) for axis in range(len(shape)))
    storage = (
        b"(" + _text("storage") + _global("torch", "FloatStorage") + _text(key) + _text("cpu")
    ) + (_integer(prod(shape)) + b"tQ")
    hooks = _global("collections", "OrderedDict") + b")R"
    arguments = storage + _integer(0) + _integers(shape) + _integers(strides) + b"\x89" + hooks
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _integers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"


def _integer(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]  # without PROTO and STOP
