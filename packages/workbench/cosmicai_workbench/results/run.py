"""One finished run, read from its folder: the summary, the ranks' records, the predictions."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.schema import RankRecord, Summary, parse

from cosmicai_workbench.results.invocations import Invocation, read_invocations

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Predictions:
    """Predictions of all ranks, in rank order; one entry a galaxy.

    Attributes
    ----------
    data_paths
        Keys of the partitions that ``partition`` counts in.
    partition, index, rank
        int32: which partition, which object in it, which rank predicted it.
    redshift, true_redshift, magnitude_r
        float32; NaN where not predicted or not known.
    """

    data_paths: tuple[str, ...]
    partition: "NDArray[np.int32]"
    index: "NDArray[np.int32]"
    rank: "NDArray[np.int32]"
    redshift: "NDArray[np.float32]"
    true_redshift: "NDArray[np.float32]"
    magnitude_r: "NDArray[np.float32]"

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
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(f"{path}: not JSON ({error}); fetch the results again") from None


_ARRAYS = {
    "partition": np.int32,
    "index": np.int32,
    "redshift": np.float32,
    "true_redshift": np.float32,
    "magnitude_r": np.float32,
}


def _read_predictions(path: "Path", ranks: list[int]) -> Predictions:
    positions: dict[str, int] = {}
    columns: dict[str, list[NDArray[np.generic]]] = {name: [] for name in _ARRAYS}
    numbers: list[NDArray[np.int32]] = []
    for rank in ranks:
        source = path / "predictions" / f"{rank}.npz"
        try:
            with np.load(source, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in _ARRAYS}
                paths = [str(key) for key in arrays["data_paths"]]
        except FileNotFoundError:
            raise InvalidInput(f"{source}: missing, though rank {rank} has a record") from None
        except (OSError, ValueError, KeyError) as error:
            raise InvalidInput(f"{source}: not a predictions file ({error})") from None
        here = np.array([positions.setdefault(key, len(positions)) for key in paths], np.int32)
        found["partition"] = here[found["partition"]] if here.size else found["partition"]
        for name, dtype in _ARRAYS.items():
            columns[name].append(found[name].astype(dtype, copy=False))
        numbers.append(np.full(found["index"].size, rank, np.int32))

    def joined(name: str) -> Any:
        return np.concatenate(columns[name]) if columns[name] else np.empty(0, _ARRAYS[name])

    rank_column = np.concatenate(numbers) if numbers else np.empty(0, np.int32)
    return Predictions(
        data_paths=tuple(positions), rank=rank_column, **{name: joined(name) for name in _ARRAYS}
    )
