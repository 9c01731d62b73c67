"""Limits of AWS that the local cloud keeps, so that failures show here as they would there."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cosmicai_workbench.cloud.local import LocalCloud
from cosmicai_workbench.cloud.records import LogReader
from cosmicai_workbench.cloud.session import local_session
from cosmicai_workbench.cloud.state import Limits

STACK = Path(__file__).parent / "small_stack"
BUCKET = "cosmicai-results"
FAILS = {"mode": "raise", "error": "oops"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with limited_cloud(tmp_path_factory.mktemp("limits"), Limits(account_concurrency=2)) as local:
        yield local


@contextmanager
def limited_cloud(folder: Path, limits: Limits) -> Iterator[LocalCloud]:
    """A cloud with narrow limits, whose Map tolerates the share of failures that its input says."""
    shutil.copytree(STACK, folder / "stack")
    definition = folder / "stack/machine.asl.json"
    text = definition.read_text().replace(
        '"ToleratedFailurePercentage": 0', '"ToleratedFailurePercentagePath": "$.tolerated"'
    )
    definition.write_text(text)
    with LocalCloud(
        template=folder / "stack/template.yaml",
        root=folder / "state",
        concurrency=2,
        limits=limits,
    ) as local:
        yield local


def client(cloud: LocalCloud, service: str) -> Any:
    return local_session(cloud.status.variables).client(
        service,
        endpoint_url=cloud.status.endpoint,
        config=Config(retries={"total_max_attempts": 1}),
    )


def run_map(
    cloud: LocalCloud, events: list[dict[str, Any]], tolerated: float = 0, concurrency: int = 1
) -> tuple[Any, Any]:
    """Run the state machine over events; return how it ended, and its Map Run."""
    key = f"{time.monotonic_ns()}.json"
    client(cloud, "s3").put_object(Bucket=BUCKET, Key=key, Body=json.dumps(events))
    states = client(cloud, "stepfunctions")
    event = {"bucket": BUCKET, "key": key, "concurrency": concurrency, "tolerated": tolerated}
    arn = states.start_execution(
        stateMachineArn=cloud.status.outputs["StateMachineArn"], input=json.dumps(event)
    )["executionArn"]
    deadline = time.monotonic() + 60
    while (ended := states.describe_execution(executionArn=arn))["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (run,) = states.list_map_runs(executionArn=arn)["mapRuns"]
    return ended, states.describe_map_run(mapRunArn=run["mapRunArn"])


def calls(cloud: LocalCloud) -> int:
    return sum(entry.text.startswith("START") for entry in LogReader(cloud.logs).read())


@pytest.mark.parametrize(
    ("failures", "tolerated", "status"),
    [(0, 0, "SUCCEEDED"), (1, 0, "FAILED"), (1, 25, "SUCCEEDED"), (2, 25, "FAILED")],
)
def test_a_map_ends_when_more_failed_than_it_tolerates(
    cloud: LocalCloud, failures: int, tolerated: int, status: str
) -> None:
    before = calls(cloud)
    events = [FAILS] * failures + [{"rank": rank} for rank in range(4 - failures)]
    ended, map_run = run_map(cloud, events, tolerated)
    assert ended["status"] == map_run["status"] == status, (ended.get("error"), ended.get("cause"))
    if status == "FAILED":
        assert ended["error"] == "States.ExceedToleratedFailureThreshold"
        assert calls(cloud) - before < len(events)  # it stopped early
    else:
        assert map_run["itemCounts"]["failed"] == failures
        assert len(json.loads(ended["output"])) == 4


def test_an_express_child_ends_at_its_limit(tmp_path: Path) -> None:
    slow = {"mode": "sleep", "seconds": 1.6}
    with limited_cloud(tmp_path, Limits(express_seconds=1, account_concurrency=2)) as cloud:
        ended, map_run = run_map(cloud, [slow, {"rank": 1}], tolerated=50)
        assert ended["status"] == "SUCCEEDED", ended
        assert map_run["itemCounts"]["timedOut"] == 1
        assert map_run["itemCounts"]["succeeded"] == 1
        assert json.loads(ended["output"])[0] is None
        ended, _ = run_map(cloud, [slow])
        assert ended["error"] == "States.ExceedToleratedFailureThreshold"


def test_calls_above_the_accounts_concurrency_are_throttled(cloud: LocalCloud) -> None:
    clients = [client(cloud, "lambda") for _ in range(4)]  # which takes long on a busy machine
    together = Barrier(4)
    time.sleep(2.5)  # a call that an earlier test gave up ends at the function's time-out

    def call(number: int) -> str:
        event = json.dumps({"mode": "sleep", "seconds": 1.2})
        if number:  # 1 to 4 at once, 0 alone
            together.wait(60)
        try:
            clients[number - 1].invoke(FunctionName="cosmicai-ProbeFunction", Payload=event)
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 429  # noqa: PT017
            return str(error.response["Error"]["Code"])
        return "called"

    with ThreadPoolExecutor(4) as pool:
        answers = sorted(pool.map(call, range(1, 5)))
    assert answers == ["TooManyRequestsException"] * 2 + ["called"] * 2
    assert call(0) == "called"


def test_a_state_machine_sees_that_it_is_throttled(cloud: LocalCloud) -> None:
    events = [{"mode": "sleep", "seconds": 0.4}] * 4
    ended, map_run = run_map(cloud, events, tolerated=75, concurrency=4)
    assert ended["status"] == "SUCCEEDED", ended
    assert map_run["itemCounts"]["failed"] >= 1  # this definition retries no throttling
