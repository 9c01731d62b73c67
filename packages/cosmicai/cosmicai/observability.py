"""Logger, tracer and metrics of the functions, by Powertools.

Each is made once per sandbox, at first use, from the environment that the template sets
(``POWERTOOLS_SERVICE_NAME``, ``POWERTOOLS_METRICS_NAMESPACE``, ``POWERTOOLS_LOG_LEVEL``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit

from cosmicai.settings import ObservabilitySettings

if TYPE_CHECKING:
    from cosmicai.schema import Execution, ManifestItem, RankRecord, Summary

_settings = ObservabilitySettings.read()
logger = Logger()
metrics = Metrics(namespace=_settings.metrics_namespace)
# Without X-Ray (local cloud, tests) there is no segment to write to, and the SDK would complain on
# every call.
tracer = Tracer(disabled=not _settings.xray_address)


def log_execution(execution: Execution) -> None:
    """Put the execution on every following log line and trace of this invocation."""
    logger.append_keys(execution=execution.name)
    tracer.put_annotation("execution", execution.name)


def log_rank(item: ManifestItem) -> None:
    """Put execution, rank and world size on every following log line and trace."""
    logger.append_keys(execution=item.EXECUTION_NAME, rank=item.RANK, world_size=item.WORLD_SIZE)
    tracer.put_annotation("execution", item.EXECUTION_NAME)
    tracer.put_annotation("rank", str(item.RANK))


def record_rank(record: RankRecord) -> None:
    """Emit one rank's metrics, as one EMF record when the handler returns.

    The rank and the execution are metadata, not dimensions: one dimension per rank would be one
    billed metric per rank. Logs Insights finds them all the same.
    """
    values = (
        ("Samples", MetricUnit.Count, record.num_samples),
        ("Batches", MetricUnit.Count, record.num_batches),
        ("InferenceTime", MetricUnit.Seconds, record.total_cpu_time),
        ("S3Time", MetricUnit.Seconds, record.s3_total_time),
        ("Throughput", MetricUnit.BitsPerSecond, record.throughput_bps),
        ("PeakMemory", MetricUnit.Megabytes, record.total_cpu_memory),
        ("ColdStart", MetricUnit.Count, int(record.cold_start)),
        ("Unpredicted", MetricUnit.Count, record.num_unpredicted),
    )
    for name, unit, value in values:
        metrics.add_metric(name=name, unit=unit, value=value)
    metrics.add_metadata("rank", record.rank)
    metrics.add_metadata("world_size", record.world_size)
    metrics.add_metadata("execution", record.execution.rpartition(":")[2])  # its name, as logged
    metrics.add_metadata("engine", record.engine)


def record_summary(summary: Summary) -> None:
    """Emit what an execution took and cost, as one EMF record when the handler returns."""
    metrics.add_metric(name="WallTime", unit=MetricUnit.Seconds, value=summary.wall_seconds)
    if summary.cost:
        metrics.add_metric(name="EstimatedCost", unit=MetricUnit.NoUnit, value=summary.cost.total)
    metrics.add_metadata("execution", summary.execution.name)
    metrics.add_metadata("status", summary.status)
