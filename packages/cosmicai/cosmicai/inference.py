"""The Model Inference step: one rank reads its partitions, predicts, and writes two files.

A rank may run more than once (EXPRESS children run at least once, and retries repeat): the
predictions are the same bytes again, and the record that was there first stays.
"""

from __future__ import annotations

import math
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cosmicai import keys, model_cache, storage
from cosmicai.claim import require_claim
from cosmicai.errors import InvalidInput, ObjectNotFound, PreconditionFailed
from cosmicai.facts import threads as threads_of
from cosmicai.machine import architecture, available_cores, peak_memory_mb
from cosmicai.observability import logger, record_rank
from cosmicai.prediction import Predictions, npz_bytes, opened_for
from cosmicai.schema import ManifestItem, RankRecord, parse_json

if TYPE_CHECKING:
    from numpy.typing import NDArray


_cold = True  # cleared by the sandbox's first rank


def run_rank(item: ManifestItem, request_id: str) -> dict[str, Any]:
    """Predict one rank's galaxies; write ``predictions/<rank>.npz``, then ``<rank>.json``.

    A rank without data writes both as well. A rank whose record this execution already has, or
    keeps of the one that it resumes, does nothing again.

    Returns
    -------
    dict
        What the child execution reports: rank, number of samples, key of the record.

    Raises
    ------
    PartitionNotFound, CorruptPartition, UnsafePickle
        From reading a partition.
    ModelNotFound, ModelMismatch
        From loading the model.
    ResultPathInUse
        If another execution took over the result path meanwhile; nothing was written.
    TransientStorageError
        If S3 failed in a way that a retry may mend.
    """
    global _cold
    cold_start, _cold = _cold, False
    started_at, started = datetime.now(UTC), time.perf_counter()
    cpu_started = time.process_time()
    earlier, earlier_etag = _earlier_record(item)
    if earlier and (item.KEPT or earlier.execution == item.EXECUTION):
        logger.info("this rank's record is already there")
        return _report(item, earlier)

    predictions = Predictions()
    threads, digest, load_seconds = available_vcpus(), "", 0.0
    if item.data_paths:
        from cosmicai.partition.sources import S3Object

        sources = [S3Object(item.DATA_BUCKET, path, storage.client()) for path in item.data_paths]
        with opened_for(item.ENGINE, sources, item.BATCH_SIZE) as readers:
            predictor, load_seconds = model_cache.load(item, threads)
            digest = predictor.digest
            predictor.predict_readers(readers, predictions, batch_size=item.BATCH_SIZE)

    columns = predictions.arrays(item.data_paths)
    require_claim(item.EXECUTION, item.S3_BUCKET, item.RESULT_PATH)
    predictions_key = keys.predictions(item.RESULT_PATH, item.RANK)
    etag = storage.store(item.S3_BUCKET).write(predictions_key, npz_bytes(columns))
    record = record_of(
        item,
        predictions,
        columns,
        cold_start=cold_start,
        request_id=request_id,
        threads=threads,
        model_digest=digest,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        model_load_seconds=load_seconds,
        process_cpu_seconds=time.process_time() - cpu_started,
        billed_duration_ms=math.ceil((time.perf_counter() - started) * 1000),
        predictions_key=predictions_key,
        predictions_etag=etag,
    )
    record = _write_record(item, record, replaces=earlier_etag)
    record_rank(record)
    logger.info(
        "rank done",
        extra={
            "samples": record.num_samples,
            "seconds": round(record.total_cpu_time, 3),
            "samples_per_second": round(record.sample_persec, 1),
            "unpredicted": record.num_unpredicted,
        },
    )
    return _report(item, record)


def available_vcpus() -> int:
    """Return the vCPUs that this function's memory size pays for, at least 1.

    ``INFERENCE_THREADS`` in the environment overrides it, e.g. for sandboxes sharing a machine.
    """
    if override := os.environ.get("INFERENCE_THREADS"):
        return max(1, int(override))
    cores = available_cores()
    memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 0))
    return min(cores, threads_of(memory)) if memory else cores


