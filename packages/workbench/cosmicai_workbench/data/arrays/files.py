"""Files of arrays, whatever their format: columns with a row for each galaxy, read in blocks."""

from __future__ import annotations

import math
import resource
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from cosmicai.errors import CosmicAIError, InvalidInput
from cosmicai.facts import MB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Values = NDArray[Any] | np.ma.MaskedArray[Any, Any]
    Block = dict[str, Values]

BLOCK_BYTES: Final = 8 * MB
MAX_BLOCK_BYTES = 128 * MB
MAX_CHUNK_BYTES: Final = 256 * MB
"""Of a galaxy, and of a chunk, which is held whole while any galaxy in it is read."""
MAX_ARRAYS: Final = 10_000
MAX_MEMORY_BYTES = 2048 * MB
"""That a conversion may take: what the largest chunk and its copies need, and no more."""


@dataclass(frozen=True)
class ArrayColumn:
    """One array of a file.

    Attributes
    ----------
    shape
        The first axis counts galaxies.
    dtype
        NumPy's type; text is ``<U…``, of any length.
    chunk
        Shape of the parts that the file stores, and so has to read, as a whole; None without any.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...] | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of a galaxy."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def __str__(self) -> str:
        text = "text" if self.dtype.kind in "USOT" else str(self.dtype)
        return f"({', '.join(map(str, self.shape))}) {text}"


class ArrayFile(Protocol):
    """An opened file."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def columns(self) -> Mapping[str, ArrayColumn]:
        """The arrays that can be used, by name."""

    def read(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        """Yield all galaxies in order, ``rows`` at once; every column must have as many rows."""

    def close(self) -> None:
        """Let go of the file."""


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Let this process take ``MAX_MEMORY_BYTES`` more than it has, and no more.

    A compressed chunk may hold any number of bytes, whatever its file declares, and the libraries
    that read files of arrays unpack all of it before they look. Only Linux has such a bound.

    Raises
    ------
    InvalidInput
        That was not enough.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        yield
        return
    taken = int(status.partition("VmData:")[2].split()[0]) * 1024
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [each for each in (before, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([taken + MAX_MEMORY_BYTES, *limits]), hard))
    try:
        yield
    except MemoryError as error:
        raise InvalidInput(_too_much("reading the files")) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def _too_much(what: str) -> str:
    return (
        f"{what} takes more memory than the {MAX_MEMORY_BYTES // MB:,} MB that a conversion may, "
        "or than there is"
    )


@contextmanager
def named_errors(path: Path, what: str = "it") -> Iterator[None]:
    """Turn whatever a library raises over a damaged file into :class:`InvalidInput`.

    Libraries for HDF5, Zarr and Parquet raise nearly every built-in exception over damaged files,
    and document none.
    """
    try:
        yield
    except (CosmicAIError, ImportError):
        raise
    except MemoryError as error:
        raise InvalidInput(f"{path}: {_too_much(what)}") from error
    except Exception as error:
        raise InvalidInput(
            f"{path}: {what} cannot be read: {type(error).__name__}: {error}"
        ) from error


def rows_together(path: Path, name: str, column: ArrayColumn, rows: int) -> int:
    """Return how many galaxies to read at once: about ``rows``, and whole chunks if these fit.

    Raises
    ------
    InvalidInput
        A chunk is too large.
    """
    if column.chunk is None:
        return rows
    chunk_bytes = math.prod(column.chunk) * column.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise InvalidInput(
            f"{path}: {name}: chunks of at most {MAX_CHUNK_BYTES // MB} MB expected, found "
            f"{chunk_bytes / MB:,.0f} MB {column.chunk}; write it again in smaller chunks"
        )
    most = max(1, MAX_BLOCK_BYTES // max(1, column.row_bytes))
    together = column.chunk[0]
    return together * max(1, rows // together) if together <= most else most


def plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as they are, and text of any representation as ``<U…``.

    Raises
    ------
    ValueError
        They are neither.
    """
    kind = values.dtype.kind
    if kind in "biufU":
        return values
    if kind == "S":
        return np.char.decode(values, "utf-8")
    if kind in "OT":
        texts = [
            value.decode() if isinstance(value, bytes) else value
            for value in values.ravel().tolist()
        ]
        if all(isinstance(text, str) for text in texts):
            return np.array(texts, np.str_).reshape(values.shape)
    raise ValueError(f"numbers or text expected, found {values.dtype}")
