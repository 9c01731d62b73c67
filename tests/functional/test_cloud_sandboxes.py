"""A local cloud of the small stack: sandboxes that behave as Lambda's, and that always end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cosmicai.errors import InvalidInput
from cosmicai_workbench.cloud.local import LocalCloud, stop
from cosmicai_workbench.cloud.records import LogReader
from cosmicai_workbench.cloud.session import local_session
from cosmicai_workbench.cloud.state import LocalCloudError, Status
from cosmicai_workbench.results.invocations import parse_report

TEMPLATE = Path(__file__).parent / "small_stack/template.yaml"
BUCKET = "cosmicai-results"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(
        template=TEMPLATE, root=tmp_path_factory.mktemp("state"), concurrency=2
    ) as local:
        yield local


def client(cloud: LocalCloud, service: str) -> Any:
    return local_session(cloud.status.variables).client(
        service,
        endpoint_url=cloud.status.endpoint,
        config=Config(retries={"total_max_attempts": 1}),
    )


def invoke(cloud: LocalCloud, **event: Any) -> tuple[str | None, Any]:
    """Call the probe; return its function error, if any, and its answer."""
    response = client(cloud, "lambda").invoke(
        FunctionName="cosmicai-ProbeFunction", Payload=json.dumps(event).encode()
    )
    return response.get("FunctionError"), json.load(response["Payload"])


def run_map(cloud: LocalCloud, events: list[dict[str, Any]], seconds: float = 60) -> Any:
    """Run the small state machine over events; return how it ended."""
    key = f"{time.monotonic_ns()}.json"
    client(cloud, "s3").put_object(Bucket=BUCKET, Key=key, Body=json.dumps(events))
    states = client(cloud, "stepfunctions")
    arn = states.start_execution(
        stateMachineArn=cloud.status.outputs["StateMachineArn"],
        name=f"n{time.monotonic_ns()}",
        input=json.dumps({"bucket": BUCKET, "key": key, "concurrency": 2}),
    )["executionArn"]
    deadline = time.monotonic() + seconds
    while (ended := states.describe_execution(executionArn=arn))["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return ended


def processes(folder: Path) -> list[int]:
    """Return the server of a state folder, and every process with its environment's mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command or f"COSMICAI_TEST={folder}".encode() in environment:
            found.append(int(entry.name))
    return found


def wait_until_gone(folder: Path, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while left := processes(folder):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def test_a_cold_call_starts_a_sandbox_and_a_warm_one_uses_it_again(cloud: LocalCloud) -> None:
    _, first = invoke(cloud)
    _, second = invoke(cloud)
    assert second["process"] == first["process"]
    assert second["calls"] == first["calls"] + 1


def test_calls_at_once_run_in_as_many_sandboxes_and_more_wait(cloud: LocalCloud) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: invoke(cloud, mode="sleep", seconds=0.3), range(4)))
    assert len({answer["process"] for _, answer in answers}) == 2


