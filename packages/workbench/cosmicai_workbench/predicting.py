"""Predict one's own partitions on this machine: what ``cosmicai predict`` calls."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cosmicai.prediction import BATCH_SIZE

from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.bars import chosen_bar
from cosmicai_workbench.extras import libraries_named
from cosmicai_workbench.results.fetch import RUNS, point_latest
from cosmicai_workbench.results.infer import infer, partition_paths
from cosmicai_workbench.results.run_folder import load_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cosmicai_workbench.bars import Bar, Progress
    from cosmicai_workbench.results.run_folder import Run


def predict(
    partitions: str | Path | Sequence[str | Path],
    model: str | Path | None = None,
    *,
    output: str | Path | None = None,
    runs: str | Path = RUNS,
    engine: str | None = None,
    precision: str = "float32",
    batch_size: int = BATCH_SIZE,
    threads: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[Progress], None] | None = None,
    bar: Bar | None = None,
) -> Run:
    """Predict partitions in this process, into a run folder like an execution's.

    Parameters
    ----------
    partitions
        A folder of partitions, a ``.pt`` file, ``s3://bucket/...`` of either, or several of them.
    model
        Folder of a model bundle, or ``s3://bucket/folder``; by default the small one that ships.
    output
        The run folder to make; by default ``predict-<time>`` in ``runs``. ``runs/latest`` then
        points to it.
    runs
        Folder of the run folders.
    engine, precision, threads, device
        See :func:`cosmicai.open_model`.
    batch_size
        Galaxies predicted at once.
    on_progress
        Called as partitions are done. By default a notebook shows a bar.
    bar
        Shows progress instead.

    Returns
    -------
    Run
        Its ``summary``, its ``catalogue()``.

    Raises
    ------
    InvalidInput
        The output exists or cannot be written, or the engine is unknown.
    PartitionNotFound, CorruptPartition, UnsafePickle
        From reading a partition.
    ModelNotFound, ModelMismatch
        From loading the model.
    """
    given = [partitions] if isinstance(partitions, str | Path) else partitions
    paths = partition_paths([str(each) for each in given])
    folder = Path(runs) / f"predict-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder = folder if output is None else Path(output)
    shown = bar or chosen_bar(on_progress)
    with libraries_named(), shown("predicting", len(paths), "partitions") as advance:
        infer(
            model or SMALL_MODEL,
            paths,
            engine=engine,
            precision=precision,
            batch_size=batch_size,
            threads=threads,
            device=device,
            output=folder,
            on_partition=lambda _: advance(1),
        )
    if folder.resolve().parent == Path(runs).resolve():
        point_latest(folder)
    return load_run(folder)
