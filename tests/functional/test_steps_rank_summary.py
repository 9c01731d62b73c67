"""Ranks and Summarize against a real S3 server: whole, partial, failed, repeated, taken over."""

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cosmicai import inference, keys, model_cache, storage
from cosmicai.calibration import LabelledSet
from cosmicai.errors import CorruptPartition, IncompleteResults, PartitionNotFound, ResultPathInUse
from cosmicai.machine import peak_memory_mb
from cosmicai.model.interface import Interface
from cosmicai.prediction import Predictor
from cosmicai.schema import RankRecord, Summary, parse
from cosmicai_workbench.modeling.conformal import fit
from s3_stack import (
    BUCKET,
    ROOT,
    Context,
    MeanEngine,
    Stack,
    load_handler,
    make_galaxies,
    running_stack,
)

PATH = "result-partition-100MB/1GB/1"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stack]:
    for stack in running_stack(monkeypatch, tmp_path):
        stack.put_model()
        stack.put_partitions(["1.pt", "2.pt", "3.pt"])
        yield stack


def predictions(rank: int) -> dict[str, np.ndarray]:
    with np.load(
        io.BytesIO(storage.store(BUCKET).read(keys.predictions(PATH, rank))), allow_pickle=False
    ) as arrays:
        return dict(arrays)


def test_every_galaxy_of_every_partition_is_predicted_and_combined(stack: Stack) -> None:
    plan = stack.initialize(world_size=2, batch_size=4)
    stack.run_ranks(plan)
    summary = stack.summarize(world_size=2, batch_size=4)
    assert summary.status == "SUCCEEDED"
    assert (summary.ranks_received, summary.num_samples) == (2, 18)
    arrays = predictions(0)
    assert arrays["data_paths"].tolist() == ["100MB/1.pt", "100MB/2.pt"]
    assert arrays["partition"].tolist() == [0] * 6 + [1] * 6
    assert arrays["index"].tolist() == [*range(6), *range(6)]
    assert arrays["true_redshift"] == pytest.approx(
        np.concatenate([make_galaxies(6, seed).redshift for seed in (0, 1)])
    )
    assert arrays["magnitude_r"][:6] == pytest.approx(make_galaxies(6, 0).magnitude[:, 2])
    assert np.abs(arrays["redshift"] - arrays["true_redshift"]).max() < 0.01

    combined = stack.read("combined_data.json")
    assert [entry["rank"] for entry in combined] == [0, 1]
    assert combined[0] == stack.read("0.json")
    assert combined[0]["num_batches"] == 4
    assert combined[0]["data_path"] == ["100MB/1.pt", "100MB/2.pt"]
    assert combined[1]["data_path"] == "100MB/3.pt"
    written = parse(Summary, stack.read("summary.json"))
    assert written.quality is not None
    assert written.quality.num_galaxies == 18
    assert written.quality.r2 is not None
    assert written.quality.r2 > 0.99
    assert written.cost is not None
    assert written.cost.total > 0


def test_a_records_figures_are_finite_consistent_and_honest(stack: Stack) -> None:
    stack.run_ranks(stack.initialize())
    record = parse(RankRecord, stack.read("0.json"))
    assert record.total_cpu_time > 0
    assert record.execution_time == pytest.approx(record.total_cpu_time / record.num_batches)
    assert record.sample_persec == pytest.approx(record.num_samples / record.total_cpu_time)
    assert record.throughput_bps == pytest.approx(
        record.num_samples * (5 * 32 * 32 + 5) * 4 * 8 / record.total_cpu_time
    )
    assert 10 < record.total_cpu_memory < 20_000
    assert record.total_cpu_memory == pytest.approx(peak_memory_mb(), rel=0.2)
    assert record.s3_num_requests >= 1
    assert record.s3_min_time <= record.s3_avg_time <= record.s3_max_time <= record.s3_total_time
    assert record.billed_duration_ms >= 1000 * record.total_cpu_time
    assert record.num_bytes == storage.store(BUCKET).head("100MB/1.pt").size


