"""The Model Inference step: one rank reads its partitions, predicts, and writes two files.

A rank may run more than once (EXPRESS children run at least once, and retries repeat): the
predictions and the record that were there first stay, and agree.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cosmicai import keys, model_cache, storage
from cosmicai.claim import require_claim, write_owned
from cosmicai.errors import InvalidInput, ObjectNotFound, PreconditionFailed
from cosmicai.measured import measured_fields
from cosmicai.observability import logger, record_rank
from cosmicai.prediction import Predictions, npz_bytes, npz_columns, opened_for
from cosmicai.schema import ManifestItem, RankRecord, parse_json
from cosmicai.settings import InferenceSettings

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
        If S3 failed in a way that a retry may fix.
    """
    global _cold
    cold_start, _cold = _cold, False
    started_at, started = datetime.now(UTC), time.perf_counter()
    cpu_started = time.process_time()
    settings = InferenceSettings.read()
    earlier, earlier_etag = _record_there(item)
    if earlier and _stands(item, earlier):
        logger.info("this rank's record is already there")
        return _report(item, earlier)

    predictions = Predictions()
    threads, digest, load_seconds = settings.threads, "", 0.0
    if item.data_paths:
        from cosmicai.partition.sources import S3Object

        sources = [
            S3Object(item.DATA_BUCKET, path, storage.client(), etag)
            for path, etag in zip(item.data_paths, item.data_etags, strict=True)
        ]
        with opened_for(item.ENGINE, sources, item.BATCH_SIZE) as readers:
            predictor, load_seconds = model_cache.load(item, threads)
            digest = predictor.digest
            predictor.predict_readers(readers, predictions, batch_size=item.BATCH_SIZE)

    columns = predictions.arrays(item.data_paths)
    etag, columns = _write_predictions(item, columns)
    record = record_of(
        item,
        predictions,
        columns,
        cold_start=cold_start,
        request_id=request_id,
        threads=threads,
        memory_limit_mb=settings.memory_mb,
        model_digest=digest,
        started_at=started_at,
        finished_at=max(started_at, datetime.now(UTC)),  # the clock may have been set back
        model_load_seconds=load_seconds,
        process_cpu_seconds=time.process_time() - cpu_started,
        billed_duration_ms=math.ceil((time.perf_counter() - started) * 1000),
        predictions_key=keys.predictions(item.RESULT_PATH, item.RANK),
        predictions_etag=etag,
        task_digest=item.digest,
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
        data_etag=item.DATA_ETAG,
        execution=item.EXECUTION,
        rank=item.RANK,
        world_size=item.WORLD_SIZE,
        engine=item.ENGINE,
        precision=item.PRECISION,
        **measured,
    )


def _stands(item: ManifestItem, record: RankRecord) -> bool:
    """Say whether an earlier run of this rank, or a resumed execution, left its result whole."""
    if not (item.KEPT or record.execution == item.EXECUTION):
        return False
    predictions = storage.store(item.S3_BUCKET).find(record.predictions_key)
    return predictions is not None and predictions.etag == record.predictions_etag


def _record_there(item: ManifestItem) -> tuple[RankRecord | None, str | None]:
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


def _write_predictions(
    item: ManifestItem, columns: dict[str, NDArray[Any]]
) -> tuple[str, dict[str, NDArray[Any]]]:
    """Write the predictions, unless this rank, run twice, was faster.

    The last bits of two runs may differ where they ran on other processors. Those that are there
    first stay, so that the record of either run describes them.

    Returns
    -------
    str, dict
        ETag and arrays of the predictions that stay.

    Raises
    ------
    ResultPathInUse
        If another execution took the result path over.
    """
    store, key = storage.store(item.S3_BUCKET), keys.predictions(item.RESULT_PATH, item.RANK)

    def require() -> None:
        require_claim(item.EXECUTION, item.S3_BUCKET, item.RESULT_PATH)

    require()
    body = npz_bytes(columns)
    try:
        return store.write(key, body, if_none_match=True, owner=item.EXECUTION), columns
    except PreconditionFailed:
        there = store.read_content(key)
    if there.owner == item.EXECUTION and (first := _same_galaxies(there.body, columns)):
        return there.etag, first
    etag = write_owned(
        store, key, body, item.EXECUTION, require, content_type="application/octet-stream"
    )
    return etag, columns


def _same_galaxies(body: bytes, columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a predictions file if it is one of the same galaxies, else None."""
    import numpy as np

    try:
        first = npz_columns(body)
    except ValueError:
        return None
    alike = first.keys() == columns.keys() and all(
        (first[name].dtype, first[name].shape) == (columns[name].dtype, columns[name].shape)
        for name in columns
    )
    same = alike and all(
        np.array_equal(first[name], columns[name]) for name in ("data_paths", "partition", "index")
    )
    return first if same else None


def _write_record(item: ManifestItem, record: RankRecord, replaces: str | None) -> RankRecord:
    """Write the record unless this rank, run twice, was faster; return the one that stays.

    Parameters
    ----------
    replaces
        ETag of what was there before the claim was checked, or None.

    Raises
    ------
    ResultPathInUse
        If another execution took the result path over.
    """
    store, key = storage.store(item.S3_BUCKET), keys.rank(item.RESULT_PATH, item.RANK)
    body = storage.json_bytes(record.model_dump(mode="json", by_alias=True))
    while True:
        try:
            store.write(
                key,
                body,
                content_type="application/json",
                if_none_match=replaces is None,
                if_match=replaces,
                owner=item.EXECUTION,
            )
        except PreconditionFailed:  # written at this moment, by another run of this rank
            there, replaces = _record_there(item)
        else:
            return record
        ours = there is not None and there.execution == item.EXECUTION
        if there and ours and there.predictions_etag == record.predictions_etag:
            return there
        require_claim(item.EXECUTION, item.S3_BUCKET, item.RESULT_PATH)


def _report(item: ManifestItem, record: RankRecord) -> dict[str, Any]:
    return {
        "rank": item.RANK,
        "num_samples": record.num_samples,
        "record": keys.rank(item.RESULT_PATH, item.RANK),
    }
