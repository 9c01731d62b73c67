"""Inference without orchestration: one process, the same code as a rank, the same metrics."""

import json
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cosmicai.errors import InvalidInput, PartitionNotFound
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

from cosmicai_workbench.data.files import file_errors
from cosmicai_workbench.data.uploading import etag_of
from cosmicai_workbench.results.fetch import reserve_folder


def infer(
    model: str | Path,
    partitions: Sequence[str | Path],
    *,
    engine: str | None,
    precision: str = "float32",
    batch_size: int,
    threads: int | None,
    device: str = "cpu",
    output: Path,
    on_partition: Callable[[str], None],
) -> Summary:
    """Predict partitions on this machine, and write a run folder like an execution's.

    Parameters
    ----------
    model
        Folder of the model bundle, or ``s3://bucket/folder``.
    partitions
        ``.pt`` files or ``s3://bucket/key``, predicted one after the other.
    engine, precision
        Which engine predicts, by default the first that is installed, and its arithmetic.
    threads
        Threads of the engine; by default every core that this process may use.
    device
        ``cpu``, or ``cuda`` for an NVIDIA GPU.
    output
        The run folder to make.
    on_partition
        Called when a partition is done.

    Raises
    ------
    InvalidInput
        If ``output`` exists or cannot be written, or the engine is unknown.
    PartitionNotFound, CorruptPartition, UnsafePickle
        From reading a partition.
    ModelNotFound, ModelMismatch
        From loading the model.
    """
    paths = [str(path) for path in partitions]
    for name in (*paths, str(output)):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"{name!a}: a name in UTF-8 expected; rename it") from None
    missing = [path for path in paths if not path.startswith("s3://") and not Path(path).is_file()]
    if missing:
        raise PartitionNotFound(f"no such file: {', '.join(missing)}")
    reserve_folder(output)
    began, clock, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    predictor = open_model(
        model, engine=engine, precision=precision, threads=threads, device=device
    )
    load_seconds = time.perf_counter() - clock
    predictions = predictor.predict_partitions(
        paths, batch_size=batch_size, on_partition=on_partition
    )
    arrays = predictions.arrays(paths)
    name = output.name
    record = RankRecord(
        **measured_fields(predictions, arrays, batch_size),
        result_path=name,
        data_path=paths,
        execution=f"local:{name}",
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
    _write(output, record, summary, npz_bytes(arrays))
    return summary


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
    with file_errors(output), whole_folder(output) as unfinished:
        (unfinished / "predictions").mkdir()
        (unfinished / "predictions" / "0.npz").write_bytes(predictions)
        (unfinished / "0.json").write_text(json.dumps(row))
        (unfinished / "combined_data.json").write_text(json.dumps([row]))
        (unfinished / "summary.json").write_text(summary.model_dump_json(by_alias=True, indent=2))
