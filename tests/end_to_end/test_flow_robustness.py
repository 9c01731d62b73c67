"""The deployed template and definition on the local cloud, and whatever users do to them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cosmicai import keys
from cosmicai.model.architectures import bundle_files
from cosmicai_workbench.cloud.local import LocalCloud
from cosmicai_workbench.cloud.session import local_session
from cosmicai_workbench.cloud.state import Limits
from cosmicai_workbench.data.partition_writer import write_partition
from model_fill import SMALL, filled_bundle
from s3_stack import BUCKET, ROOT, make_galaxies

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

SEED = json.loads((ROOT / "events/seed-100MB-1GB.json").read_text())
PARTITIONS = 4


@dataclass
class Outcome:
    status: str
    error: str
    cause: str
    output: dict[str, Any]


@dataclass
class Cloud:
    s3: Any
    states: Any
    machine: str
    server: int

    def start(self, **change: Any) -> str:
        execution = {key: value for key, value in {**SEED, **change}.items() if value is not None}
        arn: str = self.states.start_execution(
            stateMachineArn=self.machine,
            name=f"test-{time.monotonic_ns()}",
            input=json.dumps(execution),
        )["executionArn"]
        return arn

    def wait(self, arn: str) -> Outcome:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = self.states.describe_execution(executionArn=arn)
            if found["status"] != "RUNNING":
                return Outcome(
                    found["status"],
                    found.get("error", ""),
                    found.get("cause", ""),
                    json.loads(found.get("output") or "{}"),
                )
            time.sleep(0.1)
        raise TimeoutError(arn)

    def run(self, **change: Any) -> Outcome:
        return self.wait(self.start(**change))

    def files(self, path: str) -> dict[str, str]:
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=keys.folder(path))
        return {
            item["Key"].removeprefix(keys.folder(path)): item["ETag"]
            for item in found.get("Contents", [])
        }

    def summary(self, path: str) -> dict[str, Any]:
        body = self.s3.get_object(Bucket=BUCKET, Key=keys.summary(path))["Body"]
        document: dict[str, Any] = json.loads(body.read())
        return document

    def workers(self) -> list[int]:
        """Process ids of the Python runtimes that serve Model Inference."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            if (
                b"awslambdaric" in command
                and not command[0].endswith(b"rie")
                and b"functions/model_inference" in environment
                and f":{self.port}".encode() in environment
            ):
                found.append(int(process.name))
        return found

    @property
    def port(self) -> int:
        return int(self.s3.meta.endpoint_url.rsplit(":", 1)[-1])


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("robustness")
    parameters = {"BucketName": BUCKET, "Engine": "torch"}
    with LocalCloud(
        root=folder / "state",
        buckets=[BUCKET],
        parameters=parameters,
        concurrency=2,
        limits=Limits(roles=True),  # the steps may do no more than on AWS
    ) as local:
        status = local.status
        session = local_session(status.variables)
        options: dict[str, Any] = {"endpoint_url": status.endpoint}
        cloud = Cloud(
            session.client("s3", **options),
            session.client("stepfunctions", **options),
            status.outputs["StateMachineArn"],
            status.process_id,
        )
        model = filled_bundle(SMALL, folder / "model").path
        for file in bundle_files(model):
            cloud.s3.upload_file(str(file), BUCKET, f"Anomaly Detection/{file.name}")
        for number in range(1, PARTITIONS + 1):
            path = folder / f"{number}.pt"
            write_partition(path, make_galaxies(400, seed=number), {})
            cloud.s3.upload_file(str(path), BUCKET, f"100MB/{number}.pt")
        cloud.s3.put_object(Bucket=BUCKET, Key="damaged/2.pt", Body=path.read_bytes()[:100_000])
        cloud.s3.upload_file(str(path), BUCKET, "damaged/1.pt")
        cloud.s3.upload_file(str(path), BUCKET, "damaged/3.pt")
        yield cloud


@pytest.fixture(scope="module")
def reference(cloud: Cloud) -> dict[str, str]:
    """The published system's payload, verbatim: the files of an undisturbed run."""
    outcome = cloud.run()
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert outcome.output["ranks_received"] == PARTITIONS
    assert any("file_limit 11 is above" in warning for warning in outcome.output["warnings"])
    return cloud.files(SEED["result_path"])


def predictions(files: dict[str, str]) -> dict[str, str]:
    return {name: etag for name, etag in files.items() if name.startswith("predictions/")}


def test_running_twice_into_one_path_is_refused_and_changes_nothing(
    cloud: Cloud, reference: dict[str, str]
) -> None:
    outcome = cloud.run()
    assert (outcome.status, outcome.error) == ("FAILED", "ResultPathInUse")
    assert "choose another result_path" in outcome.cause
    assert cloud.files(SEED["result_path"]) == reference


def test_two_at_once_into_one_path_one_runs_and_one_is_refused(
    cloud: Cloud, reference: dict[str, str]
) -> None:
    arns = [cloud.start(result_path="race/1") for _ in range(2)]
    outcomes = [cloud.wait(arn) for arn in arns]
    assert sorted(outcome.status for outcome in outcomes) == ["FAILED", "SUCCEEDED"]
    winner = next(arn for arn, out in zip(arns, outcomes, strict=True) if out.status != "FAILED")
    assert cloud.summary("race/1")["execution"]["id"] == winner
    assert predictions(cloud.files("race/1")) == predictions(reference)


