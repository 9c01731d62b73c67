"""What predicting took, as the fields of a rank's record."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cosmicai.machine import architecture, peak_memory_mb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmicai.prediction import Predictions


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

    from cosmicai.flags import count_flags
    from cosmicai.quality import statistics_of

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
        "flag_counts": count_flags(columns["flags"]),
        "origin": predictions.origin(),
        "quality": statistics_of(columns),
    }
