"""Inference without orchestration: one process, the same code as a rank, the same metrics."""

import json
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cosmicai.errors import InvalidInput, PartitionNotFound
from cosmicai.inference import measured_fields
from cosmicai.models import open_model
from cosmicai.prediction import npz_bytes
from cosmicai.quality import figures
from cosmicai.schema import Execution, RankRecord, Summary


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
        If ``output`` exists, or the engine is unknown.
    PartitionNotFound, CorruptPartition, UnsafePickle
        From reading a partition.
    ModelNotFound, ModelMismatch
        From loading the model.
    """
    if output.exists():
        raise InvalidInput(f"{output}: exists already; choose another --output, or remove it")
    paths = [str(path) for path in partitions]
    missing = [path for path in paths if not path.startswith("s3://") and not Path(path).is_file()]
    if missing:
        raise PartitionNotFound(f"no such file: {', '.join(missing)}")
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
        predictions_key="predictions/0.npz",
        predictions_etag="",
    )
    summary = _summary(record, began, model=Path(model).resolve().name)
    _write(output, record, summary, npz_bytes(arrays))
    return summary


def _summary(record: RankRecord, began: datetime, *, model: str) -> Summary:
    wall = (record.finished_at - began).total_seconds()
    return Summary(
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
        num_samples=record.num_samples,
        num_bytes=record.num_bytes,
        num_nonfinite_pixels=record.num_nonfinite_pixels,
        num_nonfinite_magnitudes=record.num_nonfinite_magnitudes,
        num_unpredicted=record.num_unpredicted,
        wall_seconds=wall,
        inference_seconds=wall,
        samples_per_second=record.num_samples / wall,
        throughput_bps=record.throughput_bps,
        peak_memory_mb=record.total_cpu_memory,
        cold_starts=1,
        billed_seconds=0.0,
        engine=record.engine,
        model_digest=record.model_digest,
        quality=figures(record.quality),
        finished_at=record.finished_at,
    )


def _write(output: Path, record: RankRecord, summary: Summary, predictions: bytes) -> None:
    """Write the run folder under another name first: it appears whole or not at all."""
    unfinished = output.with_name(f".{output.name}.partial")
    (unfinished / "predictions").mkdir(parents=True, exist_ok=True)
    row = record.model_dump(mode="json", by_alias=True)
    (unfinished / "predictions" / "0.npz").write_bytes(predictions)
    (unfinished / "0.json").write_text(json.dumps(row))
    (unfinished / "combined_data.json").write_text(json.dumps([row]))
    (unfinished / "summary.json").write_text(summary.model_dump_json(by_alias=True, indent=2))
    unfinished.replace(output)
