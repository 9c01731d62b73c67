"""Inference without orchestration: one process, the same code as a rank, the same metrics."""

import json
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cosmicai.engines.base import load_engine
from cosmicai.engines.registry import installed_engine
from cosmicai.errors import InvalidInput, PartitionNotFound
from cosmicai.inference import available_vcpus, record_of
from cosmicai.model.bundle import Bundle
from cosmicai.prediction import Totals, columns_of, npz_bytes, opened_for, predict_partition
from cosmicai.quality import figures
from cosmicai.schema import Execution, ManifestItem, RankRecord, Summary, parse

_BUCKET = "local-files"
"""Stands where a rank has a bucket; nothing is read from S3."""


def infer(
    model: Path,
    partitions: Sequence[Path],
    *,
    engine: str | None,
    precision: str = "float32",
    batch_size: int,
    threads: int | None,
    output: Path,
    on_partition: Callable[[Path], None],
) -> Summary:
    """Predict partitions on this machine, and write a run folder like an execution's.

    Parameters
    ----------
    model
        Folder of the model bundle.
    partitions
        ``.pt`` files, predicted one after the other.
    engine, precision
        Which engine predicts, by default the first that is installed, and its arithmetic.
    threads
        Threads of the engine; by default every core that this process may use.
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
    missing = [str(path) for path in partitions if not path.is_file()]
    if missing:
        raise PartitionNotFound(f"no such file: {', '.join(missing)}")
    began, clock, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    count = threads or available_vcpus()
    bundle = Bundle(model)
    engine = engine or installed_engine(bundle.config.architecture, precision).name
    loaded = load_engine(engine, bundle, threads=count, precision=precision)
    load_seconds = time.perf_counter() - clock
    digest = bundle.digest
    name = output.name
    item = _item(model, partitions, name, engine, precision, batch_size)
    totals = Totals()
    with opened_for(item, partitions) as readers:
        for position, reader in enumerate(readers):
            predict_partition(reader, position, loaded, totals, batch_size)
            on_partition(partitions[position])
    columns = columns_of(item, totals)
    record = record_of(
        item,
        totals,
        columns,
        cold_start=True,
        request_id="local",
        threads=count,
        model_digest=digest,
        started_at=began,
        finished_at=datetime.now(UTC),
        model_load_seconds=load_seconds,
        process_cpu_seconds=time.process_time() - cpu,
        billed_duration_ms=math.ceil((time.perf_counter() - clock) * 1000),
        predictions_key="predictions/0.npz",
        predictions_etag="",
    )
    summary = _summary(item, record, began, len(partitions))
    _write(output, record, summary, npz_bytes(columns))
    return summary


def _item(
    model: Path, partitions: Sequence[Path], name: str, engine: str, precision: str, batch_size: int
) -> ManifestItem:
    values = {
        "S3_BUCKET": _BUCKET,
        "S3_OBJECT_NAME": model.resolve().name,
        "SCRIPT": "inference.py",
        "S3_OBJECT_TYPE": "folder",
        "WORLD_SIZE": 1,
        "RANK": 0,
        "DATA_BUCKET": _BUCKET,
        "DATA_PREFIX": partitions[0].resolve().parent.name or "data",
        "DATA_PATH": [str(path) for path in partitions],
        "RESULT_PATH": name,
        "BATCH_SIZE": batch_size,
        "EXECUTION": f"local:{name}",
        "EXECUTION_NAME": name,
        "MODEL_VERSION": "",
        "ENGINE": engine,
        "PRECISION": precision,
        "FAILURE_KEY": "failures/0.json",
    }
    return parse(ManifestItem, values)


def _summary(item: ManifestItem, record: RankRecord, began: datetime, partitions: int) -> Summary:
    wall = (record.finished_at - began).total_seconds()
    return Summary(
        status="SUCCEEDED",
        execution=Execution(id=item.EXECUTION, name=item.EXECUTION_NAME, start_time=began),
        input={
            "batch_size": item.BATCH_SIZE,
            "engine": item.ENGINE,
            "data_path": item.data_paths,
            "model": item.S3_OBJECT_NAME,
        },
        world_size=1,
        ranks_received=1,
        num_partitions=partitions,
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