def record_of(
    item: ManifestItem,
    predictions: Predictions,
    columns: dict[str, NDArray[Any]],
    **measured: Any,
) -> RankRecord:
    """Return the record of a rank; ``measured`` holds the fields that only its caller knows."""
    return RankRecord(
        **measured_fields(predictions, columns, item.BATCH_SIZE),
        result_path=item.RESULT_PATH,
        data_path=item.DATA_PATH,
        execution=item.EXECUTION,
        rank=item.RANK,
        world_size=item.WORLD_SIZE,
        engine=item.ENGINE,
        precision=item.PRECISION,
        memory_limit_mb=int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 0)),
        **measured,
    )


def measured_fields(
    predictions: Predictions, columns: dict[str, NDArray[Any]], batch_size: int
) -> dict[str, Any]:
    """Return the fields of a record that follow from the predictions and from this process.

    Parameters
    ----------
    columns
        The arrays as they are stored.
    batch_size
        Galaxies of a full batch.
    """
    import numpy as np

    from cosmicai.quality import statistics

    seconds, batches = predictions.predict_seconds, predictions.num_batches
    s3 = predictions.s3
    requests = sum(statistic.requests for statistic in s3)
    s3_seconds = math.fsum(statistic.total_seconds for statistic in s3)
    return {
        "total_cpu_time": seconds,
        "total_cpu_memory": peak_memory_mb(),
        "execution_time": seconds / batches if batches else 0.0,
        "num_batches": batches,
        "batch_size": batch_size,
        "throughput_bps": predictions.input_bytes * 8 / seconds if seconds else 0.0,
        "sample_persec": predictions.num_samples / seconds if seconds else 0.0,
        "s3_num_requests": requests,
        "s3_total_time": s3_seconds,
        "s3_avg_time": s3_seconds / requests if requests else 0.0,
        "s3_min_time": min((statistic.min_seconds for statistic in s3), default=0.0),
        "s3_max_time": max((statistic.max_seconds for statistic in s3), default=0.0),
        "num_samples": predictions.num_samples,
        "num_bytes": predictions.num_bytes,
        "architecture": architecture(),
        "wait_seconds": predictions.wait_seconds,
        "num_nonfinite_pixels": predictions.nonfinite_pixels,
        "num_nonfinite_magnitudes": predictions.nonfinite_magnitudes,
        "num_unpredicted": int(np.isnan(columns["redshift"]).sum()),
        "quality": statistics(columns["redshift"], columns["true_redshift"]),
    }


def _earlier_record(item: ManifestItem) -> tuple[RankRecord | None, str | None]:
    """Return the record that lies where this rank's goes, None if damaged, and its ETag."""
    key = keys.rank(item.RESULT_PATH, item.RANK)
    try:
        found = storage.store(item.S3_BUCKET).read_content(key)
    except ObjectNotFound:
        return None, None
    try:
        return parse_json(RankRecord, found.body, key), found.etag
    except InvalidInput:
        return None, found.etag


def _write_record(item: ManifestItem, record: RankRecord, replaces: str | None) -> RankRecord:
    """Write the record unless this rank, run twice, was faster; return the one that stays."""
    key = keys.rank(item.RESULT_PATH, item.RANK)
    document = record.model_dump(mode="json", by_alias=True)
    try:
        storage.store(item.S3_BUCKET).write_json(
            key, document, if_none_match=replaces is None, if_match=replaces
        )
    except PreconditionFailed:
        first, _ = _earlier_record(item)
        if first is None or first.execution != item.EXECUTION:
            raise
        return first
    return record


def _report(item: ManifestItem, record: RankRecord) -> dict[str, Any]:
    return {
        "rank": item.RANK,
        "num_samples": record.num_samples,
        "record": keys.rank(item.RESULT_PATH, item.RANK),
    }
