"""The report of a running execution: what its ranks have left so far."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cosmicai import keys, quality
from cosmicai.errors import InvalidInput, ObjectNotFound, load_json
from cosmicai.schema import (
    Execution,
    FailedRank,
    Plan,
    RankFailure,
    RankRecord,
    Summary,
    parse,
    parse_json,
)
from cosmicai.totals import elapsed, pace, totals

from cosmicai_workbench.client.connection import lookups
from cosmicai_workbench.client.execution import ended
from cosmicai_workbench.report import text
from cosmicai_workbench.report.content import Card, Section
from cosmicai_workbench.report.page import Page, run_page
from cosmicai_workbench.report.run_sections import quality_cards
from cosmicai_workbench.results.run_folder import Run

if TYPE_CHECKING:
    from pathlib import Path

    from cosmicai_workbench.client.connection import Connection

_MOST_BYTES = 256 * 2**20
"""Predictions that are read while an execution runs; its last page has them all."""


class Following:
    """Reads what an execution's ranks leave, as they leave it.

    Parameters
    ----------
    arn
        Of the execution.
    folder
        An empty folder for the predictions read.
    """

    def __init__(self, connection: "Connection", arn: str, folder: "Path") -> None:
        with lookups(f"execution {arn}"):
            described = ended(connection, arn)
        self._input = described.input
        self._execution = Execution(
            id=arn, name=described.name, start_time=described.started or datetime.now(UTC)
        )
        self._store = connection.store(self._input["bucket"])
        self._path: str = self._input["result_path"]
        self._folder = folder
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        self._plan: Plan | None = None
        self._paths: dict[int, Any] = {}
        self._records: dict[int, RankRecord] = {}
        self._failed: dict[int, FailedRank] = {}
        self._predicted: set[int] = set()
        self._bytes = 0

    def look(self) -> bool:
        """Read what is new; return whether there was anything.

        Raises
        ------
        CosmicAIError
            If the results cannot be read.
        """
        if self._plan is None and not self._read_plan():
            return False
        found = {item.key: item.size for item in self._store.list(keys.folder(self._path))}
        new = self._read_records(found)
        return self._read_failures(found) or new

    def _read_plan(self) -> bool:
        try:
            plan = parse_json(Plan, self._store.read(keys.plan(self._path)), "plan.json")
            if plan.execution.id != self._execution.id:
                return False  # of an earlier execution, whose path this one takes over
            manifest = load_json(self._store.read(plan.manifest_key))
            self._paths = {int(item["RANK"]): item.get("DATA_PATH") for item in manifest}
        except ObjectNotFound:
            return False
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InvalidInput(f"{plan.manifest_key} is damaged: {error}") from None
        self._plan = plan
        return True

    def _read_records(self, found: dict[str, int]) -> bool:
        plan = self._planned
        missing = [
            rank
            for rank in range(plan.world_size)
            if rank not in self._records and keys.rank(self._path, rank) in found
        ]
        files = self._store.read_many(keys.rank(self._path, rank) for rank in missing)
        new = False
        for rank, file in zip(missing, files, strict=True):
            try:
                record = parse_json(RankRecord, file, "its record")
            except InvalidInput:
                continue  # Summarize says what is wrong with it
            if record.execution not in (self._execution.id, *plan.resumes):
                continue  # of an earlier execution
            self._records[rank], new = record, True
            size = found.get(record.predictions_key, 0)
            if size and self._bytes + size <= _MOST_BYTES:
                target = self._folder / "predictions" / f"{rank}.npz"
                self._store.download(record.predictions_key, target)
                self._predicted.add(rank)
                self._bytes += size
        return new

    def _read_failures(self, found: dict[str, int]) -> bool:
        gone = [
            rank
            for rank in range(self._planned.world_size)
            if rank not in self._failed and keys.failure(self._path, rank) in found
        ]
        files = self._store.read_many(keys.failure(self._path, rank) for rank in gone)
        new = False
        for rank, file in zip(gone, files, strict=True):
            try:
                failure = parse_json(RankFailure, file, "its failure")
            except InvalidInput:
                continue
            if failure.execution == self._execution.id:
                self._failed[rank], new = self._failure(rank, failure), True
        return new

    def _failure(self, rank: int, failure: RankFailure) -> FailedRank:
        return FailedRank(
            rank=rank,
            data_path=self._paths.get(rank),
            error=failure.failure.Error,
            cause=failure.failure.message,
            child=failure.child,
        )

    @property
    def _planned(self) -> Plan:
        if self._plan is None:
            raise InvalidInput("the execution is not planned yet")
        return self._plan

    @property
    def status(self) -> str:
        """How far the execution is, in a few words."""
        if self._plan is None:
            return "planning the ranks"
        failed = f", {len(self._failed)} failed" if self._failed else ""
        return f"{len(self._records)} of {self._plan.world_size} ranks done{failed}"

    def page(self) -> Page:
        """Return the report so far."""
        run = self._run()
        progress = self._progress(run)
        if not self._records and not self._failed:
            return Page(self._execution.name, self._subtitle(), [], [progress])
        found = run_page([run])
        rest = found.sections[1:]  # "Now" says what "In short" would
        return Page(found.title, self._subtitle(), found.alerts, [progress, *rest], found.data)

    def _subtitle(self) -> str:
        started = self._execution.start_time.astimezone(UTC)
        return f"Started {started:%Y-%m-%d %H:%M:%S} UTC, still running"

    def _progress(self, run: Run) -> Section:
        total = self._plan.world_size if self._plan else 0
        done, failed = len(self._records), len(self._failed)
        summary = run.summary
        cards = [
            Card("Ranks done", f"{done} of {total}" if total else "–"),
            Card("Ranks failed", text.count(failed), "given up"),
            Card("Time", text.seconds(summary.wall_seconds), "since the start"),
            Card("Galaxies", text.count(summary.num_samples), text.size(summary.num_bytes)),
            Card("Speed", f"{summary.samples_per_second:,.0f} /s", "galaxies per second"),
            Card("Throughput", text.rate(summary.throughput_bps), "sum over ranks"),
            Card("Peak memory", f"{summary.peak_memory_mb:,.0f} MB", "largest rank"),
            *quality_cards(summary.quality),
        ]
        if done and done + failed < total:
            left = summary.wall_seconds * (total - done - failed) / (done + failed)
            cards.insert(3, Card("To go", text.seconds(left), "at the pace so far"))
        shown = len(self._predicted)
        note = (
            f"The figures show the galaxies of {shown} of {done} ranks; the last page has all."
            if shown < done
            else ""
        )
        return Section(
            "live-now",
            "Now",
            note,
            tuple(cards),
            progress=(done + failed, total) if total else None,
        )

    def _run(self) -> Run:
        """Return what there is as a run; its summary counts what is there."""
        records = tuple(self._records[rank] for rank in sorted(self._records))
        now = datetime.now(UTC)
        summary = parse(
            Summary,
            {
                **totals(records),
                **pace(records),
                "status": "PARTIAL",
                "execution": self._execution,
                "input": self._input,
                "world_size": self._plan.world_size if self._plan else 0,
                "ranks_received": len(records),
                "num_failed_ranks": len(self._failed),
                "failed_ranks": [self._failed[rank] for rank in sorted(self._failed)],
                "num_partitions": self._plan.num_partitions if self._plan else 0,
                "wall_seconds": elapsed(self._execution.start_time, now),
                "engine": self._plan.engine if self._plan else None,
                "quality": quality.figures(quality.merge(r.quality for r in records)),
                "finished_at": now,
            },
        )
        return Run(self._folder, summary, records, predicted=frozenset(self._predicted))
