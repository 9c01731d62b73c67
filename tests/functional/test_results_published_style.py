"""The published analysis reads our files: its fields are there, finite, positive and honest."""

import json
import math

import numpy as np
import pytest
from s3_stack import Stack, running_stack

FIELDS = (
    "total_cpu_time (seconds)",
    "total_cpu_memory (MB)",
    "execution_time (seconds/batch)",
    "num_batches",
    "batch_size",
    "throughput_bps",
    "sample_persec",
    "s3_num_requests",
    "s3_total_time",
    "s3_avg_time",
    "s3_min_time",
    "s3_max_time",
)
"""The numbers of a published rank file, names to the letter."""


@pytest.fixture
def stack(monkeypatch, tmp_path):
    yield from running_stack(monkeypatch, tmp_path)


def combined(stack: Stack) -> list[dict]:
    """Run an execution and load its combined_data.json as the published scripts do."""
    stack.put_model()
    stack.put_partitions(["1.pt", "2.pt", "3.pt"], galaxies=30)
    plan = stack.initialize()
    stack.run_ranks(plan)
    stack.summarize()
    return json.loads(json.dumps(stack.read("combined_data.json")))


def test_every_published_field_is_finite_and_positive(stack):
    records = combined(stack)
    assert len(records) == 3
    for record in records:
        values = {name: record[name] for name in FIELDS}
        wrong = {n: v for n, v in values.items() if not (math.isfinite(v) and v > 0)}
        assert wrong == {}
        assert record["device"] == "cpu"
        assert record["result_path"] == stack.input["result_path"]
        assert record["data_path"].startswith(stack.input["data_prefix"])


def test_the_published_aggregation_gives_what_it_should(stack):
    records = combined(stack)
    # As in the authors' result_stats: the mean time of a rank, bits, and their throughput.
    mean_time = np.mean([record["total_cpu_time (seconds)"] for record in records])
    bits = sum(r["throughput_bps"] * r["total_cpu_time (seconds)"] for r in records)
    assert bits == pytest.approx(3 * 30 * (5 * 32 * 32 + 5) * 32, rel=1e-9)
    assert 0 < mean_time < 10
    for record in records:
        per_batch = record["execution_time (seconds/batch)"]
        total = record["total_cpu_time (seconds)"]
        assert per_batch * record["num_batches"] == pytest.approx(total)
        assert record["sample_persec"] * total == pytest.approx(30)
        assert record["s3_min_time"] <= record["s3_avg_time"] <= record["s3_max_time"]
