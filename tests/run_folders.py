"""Run folders that follow the contracts, made up in a second, with known troubles on request."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from cosmicai.calibration import INTERVALS
from cosmicai.flags import MAGNITUDE, NO_PREDICTION
from cosmicai.model.interface import NormalOutput
from cosmicai.outputs import cdf_at, estimate, pdf
from cosmicai.partition.catalogue import Catalogue
from cosmicai.quality import figures, merge, statistics
from cosmicai.schema import (
    CollectiveResult,
    Execution,
    FailedRank,
    QualityStatistics,
    RankRecord,
    Summary,
)
from cosmicai.scores import Scores

START = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
DIGEST = "5f" * 32
BYTES_PER_SAMPLE = 20_504


def _report_line(record: RankRecord, init_seconds: float) -> str:
    duration = record.billed_duration_ms - 0.4
    init = f"\tInit Duration: {1000 * init_seconds:.2f} ms" if init_seconds else ""
    billed = record.billed_duration_ms + round(1000 * init_seconds)
    return (
        f"REPORT RequestId: {record.request_id}\tDuration: {duration:.2f} ms\t"
        f"Billed Duration: {billed} ms\tMemory Size: {record.memory_limit_mb} MB\t"
        f"Max Memory Used: {record.total_cpu_memory:.0f} MB{init}\t"
    )


def _met(name: str, ranks: int) -> CollectiveResult:
    return CollectiveResult(
        execution=name,
        world_size=ranks,
        channel="s3",
        sums={},
        seconds={},
        maxima={},
        longest_wait_seconds=1.5,
        quality_statistics=QualityStatistics(),
        quality=figures(QualityStatistics()),
    )


def _distributed(predicted: np.ndarray, true: np.ndarray, magnitude: np.ndarray) -> dict[str, Any]:
    """Return what a model with normal distributions adds: columns, p(z), scores; some flags."""
    output = NormalOutput()
    raw = np.stack([predicted, 0.028 * (1 + np.abs(predicted))], axis=1).astype(np.float32)
    columns = estimate(output, raw)
    density = pdf(output, raw, np.linspace(-0.2, 1.2, 700))
    found = {name: values for name, values in columns.items() if name != "redshift"}
    for offset, band in zip((2.0, 0.9, -0.4, -0.7), "ugiz", strict=True):
        found[f"magnitude_{band}"] = (magnitude + offset * (1 + predicted)).astype(np.float32)
    flags = np.where(magnitude < 14.5, MAGNITUDE.value, 0) + np.where(predicted > 0.5, 16, 0)
    flags += np.where(np.isfinite(predicted), 0, NO_PREDICTION.value)
    at_truth = np.exp(-0.5 * ((true - raw[:, 0]) / raw[:, 1]) ** 2) / raw[:, 1] / np.sqrt(2 * np.pi)
    scores = Scores(
        pit=cdf_at(output, raw, true),
        crps=0.23 * raw[:, 1],
        density=at_truth,
        squared_density=(density**2).sum(axis=1) * 0.002,
    )
    return {
        **found,
        "flags": flags.astype(np.int32),
        "pdf": raw,
        "output": np.array(output.model_dump_json()),
        "scores": scores,
    }


def make_run(
    path: Path,
    *,
    ranks: int = 8,
    samples: int = 400,
    slots: int = 4,
    seed: int = 0,
    galaxies_seed: int | None = None,
    straggler: int | None = 5,
    failed: tuple[int, ...] = (),
    nan: int = 0,
    digest: str = DIGEST,
    cost: dict[str, Any] | None = None,
    name: str = "synthetic",
    batch_size: int = 128,
    seconds_per_sample: float = 0.005,
    fmi: bool = False,
    carried: dict[int, dict[str, Catalogue]] | None = None,
    distributions: bool = False,
) -> Path:
    """Write ``runs/<name>`` as an execution of ``ranks`` ranks leaves it; return its folder.

    Runs of one ``galaxies_seed`` hold the same galaxies, whatever their ``seed``; without it,
    other galaxies for each seed. ``carried`` holds, by rank, what its partition carries:
    ``catalogue`` and ``rejected``.
    """
    rng = np.random.default_rng(seed)
    galaxies = rng if galaxies_seed is None else np.random.default_rng(galaxies_seed)
    folder = path / name
    (folder / "predictions").mkdir(parents=True)
    records, reports = [], []
    free = [START + timedelta(seconds=0.9 + 0.05 * slot) for slot in range(slots)]
    used: set[int] = set()
    for rank in range(ranks):
        if rank in failed:
            continue
        slot = min(range(slots), key=lambda s: free[s])
        cold = slot not in used
        used.add(slot)
        init = 1.1 + 0.3 * rng.random() if cold else 0.0
        load = 0.4 if cold else 0.0
        wait = 0.05 + 0.05 * rng.random()
        predict = samples * seconds_per_sample * rng.lognormal(0, 0.08)
        predict *= 3 if rank == straggler else 1
        started = free[slot] + timedelta(seconds=init + 0.02)
        finished = started + timedelta(seconds=load + wait + predict + 0.06)
        free[slot] = finished + timedelta(seconds=0.02)
        true = galaxies.gamma(3, 0.05, samples).astype(np.float32)
        predicted = (true + 0.02 * (1 + true) * rng.standard_t(4, samples)).astype(np.float32)
        unpredicted = nan if rank == 0 else 0
        predicted[:unpredicted] = np.nan
        magnitude = (17.8 - galaxies.exponential(0.7, samples)).astype(np.float32)
        data_path = f"25MB/{rank + 1}.pt"
        known = _distributed(predicted, true, magnitude) if distributions else {}
        scores = known.pop("scores", None)
        np.savez(
            folder / "predictions" / f"{rank}.npz",
            data_paths=np.array([data_path]),
            partition=np.zeros(samples, np.int32),
            index=np.arange(samples, dtype=np.int32),
            redshift=predicted,
            true_redshift=true,
            magnitude_r=magnitude,
            **known,
            **{
                key: array
                for kind, catalogue in (carried or {}).get(rank, {}).items()
                for key, array in catalogue.to_arrays(kind).items()
            },
        )
        batches = -(-samples // batch_size)
        requests = 4
        records.append(
            RankRecord(
                total_cpu_time=predict,
                total_cpu_memory=900 + 40 * rng.random(),
                execution_time=predict / batches,
                num_batches=batches,
                batch_size=batch_size,
                throughput_bps=8 * BYTES_PER_SAMPLE * samples / predict,
                sample_persec=samples / predict,
                result_path=f"results/{name}",
                data_path=data_path,
                s3_num_requests=requests,
                s3_total_time=0.09 * requests,
                s3_avg_time=0.09,
                s3_min_time=0.05,
                s3_max_time=0.15,
                execution=f"arn:aws:states:eu-west-1:123456789012:execution:cosmicai:{name}",
                rank=rank,
                world_size=ranks,
                num_samples=samples,
                num_bytes=samples * BYTES_PER_SAMPLE,
                engine="torch",
                precision="float32",
                threads=1,
                model_digest=digest,
                architecture="x86_64",
                memory_limit_mb=1769,
                cold_start=cold,
                request_id=f"request-{rank}",
                started_at=started,
                finished_at=finished,
                model_load_seconds=load,
                wait_seconds=wait,
                process_cpu_seconds=predict,
                billed_duration_ms=round(1000 * (finished - started).total_seconds()) + 1,
                num_unpredicted=unpredicted,
                num_nonfinite_pixels=3 * unpredicted,
                predictions_key=f"results/{name}/predictions/{rank}.npz",
                predictions_etag="0",
                quality=statistics(
                    predicted,
                    true,
                    magnitude,
                    intervals={name: known[name] for name in INTERVALS} if known else None,
                    scores=scores,
                ),
            )
        )
        reports.append(_report_line(records[-1], init))
    last = max((r.finished_at for r in records), default=START)
    first = min((r.started_at for r in records), default=START)
    inference = (last - first).total_seconds()
    quality = figures(merge(record.quality for record in records))
    done = len(records) * samples
    summary = Summary(
        status="FAILED" if failed else "SUCCEEDED",
        execution=Execution(
            id=f"arn:aws:states:eu-west-1:123456789012:execution:cosmicai:{name}",
            name=name,
            start_time=START,
        ),
        input={"data_prefix": "25MB", "batch_size": batch_size, "file_limit": ranks},
        world_size=ranks,
        ranks_received=len(records),
        num_failed_ranks=len(failed),
        failed_ranks=[
            FailedRank(
                rank=rank,
                data_path=f"25MB/{rank + 1}.pt",
                error="CorruptPartition",
                cause="the file ends early",
            )
            for rank in failed
        ],
        num_partitions=ranks,
        num_samples=done,
        num_bytes=done * BYTES_PER_SAMPLE,
        num_unpredicted=nan,
        num_nonfinite_pixels=3 * nan,
        wall_seconds=(last - START).total_seconds() + 0.7,
        inference_seconds=inference,
        samples_per_second=done / inference if inference else 0,
        throughput_bps=sum(r.throughput_bps for r in records),
        peak_memory_mb=max((r.total_cpu_memory for r in records), default=0),
        cold_starts=len(used),
        billed_seconds=sum(r.billed_duration_ms for r in records) / 1000,
        engine="torch",
        model_digest=digest,
        quality=quality if quality.num_galaxies else None,
        cost=cost,
        fmi=_met(name, ranks) if fmi else None,
        finished_at=last + timedelta(seconds=0.7),
    )
    rows = [record.model_dump(mode="json", by_alias=True) for record in records]
    (folder / "combined_data.json").write_text(json.dumps(rows))
    for row in rows:
        (folder / f"{row['rank']}.json").write_text(json.dumps(row))
    (folder / "invocations.jsonl").write_text(
        "".join(json.dumps({"function": "model_inference", "report": r}) + "\n" for r in reports)
    )
    (folder / "summary.json").write_text(summary.model_dump_json(by_alias=True))
    return folder
