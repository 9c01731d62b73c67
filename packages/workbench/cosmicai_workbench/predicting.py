"""Predict partitions on this machine: what ``cosmicai predict`` calls.

One process without orchestration: a rank's own code, and the same metrics.
"""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cosmicai.errors import InvalidInput, PartitionNotFound
from cosmicai.facts import BATCH_SIZE
from cosmicai.keys import folder
from cosmicai.measured import measured_fields
from cosmicai.models import open_model
from cosmicai.prediction import npz_bytes
from cosmicai.quality import figures, warnings
from cosmicai.schema import Execution, RankRecord, Summary
from cosmicai.sharing import is_partition, natural_key, partition_files
from cosmicai.storage import store
from cosmicai.totals import pace, totals
from cosmicai.whole_files import whole_folder

from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.bars import chosen_bar
from cosmicai_workbench.data.uploading import etag_of
from cosmicai_workbench.defaults import RUNS
from cosmicai_workbench.extras import libraries_named
from cosmicai_workbench.files import file_errors
from cosmicai_workbench.results.fetch import point_latest, reserve_folder
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
    target = Path(runs) / f"predict-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    target = target if output is None else Path(output)
    _check_names(paths, target)
    reserve_folder(target)
    model = model or SMALL_MODEL
    shown = bar or chosen_bar(on_progress)
    with libraries_named(), shown("predicting", len(paths), "partitions") as advance:
        began, clock, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
        predictor = open_model(
            model, engine=engine, precision=precision, threads=threads, device=device
        )
        load_seconds = time.perf_counter() - clock
        predictions = predictor.predict_partitions(
            paths, batch_size=batch_size, on_partition=lambda _: advance(1)
        )
        arrays = predictions.arrays(paths)
        record = RankRecord(
            **measured_fields(predictions, arrays, batch_size),
            result_path=target.name,
            data_path=paths,
            execution=f"local:{target.name}",
            rank=0,
            world_size=1,
            engine=predictor.engine,
            precision=predictor.precision,
            threads=predictor.threads,
            model_digest=predictor.digest,
            memory_limit_mb=0,
            cold_start=True,
            request_id="local",
            started_at=began,
            finished_at=datetime.now(UTC),
            model_load_seconds=load_seconds,
            process_cpu_seconds=time.process_time() - cpu,
            billed_duration_ms=math.ceil((time.perf_counter() - clock) * 1000),
            data_etag=[etag_of(Path(path)) if Path(path).is_file() else "" for path in paths],
            predictions_key="predictions/0.npz",
            predictions_etag="",
        )
        summary = _summary(record, began, model=Path(model).resolve().name)
        _write(target, record, summary, npz_bytes(arrays))
    if target.resolve().parent == Path(runs).resolve():
        point_latest(target)
    return load_run(target)


def partition_paths(sources: Sequence[str]) -> list[str]:
    """Return the partitions that are meant: those of a folder in natural order, others as named.

    Parameters
    ----------
    sources
        Folders or ``.pt`` files, here or as ``s3://bucket/...``.

    Raises
    ------
    PartitionNotFound
        A folder holds no partitions.
    """
    found: list[str] = []
    for source in sources:
        remote = source.startswith("s3://")
        if (remote and is_partition(source)) or (not remote and not Path(source).is_dir()):
            found.append(source)
            continue
        there = _stored_partitions(source) if remote else partition_files(Path(source))
        if not there:
            raise PartitionNotFound(f"{source} holds no partitions (*.pt)")
        found += map(str, there)
    return found


def _check_names(paths: Sequence[str], output: Path) -> None:
    for name in (*paths, str(output)):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"{name!a}: a name in UTF-8 expected; rename it") from None
    missing = [path for path in paths if not path.startswith("s3://") and not Path(path).is_file()]
    if missing:
        raise PartitionNotFound(f"no such file: {', '.join(missing)}")


def _stored_partitions(address: str) -> list[str]:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    keys = [item.key for item in store(bucket).list(folder(prefix), recursive=False)]
    return [f"s3://{bucket}/{key}" for key in sorted(filter(is_partition, keys), key=natural_key)]


def _summary(record: RankRecord, began: datetime, *, model: str) -> Summary:
    wall = (record.finished_at - began).total_seconds()
    quality = figures(record.quality)
    counted = {**totals([record]), **pace([record])}
    # From before the model was opened; and a model that had no galaxy to predict is named, too.
    counted |= {"inference_seconds": wall, "model_digest": record.model_digest}
    return Summary(
        **counted,
        status="SUCCEEDED",
        execution=Execution(id=record.execution, name=record.result_path, start_time=began),
        input={
            "batch_size": record.batch_size,
            "engine": record.engine,
            "data_path": record.data_path,
            "model": model,
        },
        world_size=1,
        ranks_received=1,
        num_partitions=len(record.data_path or ()),
        wall_seconds=wall,
        billed_seconds=0.0,
        engine=record.engine,
        quality=quality,
        warnings=warnings(quality),
        finished_at=record.finished_at,
    )


def _write(output: Path, record: RankRecord, summary: Summary, predictions: bytes) -> None:
    row = record.model_dump(mode="json", by_alias=True)
    with file_errors(output), whole_folder(output, replace=False) as unfinished:
        (unfinished / "predictions").mkdir()
        (unfinished / "predictions" / "0.npz").write_bytes(predictions)
        (unfinished / "0.json").write_text(json.dumps(row))
        (unfinished / "combined_data.json").write_text(json.dumps([row]))
        (unfinished / "summary.json").write_text(summary.model_dump_json(by_alias=True, indent=2))
