"""One finished run, read from its folder: the summary, the ranks' records, the predictions."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.columns import Column, columns_of, stored_columns
from cosmicai.errors import InvalidInput, load_json
from cosmicai.flags import NO_PREDICTION
from cosmicai.model.interface import parse_output
from cosmicai.partition.catalogue import (
    Catalogue,
    CatalogueError,
    concatenate,
    from_arrays,
    named,
)
from cosmicai.prediction import npz_columns
from cosmicai.schema import RankRecord, Summary, parse

from cosmicai_workbench.extras import libraries_named
from cosmicai_workbench.results.invocations import Invocation, read_invocations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from astropy.table import QTable
    from cosmicai.model.interface import Distribution
    from numpy.typing import NDArray


_NEEDED = ("index", "redshift", "true_redshift", "magnitude_r")


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
    nameless
        bool: galaxies whose ``object_id`` is made up, since their partition names none.
    rejected
        Objects of the data set that are in no partition, with reasons.
    unflagged
        bool: predicted galaxies that nothing is known to be wrong or right with, since the release
        that predicted them computed no flags.
    output, raw
        Of models with distributions: what their values mean (``cosmicai.outputs``), and the values
        (N, n), where they were asked for; else None.
    """

    data_paths: tuple[str, ...]
    partition: "NDArray[np.int32]"
    rank: "NDArray[np.int32]"
    stored: "Mapping[str, NDArray[Any]]"
    catalogue: Catalogue
    nameless: "NDArray[np.bool_]"
    rejected: Catalogue
    unflagged: "NDArray[np.bool_]"
    output: "Distribution | None" = None
    raw: "NDArray[Any] | None" = None

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
    """A run folder, read; ``load_run`` makes one.

    ``predicted`` are the ranks whose predictions are there; None for all that have a record.
    """

    path: "Path"
    summary: Summary
    records: tuple[RankRecord, ...] = field(repr=False)
    predicted: frozenset[int] | None = None

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
        """The predictions of every rank that has them.

        Raises
        ------
        InvalidInput
            If a file is missing or is not what the contract says.
        """
        ranks = [record.rank for record in self.records]
        if self.predicted is not None:
            ranks = [rank for rank in ranks if rank in self.predicted]
        return self.predictions_of(ranks)

    def predictions_of(self, ranks: "Sequence[int]", *, distributions: bool = False) -> Predictions:
        """Return the predictions of some ranks; raises as :attr:`predictions` does.

        Parameters
        ----------
        distributions
            Read p(z), too, which takes more memory than all else.
        """
        return _read_predictions(self.path, ranks, distributions=distributions)

    def catalogue(self, data: "str | Path | None" = None) -> "QTable":
        """Return the predictions, one row per object, with units, descriptions and provenance.

        Parameters
        ----------
        data
            Folder with the partitions of failed ranks, whose predictions do not name their
            objects.

        Raises
        ------
        InvalidInput
            If the predictions cannot be read, or the run failed before it had ranks.
        MissingLibrary
            If astropy is not installed.

        Warns
        -----
        UserWarning
            If objects of failed ranks are missing, since their partitions could not be read.
        """
        from cosmicai.tables import to_table

        from cosmicai_workbench.results.export import catalogue_of
        from cosmicai_workbench.results.provenance import provenance_of

        with libraries_named():
            found = catalogue_of(self, None if data is None else Path(data))
            return to_table(found.values, provenance_of(self).facts, found.columns)


def load_run(path: "str | Path") -> Run:
    """Read a run folder (``runs/<execution>``).

    Raises
    ------
    InvalidInput
        If the folder or its ``summary.json`` is missing, or a file breaks its contract.
    """
    path = Path(path)
    if not path.is_dir():
        raise InvalidInput(
            f"{path}: no such run folder; finished runs are in runs/, the newest as runs/latest"
        )
    summary_file = path / "summary.json"
    if not summary_file.is_file():
        raise InvalidInput(
            f"{path}: holds no summary.json, so this is not the folder of a finished run; expected "
            "a folder such as runs/latest, with summary.json, combined_data.json and predictions/"
        )
    summary = parse(Summary, _read_json(summary_file))
    combined = path / "combined_data.json"
    rows = _read_json(combined) if combined.is_file() else _received(path, summary)
    if not isinstance(rows, list):
        raise InvalidInput(f"{combined}: expected a list of rank records")
    records = tuple(parse(RankRecord, row) for row in rows)
    return Run(path=path, summary=summary, records=records)


def _received(path: "Path", summary: Summary) -> list[object]:
    """Return the records of what a failed run received: Summarize combines no file of them."""
    failed = {rank.rank for rank in summary.failed_ranks}
    if not failed:
        return []  # it failed before or after its ranks: their results are not to be trusted
    ranks = (rank for rank in range(summary.world_size) if rank not in failed)
    return [_read_json(path / f"{rank}.json") for rank in ranks]


def _read_json(path: "Path") -> object:
    try:
        return load_json(path.read_bytes())
    except ValueError as error:
        raise InvalidInput(f"{path}: not JSON ({error}); fetch the results again") from None