def test_the_function_sees_lambdas_environment_and_nothing_of_ours(
    cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, environment = invoke(cloud, mode="environment")
    assert environment["BUCKET"] == BUCKET
    assert environment["SHARED"] == "yes"
    # The pool's size is the Map's concurrency too, where the template has the parameter.
    assert environment["CONCURRENCY"] == "2"
    assert environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "192"
    assert environment["AWS_ENDPOINT_URL"] == cloud.status.endpoint
    assert "PYTEST_CURRENT_TEST" not in environment


def test_an_error_of_the_handler_is_lambdas_and_the_sandbox_stays(cloud: LocalCloud) -> None:
    _, before = invoke(cloud)
    error, answer = invoke(cloud, mode="raise", error="oops")
    assert error == "Unhandled"
    assert (answer["errorType"], answer["errorMessage"]) == ("KeyError", "'oops'")
    assert invoke(cloud)[1]["process"] == before["process"]


def test_a_time_out_ends_the_sandbox(cloud: LocalCloud) -> None:
    _, before = invoke(cloud)
    error, answer = invoke(cloud, mode="sleep", seconds=30)
    assert error == "Unhandled"
    assert answer["errorType"] == "Sandbox.Timedout"
    assert "Task timed out after 2.00 seconds" in answer["errorMessage"]
    # Lost calls are told of as others are: what the function said, then the report.
    lines = [entry.text for entry in LogReader(cloud.logs).read()]
    report = next(line for line in reversed(lines) if line.startswith("REPORT"))
    assert report.endswith("Status: timeout")
    told = parse_report(report)
    assert told.duration_ms > 2000
    assert told.max_memory_mb > 10
    assert any(told.request_id in line for line in lines if line.startswith("START"))
    assert invoke(cloud)[1]["process"] != before["process"]


@pytest.mark.parametrize("seconds", [0, 1.5])
def test_a_call_above_its_memory_size_fails(cloud: LocalCloud, seconds: float) -> None:
    error, answer = invoke(cloud, mode="allocate", megabytes=300, seconds=seconds)
    assert error == "Unhandled"
    assert answer["errorType"] == "Runtime.OutOfMemory"
    # One that fits leaves its peak in the REPORT line, however short it lasted.
    assert invoke(cloud, mode="allocate", megabytes=60)[0] is None
    report = [entry.text for entry in LogReader(cloud.logs).read() if "REPORT" in entry.text][-1]
    assert 70 < parse_report(report).max_memory_mb < 192


def test_a_runtime_that_dies_is_an_exit_error(cloud: LocalCloud) -> None:
    error, answer = invoke(cloud, mode="die")
    assert error == "Unhandled"
    assert answer["errorType"] == "Runtime.ExitError"
    assert invoke(cloud)[0] is None


def test_a_runtime_that_was_killed_while_idle_is_replaced(cloud: LocalCloud) -> None:
    _, before = invoke(cloud)
    os.kill(before["process"], signal.SIGKILL)
    time.sleep(0.2)
    error, after = invoke(cloud)
    assert error is None, after
    assert after["process"] != before["process"]
    assert after["calls"] == 1


def test_an_unknown_function_is_not_found(cloud: LocalCloud) -> None:
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        client(cloud, "lambda").invoke(FunctionName="nothing", Payload=b"{}")


def test_a_dead_worker_is_retried_by_the_state_machine_with_the_same_result(
    cloud: LocalCloud, tmp_path: Path
) -> None:
    events = [{"rank": rank} for rank in range(6)]
    events[3] |= {"mode": "die once", "mark": str(tmp_path / "died")}
    ended = run_map(cloud, events)
    assert ended["status"] == "SUCCEEDED", ended
    assert (tmp_path / "died").exists()
    assert [answer["rank"] for answer in json.loads(ended["output"])] == list(range(6))


@pytest.mark.slow
def test_two_thousand_items_on_two_workers(cloud: LocalCloud) -> None:
    # More than Python's stack is deep for each worker, were it to take them by recursion.
    ended = run_map(cloud, [{"rank": rank} for rank in range(2000)], seconds=200)
    assert ended["status"] == "SUCCEEDED", ended
    assert len(json.loads(ended["output"])) == 2000


def test_logs_tell_each_rank_apart(cloud: LocalCloud) -> None:
    invoke(cloud, rank=4711)
    shown = [entry.text for entry in LogReader(cloud.logs, rank=4711).read()]
    assert shown[0].startswith("START RequestId")
    assert shown[-1].startswith("REPORT RequestId")
    assert len([text for text in shown if "START" in text]) == 1


def test_only_one_of_two_conditional_writers_wins(cloud: LocalCloud) -> None:
    def claim(number: int) -> bool:
        try:
            client(cloud, "s3").put_object(
                Bucket=BUCKET, Key="claim", Body=str(number), IfNoneMatch="*"
            )
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed"  # noqa: PT017
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 1


def test_logs_that_cannot_be_written_fail_the_call_by_name(tmp_path: Path) -> None:
    with LocalCloud(template=TEMPLATE, root=tmp_path, concurrency=1) as local:
        (local.logs / "probe").mkdir(parents=True)
        (local.logs / "probe/0.log").symlink_to("/dev/full")
        with pytest.raises(ClientError, match="cannot be written: No space left on device"):
            invoke(local)
        assert invoke(local)[0] is None  # another sandbox, with a stream of its own


def test_two_clouds_at_once_know_nothing_of_each_other(cloud: LocalCloud, tmp_path: Path) -> None:
    with LocalCloud(template=TEMPLATE, root=tmp_path, concurrency=1) as other:
        assert other.status.endpoint != cloud.status.endpoint
        client(other, "s3").put_object(Bucket=BUCKET, Key="only-here", Body=b"")
        assert invoke(other)[0] is None
        listed = client(cloud, "s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])
        assert "only-here" not in {item["Key"] for item in listed}


def start_and_call(folder: Path, then: str) -> "subprocess.Popen[bytes]":
    """Start a program of its own, whose cloud has a call under way when it prints a line."""
    program = f"""
import sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_cloud_sandboxes as t
cloud = t.LocalCloud(template=t.TEMPLATE, root=t.Path({str(folder)!r}), concurrency=2,
                     environment={{"COSMICAI_TEST": {str(folder)!r}}})
with cloud:
    t.invoke(cloud)
    threading.Thread(target=t.invoke, args=(cloud,), kwargs=dict(mode="sleep", seconds=1.9),
                     daemon=True).start()
    time.sleep(0.4)
    print("at work", flush=True)
    {then}
"""
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("number", "of_server"),
    [
        pytest.param(signal.SIGINT, False, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, False, id="terminated", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, False, id="killed", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, True, id="server killed"),
        pytest.param(None, False, id="ended", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_behind(
    tmp_path: Path, number: signal.Signals | None, of_server: bool
) -> None:
    program = start_and_call(tmp_path, "pass" if number is None else "time.sleep(60)")
    assert program.stdout is not None
    assert program.stdout.readline() == b"at work\n"
    if number is not None:
        assert len(processes(tmp_path)) >= 4  # the program's server, emulators, runtimes
        status = Status.read(next(tmp_path.iterdir()))
        assert status is not None
        os.kill(status.process_id if of_server else program.pid, number)
    if of_server:
        wait_until_gone_but(tmp_path, program.pid)
        program.kill()
    program.wait(20)
    program.stdout.close()
    wait_until_gone(tmp_path)


def wait_until_gone_but(folder: Path, process_id: int) -> None:
    deadline = time.monotonic() + 15
    while left := [each for each in processes(folder) if each != process_id]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def test_a_cloud_that_stays_up_until_it_is_stopped(tmp_path: Path) -> None:
    LocalCloud(template=TEMPLATE, root=tmp_path, name="mine").start(detached=True)
    try:
        assert Status.read(tmp_path / "mine") is not None
        with pytest.raises(LocalCloudError, match="up already"):
            LocalCloud(template=TEMPLATE, root=tmp_path, name="mine").start()
    finally:
        assert stop(tmp_path / "mine")
    assert Status.read(tmp_path / "mine") is None
    assert not stop(tmp_path / "mine")
    wait_until_gone(tmp_path)


def test_a_fault_of_the_template_is_told_in_one_line(tmp_path: Path) -> None:
    cloud = LocalCloud(template=TEMPLATE, root=tmp_path, parameters={"Nothing": "1"})
    with pytest.raises(InvalidInput, match="no parameter Nothing"):
        cloud.start()
    wait_until_gone(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=20000000-20999999", 20_000_000, 21_000_000),
        ("bytes=20999990-30000000", 20_999_990, 21_000_000),
        ("bytes=20999990-", 20_999_990, 21_000_000),
        ("bytes=-7", 20_999_993, 21_000_000),
    ],
)
def test_ranges_of_an_object_are_its_bytes(cloud, wanted, start, stop):
    content = b"0123456" * 3_000_000
    s3 = client(cloud, "s3")
    s3.put_object(Bucket=BUCKET, Key="large", Body=content)
    answer = s3.get_object(Bucket=BUCKET, Key="large", Range=wanted)
    assert answer["ContentRange"] == f"bytes {start}-{stop - 1}/{len(content)}"
    assert answer["Body"].read() == content[start:stop]


def test_a_range_beyond_the_object_is_refused(cloud):
    s3 = client(cloud, "s3")
    s3.put_object(Bucket=BUCKET, Key="short", Body=b"short")
    with pytest.raises(ClientError, match="InvalidRange"):
        s3.get_object(Bucket=BUCKET, Key="short", Range="bytes=10-20")