def test_a_rank_that_runs_again_leaves_the_same_files(stack: Stack) -> None:
    plan = stack.initialize()
    stack.run_ranks(plan)
    before = stack.files()
    stack.run_ranks(plan)
    assert stack.files() == before


def test_a_rank_killed_between_its_two_files_is_repeated_to_the_same_predictions(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stack.initialize()

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(inference, "_write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            stack.run_ranks(plan, [0])
    half = stack.files()
    assert "0.json" not in half
    stack.run_ranks(plan)
    assert stack.files()["predictions/0.npz"] == half["predictions/0.npz"]
    assert stack.summarize().status == "SUCCEEDED"


def test_of_two_runs_of_a_rank_at_once_the_first_record_stays(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stack.initialize()
    real = inference._write_record

    def overtaken(*arguments: object, **options: object) -> RankRecord:
        with monkeypatch.context() as twin:
            twin.setattr(inference, "_write_record", real)
            stack.run_ranks(plan, [0])
        return real(*arguments, **options)

    with monkeypatch.context() as slow:
        slow.setattr(inference, "_write_record", overtaken)
        stack.run_ranks(plan, [0])
    record = parse(RankRecord, stack.read("0.json"))
    assert record.predictions_etag == stack.files()["predictions/0.npz"]
    stack.run_ranks(plan)
    assert stack.summarize().status == "SUCCEEDED"


def test_ranks_without_data_take_part(stack: Stack) -> None:
    plan = stack.initialize(world_size=5)
    stack.run_ranks(plan)
    summary = stack.summarize(world_size=5)
    assert (summary.status, summary.ranks_received, summary.num_samples) == ("SUCCEEDED", 5, 18)
    empty = stack.read("4.json")
    assert empty["data_path"] is None
    assert all(
        math.isfinite(value) and value >= 0 for value in empty.values() if isinstance(value, float)
    )
    assert predictions(4)["redshift"].shape == (0,)


def test_nan_pixels_and_magnitudes_are_counted_and_never_predicted(stack: Stack) -> None:
    galaxies = make_galaxies(6)
    galaxies.image[1, 2, 3, 4] = np.nan
    galaxies.image[1, 0, 0, :2] = np.inf
    galaxies.magnitude[4, 3] = np.nan
    galaxies.redshift[5] = np.nan
    stack.put_partitions(["1.pt"], image=galaxies.image, magnitude=galaxies.magnitude,
                         redshift=galaxies.redshift)  # fmt: skip
    stack.run_ranks(stack.initialize(batch_size=4))
    record = parse(RankRecord, stack.read("0.json"))
    assert (record.num_nonfinite_pixels, record.num_nonfinite_magnitudes) == (3, 1)
    assert record.num_unpredicted == 2
    assert np.isnan(predictions(0)["redshift"]).tolist() == [False, True, False, False, True, False]
    summary = stack.summarize(batch_size=4)
    assert summary.status == "SUCCEEDED"
    assert summary.num_unpredicted == 2
    assert summary.quality is not None
    assert summary.quality.num_galaxies == 18 - 3
    assert any("2 galaxies have no prediction" in warning for warning in summary.warnings)


def test_a_missing_rank_fails_the_execution_and_is_named(stack: Stack) -> None:
    plan = stack.initialize()
    stack.run_ranks(plan, [0])
    stack.fail_rank(plan, 1, "CorruptPartition", "s3://cosmicai-data/100MB/2.pt is cut off")
    with pytest.raises(IncompleteResults, match=r"2 of 3 ranks .*rank 1 .CorruptPartition: .*cut"):
        stack.summarize()
    summary = parse(Summary, stack.read("summary.json"))
    assert summary.status == "FAILED"
    assert summary.ranks_received == 1
    first, second = summary.failed_ranks
    assert (first.rank, first.data_path, first.error) == (1, "100MB/2.pt", "CorruptPartition")
    assert first.data_etag == storage.store(BUCKET).head("100MB/2.pt").etag
    assert (second.rank, second.error) == (2, "NotReceived")
    assert "combined_data.json" not in stack.files()
    # The state machine then takes its failure path; the names stay.
    stack.summarize(failure={"Error": "IncompleteResults", "Cause": '{"errorMessage": "2 of 3"}'})
    summary = parse(Summary, stack.read("summary.json"))
    assert summary.failure is not None
    assert (summary.failure.Error, summary.failure.Cause) == ("IncompleteResults", "2 of 3")
    assert [rank.rank for rank in summary.failed_ranks] == [1, 2]


def test_a_map_that_gave_up_is_recorded_as_the_ranks_that_failed(stack: Stack) -> None:
    """On AWS the Map itself fails beyond what is tolerated, before Summarize."""
    plan = stack.initialize()
    stack.run_ranks(plan, [0, 2])
    stack.fail_rank(plan, 1, "CorruptPartition", "is cut off")
    failure = {"Error": "States.ExceedToleratedFailureThreshold", "Cause": "exceeded"}
    summary = stack.summarize(failure=failure)
    assert summary.failure is not None
    assert summary.failure.Error == "IncompleteResults"
    assert "rank 1 (CorruptPartition: is cut off)" in summary.failure.Cause
    summary = stack.summarize(failure={"Error": "States.Timeout", "Cause": ""})
    assert summary.failure is not None
    assert summary.failure.Error == "Timeout", "States. is reserved: no Fail state may pass it on"


def test_a_tolerated_failure_is_plainly_partial(stack: Stack) -> None:
    change = {"tolerated_failure_percentage": 40}
    stack.run_ranks(stack.initialize(**change), [0, 2])
    summary = stack.summarize(**change)
    assert summary.status == "PARTIAL"
    assert [rank.rank for rank in summary.failed_ranks] == [1]
    assert [entry["rank"] for entry in stack.read("combined_data.json")] == [0, 2]


def test_tolerating_everything_still_needs_one_rank(stack: Stack) -> None:
    change = {"tolerated_failure_percentage": 100}
    stack.initialize(**change)
    with pytest.raises(IncompleteResults, match="3 of 3 ranks"):
        stack.summarize(**change)


@pytest.mark.parametrize("damage", ["cut", "foreign", "swapped", "predictions"])
def test_a_record_that_cannot_be_trusted_is_not_received(stack: Stack, damage: str) -> None:
    stack.run_ranks(stack.initialize())
    record = stack.read("1.json")
    if damage == "cut":
        storage.store(BUCKET).write(keys.rank(PATH, 1), json.dumps(record)[:100].encode())
    elif damage == "foreign":
        storage.store(BUCKET).write_json(keys.rank(PATH, 1), {**record, "execution": "arn:another"})
    elif damage == "swapped":
        storage.store(BUCKET).write_json(keys.rank(PATH, 1), stack.read("2.json"))
    else:
        storage.store(BUCKET).write(keys.predictions(PATH, 1), b"another execution's")
    with pytest.raises(IncompleteResults, match=r"1 of 3 ranks .*rank 1 .DamagedRecord"):
        stack.summarize()


def test_ranks_of_an_overwritten_execution_stop_before_they_write(stack: Stack) -> None:
    old = stack.initialize("old")
    items = stack.manifest(old)
    new = stack.initialize("new", overwrite=True)
    before = stack.files()
    handler = load_handler("model_inference").handler
    with pytest.raises(ResultPathInUse, match="inference:new"):
        handler(items[0], Context())
    assert stack.files() == before
    with pytest.raises(ResultPathInUse):
        stack.summarize("old")
    stack.run_ranks(new)
    assert stack.summarize("new").status == "SUCCEEDED"


def test_an_execution_that_was_refused_writes_nothing_into_the_others_path(stack: Stack) -> None:
    stack.run_ranks(stack.initialize("first"))
    stack.summarize("first")
    before = stack.files()
    failure = {"Error": "ResultPathInUse", "Cause": "{}"}
    assert stack.summarize("second", failure=failure).status == "FAILED"
    assert stack.files() == before


def test_bad_input_has_no_path_to_record_in_and_still_returns(stack: Stack) -> None:
    failure = {"Error": "InvalidInput", "Cause": "{}"}
    assert stack.summarize(failure=failure, batch_size=0).status == "FAILED"
    assert stack.files() == {}


def test_a_failure_before_the_plan_is_recorded(stack: Stack) -> None:
    stack.initialize()
    storage.store(BUCKET).delete([keys.plan(PATH)])
    stack.summarize(failure={"Error": "Lambda.Unknown", "Cause": "died"})
    summary = parse(Summary, stack.read("summary.json"))
    assert (summary.status, summary.world_size) == ("FAILED", 0)
    assert summary.failure is not None
    assert summary.failure.Cause == "died"


def test_a_partition_gone_or_cut_since_planning_is_a_named_error(stack: Stack) -> None:
    plan = stack.initialize()
    whole = storage.store(BUCKET).read("100MB/1.pt")
    storage.store(BUCKET).write("100MB/1.pt", whole[: len(whole) // 2])
    storage.store(BUCKET).delete(["100MB/2.pt"])
    with pytest.raises(CorruptPartition, match=r"1\.pt"):
        stack.run_ranks(plan, [0])
    with pytest.raises(PartitionNotFound, match=r"2\.pt"):
        stack.run_ranks(plan, [1])
    assert set(stack.files()) == {"claim.json", "manifest.json", "plan.json"}


def test_the_handlers_run_their_sample_events(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    log = io.StringIO()
    inference.logger.registered_handler.setStream(log)  # type: ignore[attr-defined]
    event = json.loads((ROOT / "events/model_inference.json").read_text())
    output = load_handler("model_inference").handler(event, Context())
    assert output == {"rank": 0, "num_samples": 6, "record": f"{event['RESULT_PATH']}/0.json"}
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    metrics = [line for line in metrics if "_aws" in line]
    assert len(metrics) == 1, "one EMF record per rank"
    assert metrics[0]["rank"] == 0
    (dimensions,) = metrics[0]["_aws"]["CloudWatchMetrics"][0]["Dimensions"]
    assert set(dimensions) <= {"service"}, "as a dimension, every rank would add a billed metric"
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    done = next(line for line in lines if line["message"] == "rank done")
    assert (done["execution"], done["rank"], done["world_size"]) == ("sample", 0, 11)

    event = json.loads((ROOT / "events/summarize-failure.json").read_text())
    output = load_handler("summarize").handler(event, Context())
    assert output["status"] == "FAILED"
    assert output["failure"]["Cause"] == "s3://cosmicai-data/100MB/ holds no partitions"


@pytest.mark.parametrize("optimism", [1, 100])
def test_a_calibrated_model_has_intervals_and_a_summary_that_tells_if_they_fail(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, optimism: float
) -> None:
    rng = np.random.default_rng(0)
    redshift, magnitude = rng.uniform(0.05, 0.4, 2000), rng.normal(18, 1, 2000)
    off = rng.normal(0, 1e-4 / optimism, 2000) * (1 + redshift)
    calibration = fit(redshift, redshift + off, magnitude, LabelledSet(galaxies=2000))
    model = Predictor(MeanEngine(), digest="", interface=Interface(calibration=calibration))
    monkeypatch.setattr(model_cache, "load", lambda item, threads: (model, 0.0))
    stack.put_partitions(["1.pt", "2.pt", "3.pt"], galaxies=80)
    plan = stack.initialize()
    stack.run_ranks(plan)
    summary = stack.summarize()
    assert "z_lo68" in predictions(0)
    quality = summary.quality
    assert quality is not None
    assert quality.num_intervals == quality.num_galaxies == 240
    assert sum(bin_.num_intervals for bin_ in quality.by_redshift) == 240
    told = [text for text in summary.warnings if "intervals hold fewer" in text]
    if optimism > 1:
        assert quality.coverage_95 is not None
        assert quality.coverage_95 < 0.2
        assert quality.under_covered == (68, 95)
        assert len(told) == 2
        assert "all galaxies" in told[0]
        assert "predicted redshift 0.05 to 0.1" in told[0]
    else:
        assert quality.coverage_68 is not None
        assert quality.coverage_68 > 0.75
        assert told == []
