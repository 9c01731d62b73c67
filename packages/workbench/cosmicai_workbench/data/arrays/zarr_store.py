"""Zarr, formats 2 and 3: a folder or a zip archive of chunks, described by JSON."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from cosmicai.errors import InvalidInput, load_json
from cosmicai.facts import MB

from cosmicai_workbench.data.arrays.files import (
    MAX_ARRAYS,
    ArrayColumn,
    named_errors,
    plain,
    rows_together,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cosmicai_workbench.data.arrays.files import Block

_METADATA: Final = ("zarr.json", ".zarray", ".zgroup")
_MAX_METADATA: Final = MB
_MAX_DEPTH: Final = 4
_CODECS: Final = frozenset(
    (
        "blosc", "bytes", "bz2", "crc32c", "delta", "endian", "fixedscaleoffset", "gzip", "lz4",
        "lzma", "sharding_indexed", "shuffle", "transpose", "vlen-utf8", "zlib", "zstd",
    )
)  # fmt: skip
"""Codecs that only turn bytes into bytes or numbers; ``pickle``, for one, runs code."""


class ZarrFile:
    """An opened store. Its metadata are checked before Zarr's library sees them."""

    def __init__(self, path: Path) -> None:
        import zarr

        self.path = path
        with named_errors(path):
            if path.is_dir():
                _require_inside(path)
            names = _Metadata(path).arrays()
            self._store = (
                zarr.storage.LocalStore(path, read_only=True)
                if path.is_dir()
                else zarr.storage.ZipStore(path, mode="r")
            )
        self._arrays: dict[str, Any] = {}
        self.columns = {}
        for name in names:
            with named_errors(path, name or "the array"):
                array = zarr.open_array(self._store, path=name, mode="r")
                if array.dtype.kind not in "biufUST" or not array.shape:
                    continue
                text = array.dtype.kind in "ST"
                dtype = np.dtype("U256") if text else array.dtype
                column = PurePosixPath(name).as_posix() if name else "array"
                self._arrays[column] = array
                self.columns[column] = ArrayColumn(array.shape, dtype, array.shards or array.chunks)

    def read(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        """Yield all galaxies in order, about ``rows`` at once."""
        total = self.columns[names[0]].shape[0]
        widest = max(names, key=lambda name: self.columns[name].row_bytes)
        rows = rows_together(self.path, widest, self.columns[widest], rows)
        for start in range(0, total, rows):
            block: Block = {}
            for name in names:
                with named_errors(self.path, name):
                    block[name] = plain(np.asarray(self._arrays[name][start : start + rows]))
            yield block

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class _Metadata:
    """The JSON files of a store, read without Zarr's library."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: dict[str, zipfile.ZipInfo] | None = None
        if not path.is_dir():
            with zipfile.ZipFile(path) as archive:
                self._members = {info.filename: info for info in archive.infolist()}

    def arrays(self) -> list[str]:
        """Return the paths of all arrays, having checked each.

        Raises
        ------
        InvalidInput
            The store holds none, or an array is made by a codec that is not allowed.
        """
        found = self._walk("", 0)
        if not found:
            raise InvalidInput(f"{self._path}: a Zarr store with arrays expected, found none")
        return found

    def _walk(self, node: str, depth: int) -> list[str]:
        kind = self._check(node)
        if kind == "array":
            return [node]
        if kind is None or depth == _MAX_DEPTH:
            return []
        found: list[str] = []
        for child in self._children(node):
            found += self._walk(f"{node}/{child}".lstrip("/"), depth + 1)
            if len(found) > MAX_ARRAYS:
                raise InvalidInput(f"{self._path}: at most {MAX_ARRAYS} arrays expected")
        return found

    def _check(self, node: str) -> str | None:
        """Return whether a node is an ``array`` or a ``group``; None where it is neither."""
        for name in _METADATA:
            content = self._read(f"{node}/{name}".lstrip("/"))
            if content is None:
                continue
            metadata = load_json(content)
            if not isinstance(metadata, dict):
                raise InvalidInput(f"{self._path}: {node}/{name}: a JSON object expected")
            kind = {".zarray": "array", ".zgroup": "group"}.get(name, metadata.get("node_type"))
            if kind == "array":
                self._check_codecs(node, metadata)
            return kind
        return None

    def _check_codecs(self, node: str, metadata: dict[str, Any]) -> None:
        codecs = set(_codecs([metadata.get(k) for k in ("codecs", "filters", "compressor")]))
        unknown = sorted(codecs - _CODECS)
        if unknown or (metadata.get("dtype") == "|O" and "vlen-utf8" not in codecs):
            raise InvalidInput(
                f"{self._path}: {node}: codecs among {', '.join(sorted(_CODECS))} expected, found "
                f"{', '.join(unknown) or 'Python objects'}"
            )

    def _read(self, name: str) -> bytes | None:
        if self._members is None:
            file = self._path / name
            if not file.is_file():
                return None
            with file.open("rb") as opened:
                content = opened.read(_MAX_METADATA + 1)
        else:
            if name not in self._members:
                return None
            with zipfile.ZipFile(self._path) as archive, archive.open(name) as member:
                content = member.read(_MAX_METADATA + 1)
        if len(content) > _MAX_METADATA:
            raise InvalidInput(f"{self._path}: {name}: at most {_MAX_METADATA:,} bytes expected")
        return content

    def _children(self, node: str) -> list[str]:
        if self._members is None:
            folder = self._path / node
            return sorted(each.name for each in folder.iterdir() if each.is_dir())
        prefix = f"{node}/" if node else ""
        inside = (name.removeprefix(prefix) for name in self._members if name.startswith(prefix))
        return sorted({name.partition("/")[0] for name in inside if "/" in name})


def _require_inside(store: Path) -> None:
    """Refuse a folder with a link out of it: such a store could read any file of this machine."""
    inside, pending = store.resolve(), [store]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_symlink() and not path.resolve().is_relative_to(inside):
                    raise InvalidInput(
                        f"{store}: {path.relative_to(store)}: a file of the store expected, found "
                        "a link to elsewhere; copy the store with what its links lead to (cp -rL)"
                    )
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)


def _codecs(value: Any) -> Iterator[str]:
    """Yield the names of the codecs in a description, those within others too."""
    if isinstance(value, list):
        for each in value:
            yield from _codecs(each)
    elif isinstance(value, dict):
        name = value.get("id", value.get("name"))
        yield str(name).removeprefix("numcodecs.")
        configuration = value.get("configuration")
        if isinstance(configuration, dict):
            yield from _codecs(
                [each for key, each in configuration.items() if key in {"codecs", "index_codecs"}]
            )
    elif isinstance(value, str):
        yield value
