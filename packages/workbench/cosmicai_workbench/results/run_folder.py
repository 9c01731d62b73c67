"""One finished run, read from its folder: the summary, the ranks' records, the predictions."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.columns import COLUMNS, StoredColumn, stored_columns
from cosmicai.errors import InvalidInput, load_json
from cosmicai.partition.catalogue import (
    Catalogue,
    CatalogueError,
    concatenate,
    from_arrays,
    named,
)
from cosmicai.prediction import npz_columns
from cosmicai.schema import RankRecord, Summary, parse

from cosmicai_workbench.results.invocations import Invocation, read_invocations

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


_NEEDED = ("redshift", "true_redshift", "magnitude_r")


@dataclass(frozen=True)
class Predictions:
    """Predictions of all ranks, in rank order; one entry per galaxy.

    Attributes
    ----------
    data_paths
        Keys of the partitions that ``partition`` counts in.
    partition, rank
        int32: which partition, and which rank predicted it.
    stored
        Name → values of the columns that ranks store (``cosmicai.columns``), as those declare them:
        those of every model, and those that the predictions of this one have.
    catalogue
        What the partitions say of each galaxy: object id, position, columns of the user's.
    rejected
        Objects of the data set that are in no partition, with reasons.
    """

    data_paths: tuple[str, ...]
    partition: "NDArray[np.int32]"
    rank: "NDArray[np.int32]"
    stored: "Mapping[str, NDArray[Any]]"
    catalogue: Catalogue
    rejected: Catalogue

    @property
    def index(self) -> "NDArray[np.int32]":
        """Which object in its partition."""
        return self.stored["index"]

    @property
    def redshift(self) -> "NDArray[np.float32]":
        """Predicted redshifts, NaN where there is no prediction."""
        return self.stored["redshift"]

    @property
    def true_redshift(self) -> "NDArray[np.float32]":
        """Known redshifts, NaN where unknown."""
        return self.stored["true_redshift"]

    @property
    def magnitude_r(self) -> "NDArray[np.float32]":
        """The r magnitudes that the model was given."""
        return self.stored["magnitude_r"]

    @property
    def known(self) -> "NDArray[np.bool_]":
        """Galaxies with a finite true and a finite predicted redshift."""
        return np.isfinite(self.redshift) & np.isfinite(self.true_redshift)


@dataclass(frozen=True)
class Run:
    """A run folder, read; ``load_run`` makes one."""

    path: "Path"
    summary: Summary
    records: tuple[RankRecord, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """The execution's name."""
        return self.summary.execution.name

    @cached_property
    def invocations(self) -> tuple[Invocation, ...]:
        """What was billed, from the REPORT lines; empty where the folder has none."""
        return read_invocations(self.path)

    @property
    def init_seconds(self) -> dict[str, float]:
        """Request id → seconds of the sandbox's init phase, where one was started."""
        return {i.request_id: i.init_ms / 1000 for i in self.invocations if i.init_ms}

    @cached_property
    def predictions(self) -> Predictions:
        """The predictions of every rank that has a record.

        Raises
        ------
        InvalidInput
            If a file is missing or is not what the contract says.
        """
        return _read_predictions(self.path, [record.rank for record in self.records])


def load_run(path: "Path") -> Run:
    """Read a run folder (``runs/<execution>``).

    Raises
    ------
    InvalidInput
        If the folder or its ``summary.json`` is missing, or a file breaks its contract.
    """
    if not path.is_dir():
        raise InvalidInput(
            f"{path}: no such run folder; finished runs lie in runs/, the newest as runs/latest"
        )
    summary_file = path / "summary.json"
    if not summary_file.is_file():
        raise InvalidInput(
            f"{path}: holds no summary.json, so this is not the folder of a finished run; expected "
            "a folder such as runs/latest, with summary.json, combined_data.json and predictions/"
        )
    summary = parse(Summary, _read_json(summary_file))
    combined = path / "combined_data.json"
    rows = _read_json(combined) if combined.is_file() else []
    if not isinstance(rows, list):
        raise InvalidInput(f"{combined}: expected a list of rank records")
    records = tuple(parse(RankRecord, row) for row in rows)
    return Run(path=path, summary=summary, records=records)


def _read_json(path: "Path") -> object:
    try:
        return load_json(path.read_bytes())
    except ValueError as error:
        raise InvalidInput(f"{path}: not JSON ({error}); fetch the results again") from None


def _read_predictions(path: "Path", ranks: list[int]) -> Predictions:
    positions: dict[str, int] = {}
    partitions: list[NDArray[np.int32]] = []
    numbers: list[NDArray[np.int32]] = []
    stored: dict[str, list[NDArray[Any]]] = {name: [] for name in stored_columns()}
    present = {name for name, column in stored_columns().items() if column.when is None}
    catalogues: list[Catalogue] = []
    rejected: list[Catalogue] = []
    for rank in ranks:
        source = path / "predictions" / f"{rank}.npz"
        try:
            arrays = npz_columns(source.read_bytes())
            found = {name: _column(arrays, column) for name, column in stored_columns().items()}
            present |= arrays.keys()
            partition = arrays["partition"].astype(np.int32, copy=False)
            paths = [str(key) for key in arrays["data_paths"]]
            catalogue = from_arrays(arrays, "catalogue") or named(
                [
                    f"{PurePosixPath(paths[position]).stem}#{index}"
                    for position, index in zip(partition, found["index"], strict=True)
                ]
            )
            rejected.append(from_arrays(arrays, "rejected") or Catalogue(()))
        except FileNotFoundError:
            raise InvalidInput(f"{source}: missing, though rank {rank} has a record") from None
        except (OSError, ValueError, LookupError, CatalogueError) as error:
            raise InvalidInput(f"{source}: not a predictions file ({error})") from None
        here = np.array([positions.setdefault(key, len(positions)) for key in paths], np.int32)
        partitions.append(here[partition] if here.size else partition)
        numbers.append(np.full(partition.size, rank, np.int32))
        catalogues.append(catalogue)
        for name, values in found.items():
            stored[name].append(values)

    def joined(parts: "list[NDArray[Any]]", dtype: Any = np.int32) -> Any:
        return np.concatenate(parts) if parts else np.empty(0, dtype)

    return Predictions(
        data_paths=tuple(positions),
        partition=joined(partitions),
        rank=joined(numbers),
        stored={
            name: joined(parts, COLUMNS[name].dtype)
            for name, parts in stored.items()
            if name in present
        },
        catalogue=concatenate(catalogues),
        rejected=concatenate(rejected),
    )


def _column(arrays: "Mapping[str, NDArray[Any]]", column: StoredColumn) -> "NDArray[Any]":
    """Return a stored column; NaN where the rank has none of it, or is older than the column."""
    dtype = np.dtype(column.dtype)
    if column.name in arrays or column.name in _NEEDED or dtype.kind != "f":
        return arrays[column.name].astype(dtype, copy=False)
    return np.full(arrays["partition"].size, np.nan, dtype)