def test_overwriting_leaves_the_new_results_alone(cloud: Cloud, reference: dict[str, str]) -> None:
    assert cloud.run(result_path="again/1").status == "SUCCEEDED"
    outcome = cloud.run(result_path="again/1", overwrite=True, file_limit=2)
    assert outcome.status == "SUCCEEDED"
    assert {name for name in cloud.files("again/1") if name[0].isdigit()} == {"0.json", "1.json"}


def test_a_damaged_partition_fails_the_execution_and_names_its_rank(cloud: Cloud) -> None:
    outcome = cloud.run(data_prefix="damaged", result_path="damaged-results/1")
    assert (outcome.status, outcome.error) == ("FAILED", "IncompleteResults")
    assert "rank 1 (CorruptPartition: s3://cosmicai-data/damaged/2.pt" in outcome.cause
    summary = cloud.summary("damaged-results/1")
    assert summary["status"] == "FAILED"
    failed = {rank["data_path"]: rank["cause"] for rank in summary["failed_ranks"]}
    assert "zip archive is missing" in failed.pop("damaged/2.pt")
    # None is tolerated, so that the Map stopped: what had not run by then is told apart.
    assert all("never ran, or was lost" in cause for cause in failed.values())
    assert "combined_data.json" not in cloud.files("damaged-results/1")


def test_a_tolerated_failure_is_a_partial_result_that_says_so(cloud: Cloud) -> None:
    outcome = cloud.run(
        data_prefix="damaged", result_path="partial/1", tolerated_failure_percentage=50
    )
    assert (outcome.status, outcome.output["status"]) == ("SUCCEEDED", "PARTIAL")
    assert outcome.output["num_failed_ranks"] == 1
    (failed,) = cloud.summary("partial/1")["failed_ranks"]
    assert failed["data_path"] == "damaged/2.pt"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": None}, "InvalidInput", "key 'batch_size' is missing"),
        ({"batchsize": 5}, "InvalidInput", "unknown key 'batchsize'"),
        ({"batch_size": 0}, "InvalidInput", "key 'batch_size'"),
        ({"world_size": "many"}, "InvalidInput", "key 'world_size'"),
        ({"script": "/tmp/evil.py"}, "InvalidInput", "'evil.py' is not a built-in entry"),
        ({"data_prefix": "empty"}, "PartitionNotFound", "s3://cosmicai-data/empty/ holds no"),
        ({"data_bucket": "no-such-bucket"}, "PartitionNotFound", "'no-such-bucket' does not exist"),
        ({"S3_object_name": "nothing"}, "ModelNotFound", "nothing/config.json does not exist"),
    ],
)
def test_bad_input_fails_at_once_with_its_reason_and_starts_no_rank(
    cloud: Cloud, change: dict[str, Any], error: str, message: str
) -> None:
    outcome = cloud.run(result_path="bad/1", **change)
    assert (outcome.status, outcome.error) == ("FAILED", error)
    assert message in outcome.cause
    assert cloud.files("bad/1") == {}


def test_with_fmi_the_ranks_agree_and_summarize_says_so(cloud: Cloud) -> None:
    outcome = cloud.run(script="inference_FMI.py", file_limit=2, result_path="fmi-results/1")
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert outcome.output["fmi"]["world_size"] == 2
    assert "fmi.json" in cloud.files("fmi-results/1")


def test_a_rank_that_fails_releases_its_peers_from_the_barrier_at_once(cloud: Cloud) -> None:
    started = time.monotonic()
    outcome = cloud.run(
        script="inference_FMI.py",
        data_prefix="damaged",
        file_limit=2,
        result_path="fmi-results/2",
        tolerated_failure_percentage=50,  # or the first failure would end the Map, and the peer
    )
    assert time.monotonic() - started < 30, "the peer waited for its deadline"
    assert (outcome.status, outcome.error) == ("FAILED", "IncompleteResults")
    assert "rank 1 (CorruptPartition" in outcome.cause
    failed = {rank["rank"]: rank for rank in cloud.summary("fmi-results/2")["failed_ranks"]}
    assert set(failed) == {0, 1}
    assert "CorruptPartition" in failed[0]["cause"], "the peer names what stopped it"


def test_more_fmi_ranks_than_run_at_once_are_refused(cloud: Cloud) -> None:
    outcome = cloud.run(script="inference_FMI.py", result_path="fmi-results/3")
    assert (outcome.status, outcome.error) == ("FAILED", "InvalidInput")
    assert "a barrier among 4 ranks" in outcome.cause


def test_a_worker_killed_in_the_middle_is_retried_to_the_same_result(cloud: Cloud) -> None:
    assert cloud.run(result_path="undisturbed/1", batch_size=1).status == "SUCCEEDED"
    assert cloud.workers(), "no worker found to kill"
    arn = cloud.start(result_path="killed/1", batch_size=1)
    killed = threading.Event()

    def kill() -> None:
        while "plan.json" not in cloud.files("killed/1"):
            time.sleep(0.02)
        time.sleep(0.3)  # ranks are at work
        for worker in cloud.workers():
            os.kill(worker, signal.SIGKILL)
            killed.set()

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = cloud.wait(arn)
    killer.join()
    assert killed.is_set()
    assert outcome.status == "SUCCEEDED", outcome.cause
    assert outcome.output["ranks_received"] == PARTITIONS
    assert outcome.output["cold_starts"] >= 1, "nothing was killed while it worked"
    assert predictions(cloud.files("killed/1")) == predictions(cloud.files("undisturbed/1"))