def _read_predictions(
    path: "Path", ranks: "Sequence[int]", *, distributions: bool = False
) -> Predictions:
    positions: dict[str, int] = {}
    parts: list[_Part] = []
    for rank in ranks:
        source = path / "predictions" / f"{rank}.npz"
        try:
            parts.append(_read_part(source, rank, positions, distributions=distributions))
        except FileNotFoundError:
            raise InvalidInput(f"{source}: missing, though rank {rank} has a record") from None
        except (OSError, ValueError, LookupError, CatalogueError) as error:
            raise InvalidInput(f"{source}: not a predictions file ({error})") from None
    outputs = {part.output for part in parts if part.output is not None}
    if len(outputs) > 1:
        raise InvalidInput(f"{path}: the ranks' models give different distributions")
    output = next(iter(outputs), None)
    present = dict.fromkeys(columns_of(None)) | {name: None for p in parts for name in p.stored}

    def joined(column: Column) -> "NDArray[Any]":
        found = [_column(part, column) for part in parts]
        return np.concatenate(found) if found else np.empty(0, column.dtype)

    def of_each(values: "Iterable[NDArray[Any]]", dtype: Any) -> "NDArray[Any]":
        return np.concatenate([np.empty(0, dtype), *values], dtype=dtype)

    return Predictions(
        data_paths=tuple(positions),
        partition=of_each((part.partition for part in parts), np.int32),
        rank=of_each(
            (np.full(len(part.partition), part.rank, np.int32) for part in parts), np.int32
        ),
        stored={
            name: joined(column)
            for name, column in stored_columns(present).items()
            if name in present
        },
        catalogue=concatenate([part.catalogue for part in parts]),
        nameless=of_each((np.full(len(p.partition), p.nameless) for p in parts), np.bool_),
        rejected=concatenate([part.rejected for part in parts]),
        unflagged=of_each((part.unflagged for part in parts), np.bool_),
        output=output,
        raw=np.concatenate([p.rows(output) for p in parts]) if output and distributions else None,
    )


@dataclass(frozen=True)
class _Part:
    """The predictions of one rank."""

    rank: int
    partition: "NDArray[np.int32]"
    stored: "dict[str, NDArray[Any]]"
    catalogue: Catalogue
    nameless: bool
    rejected: Catalogue
    unflagged: "NDArray[np.bool_]"
    output: "Distribution | None"
    raw: "NDArray[Any] | None"

    def rows(self, output: "Distribution") -> "NDArray[Any]":
        """Return the values of the distributions; NaN where the rank stored none."""
        if self.raw is not None:
            return self.raw
        return np.full((len(self.partition), output.values), np.nan, np.float16)


def _read_part(
    source: "Path", rank: int, positions: dict[str, int], *, distributions: bool
) -> _Part:
    arrays = npz_columns(source.read_bytes(), skip=() if distributions else ("pdf",))
    stored = {
        name: arrays[name].astype(column.dtype, copy=False)
        for name, column in stored_columns(arrays).items()
        if name in arrays
    }
    if missing := [name for name in _NEEDED if name not in stored]:
        raise LookupError(f"no array {missing[0]!r}")
    lost = np.isnan(stored["redshift"])
    unflagged = np.full(lost.shape, "flags" not in stored) & ~lost
    if "flags" not in stored:  # an earlier release wrote it
        stored["flags"] = np.where(lost, NO_PREDICTION.value, 0).astype(np.int32)
    partition = arrays["partition"].astype(np.int32, copy=False)
    paths = [str(key) for key in arrays["data_paths"]]
    here = np.array([positions.setdefault(key, len(positions)) for key in paths], np.int32)
    carried = from_arrays(arrays, "catalogue")
    output = arrays.get("output")
    counts = {name: values.shape for name, values in stored.items()}
    counts |= {"pdf": arrays["pdf"].shape[:1]} if "pdf" in arrays else {}
    counts |= {"catalogue": (len(carried),)} if carried else {}
    for name, count in counts.items():
        if count != partition.shape:
            raise ValueError(f"{name}: {partition.shape} expected, as of partition, found {count}")
    return _Part(
        rank=rank,
        partition=here[partition] if here.size else partition,
        stored=stored,
        catalogue=carried
        or named(
            [
                f"{PurePosixPath(paths[position]).stem}#{index}"
                for position, index in zip(partition, stored["index"], strict=True)
            ]
        ),
        nameless=carried is None,
        rejected=from_arrays(arrays, "rejected") or Catalogue(()),
        unflagged=unflagged,
        output=None if output is None else parse_output(str(output)),
        raw=arrays.get("pdf"),
    )


def _column(part: _Part, column: Column) -> "NDArray[Any]":
    """Return a stored column; where the rank has none of it, or is older, NaN or 0."""
    if column.name in part.stored:
        return part.stored[column.name]
    filler = np.nan if np.dtype(column.dtype).kind == "f" else 0
    return np.full(len(part.partition), filler, column.dtype)
