"""What engineers ask of a local cloud: its functions, its logs, one call, edited code."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cosmicai_workbench.cloud.local import LocalCloud
from cosmicai_workbench.cloud.session import local_session
from cosmicai_workbench.cloud.sources import SourceWatch

STACK = Path(__file__).parent / "small_stack"
PROBE = "cosmicai-ProbeFunction"
GROUP = f"/aws/lambda/{PROBE}"
BUCKET = "cosmicai-results"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, LocalCloud]]:
    """A copy of the small stack, whose code may be edited, with a cloud up that reloads."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(STACK, folder / "stack")
    cloud = LocalCloud(
        template=folder / "stack/template.yaml",
        root=folder / ".cosmicai",
        name="local",
        concurrency=1,
        reload=True,
    )
    with cloud:
        yield folder, cloud


@pytest.fixture
def cloud(project: tuple[Path, LocalCloud]) -> LocalCloud:
    return project[1]


def client(cloud: LocalCloud, service: str) -> Any:
    return local_session(cloud.status.variables).client(service, endpoint_url=cloud.status.endpoint)


def call(cloud: LocalCloud, **event: Any) -> Any:
    answer = client(cloud, "lambda").invoke(FunctionName=PROBE, Payload=json.dumps(event))
    return json.load(answer["Payload"])


def cosmicai(folder: Path, *words: str, say: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cosmicai_workbench.cli.main", *words],
        cwd=folder,
        input=say,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_functions_are_listed_and_described(cloud: LocalCloud) -> None:
    service = client(cloud, "lambda")
    (listed,) = service.list_functions()["Functions"]
    assert (listed["FunctionName"], listed["MemorySize"], listed["Timeout"]) == (PROBE, 192, 2)
    for name in (PROBE, listed["FunctionArn"], f"{PROBE}:live"):
        assert service.get_function(FunctionName=name)["Configuration"] == listed
        told = service.get_function_configuration(FunctionName=name)
        assert told["Environment"]["Variables"]["SHARED"] == "yes"
    with pytest.raises(service.exceptions.ResourceNotFoundException):
        service.get_function(FunctionName="nothing")


def test_log_groups_streams_and_events(cloud: LocalCloud) -> None:
    begin = int(time.time() * 1000) - 1
    for rank in (7, 8):
        call(cloud, rank=rank)
    logs = client(cloud, "logs")
    assert [g["logGroupName"] for g in logs.describe_log_groups()["logGroups"]] == [GROUP]
    assert logs.describe_log_groups(logGroupNamePrefix="/other")["logGroups"] == []
    streams = logs.describe_log_streams(logGroupName=GROUP)["logStreams"]
    assert streams

    def texts(**options: Any) -> list[str]:
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=GROUP, startTime=begin, **options
        )
        events = [event for page in pages for event in page["events"]]
        assert len({event["eventId"] for event in events}) == len(events)
        return [event["message"] for event in events]

    everything = texts()
    assert texts(PaginationConfig={"PageSize": 2}) == everything
    assert [t.split()[0] for t in everything if t.startswith(("START", "REPORT"))] == [
        *("START", "REPORT") * 2
    ]
    assert len(texts(filterPattern="{ $.rank = 7 }")) == 1
    assert len(texts(filterPattern='{ $.rank = 8 && $.message = "at work" }')) == 1
    assert texts(filterPattern="{ $.rank = 9 }") == []
    assert len(texts(filterPattern='REPORT "Billed Duration"')) == 2
    assert texts(logStreamNamePrefix="none") == []
    read = logs.get_log_events(logGroupName=GROUP, logStreamName=streams[-1]["logStreamName"])
    assert read["events"]


@pytest.mark.parametrize(
    ("operation", "request_", "code"),
    [
        ("filter_log_events", {"logGroupName": "none"}, "ResourceNotFoundException"),
        (
            "filter_log_events",
            {"logGroupName": GROUP, "filterPattern": "{ $.rank > 1 }"},
            "InvalidParameterException",
        ),
        ("delete_log_group", {"logGroupName": GROUP}, "UnknownOperationException"),
    ],
)
def test_what_the_logs_do_not_know_is_named(
    cloud: LocalCloud, operation: str, request_: dict[str, Any], code: str
) -> None:
    with pytest.raises(ClientError) as refused:
        getattr(client(cloud, "logs"), operation)(**request_)
    assert refused.value.response["Error"]["Code"] == code


def test_executions_without_a_name_get_one_each(cloud: LocalCloud) -> None:
    client(cloud, "s3").put_object(Bucket=BUCKET, Key="items", Body=b'[{"rank": 0}]')
    states = client(cloud, "stepfunctions")
    arns = {
        states.start_execution(
            stateMachineArn=cloud.status.outputs["StateMachineArn"],
            input=json.dumps({"bucket": BUCKET, "key": "items", "concurrency": 1}),
        )["executionArn"]
        for _ in range(3)
    }
    assert len(arns) == 3
    deadline = time.monotonic() + 30
    for arn in arns:
        while (ended := states.describe_execution(executionArn=arn))["status"] == "RUNNING":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert ended["status"] == "SUCCEEDED", ended


def test_edited_code_runs_at_the_next_call(project: tuple[Path, LocalCloud]) -> None:
    folder, cloud = project
    before = call(cloud)
    assert call(cloud)["process"] == before["process"]  # what is not edited stays warm
    source = folder / "stack/probe/app.py"
    source.write_text(source.read_text().replace('"calls": CALLS', '"calls": CALLS, "new": 1'))
    after = call(cloud)
    assert after["new"] == 1
    assert after["process"] != before["process"]
    (folder / "stack/probe/helper.py").write_text("")
    assert call(cloud)["process"] != after["process"]


def test_a_removed_and_an_added_file_are_new_versions(tmp_path: Path) -> None:
    watch = SourceWatch([tmp_path])
    seen = [watch.version()]
    (tmp_path / "a.py").write_text("1")
    seen.append(watch.version())
    (tmp_path / "a.py").write_text("22")
    seen.append(watch.version())
    (tmp_path / "a.py").unlink()
    assert len(set(seen)) == 3
    assert watch.version() == seen[0]
    (tmp_path / "notes.txt").write_text("")
    assert watch.version() == seen[0]


def test_one_function_is_called_alone(project: tuple[Path, LocalCloud]) -> None:
    folder, _ = project
    (folder / "event.json").write_text('{"rank": 5}')
    for name in ("probe", PROBE):
        done = cosmicai(folder, "local", "invoke", name, "-e", "event.json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rank"] == 5
        assert "REPORT RequestId" in done.stderr


def test_a_call_asks_the_cloud_that_is_up_not_the_template(
    project: tuple[Path, LocalCloud],
) -> None:
    folder, _ = project
    template, away = folder / "stack/template.yaml", folder / "stack/away.yaml"
    (folder / "event.json").write_text('{"rank": 5}')
    template.rename(away)
    try:
        done = cosmicai(folder, "local", "invoke", "probe", "-e", "event.json")
    finally:
        away.rename(template)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("debug", [False, True])
def test_a_function_that_raises_shows_where(project: tuple[Path, LocalCloud], debug: bool) -> None:
    folder, _ = project
    (folder / "event.json").write_text('{"mode": "raise", "error": "oops"}')
    words = ["local", "invoke", "probe", "-e", "event.json", *(["--debug"] if debug else [])]
    done = cosmicai(folder, *words)
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    assert 'raise KeyError(event["error"])' in done.stderr


def test_a_breakpoint_stops_a_function_in_this_process(project: tuple[Path, LocalCloud]) -> None:
    folder, _ = project
    source = folder / "stack/probe/app.py"
    whole = source.read_text()
    source.write_text(whole.replace("    CALLS += 1\n", "    CALLS += 1\n    breakpoint()\n"))
    (folder / "event.json").write_text('{"rank": 6}')
    try:
        done = cosmicai(
            folder,
            *("local", "invoke", "probe", "-e", "event.json", "--debug"),
            say="p event['rank'] * 7, context.function_name\nc\n",
        )
    finally:
        source.write_text(whole)
    assert done.returncode == 0, done.stderr
    assert "(42, 'cosmicai-ProbeFunction')" in done.stdout


def test_without_a_cloud_one_is_started_for_the_call(tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text('{"mode": "environment"}')
    words = ["probe", "-e", "event.json", "--template", str(STACK / "template.yaml")]
    for more in ([], ["--debug"]):
        done = cosmicai(tmp_path, "local", "invoke", *words, *more)
        assert done.returncode == 0, done.stderr
        environment = json.loads(done.stdout[done.stdout.index("{\n") :])
        assert environment["BUCKET"] == BUCKET
        assert environment["AWS_LAMBDA_FUNCTION_NAME"] == PROBE


def test_a_named_cloud_that_is_not_up_is_not_replaced_by_one_for_the_call(tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text("{}")
    words = ["--name", "none", "--template", str(STACK / "template.yaml")]
    done = cosmicai(tmp_path, "local", "invoke", "probe", "-e", "event.json", *words)
    assert done.returncode == 2
    assert "`cosmicai local up --name none`" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing", "-e", "event.json"], "it has probe"),
        (["probe", "-e", "none.json"], "cannot be read"),
        (["probe", "-e", "broken.json"], "is not JSON"),
    ],
)
def test_what_cannot_be_called_is_named(
    project: tuple[Path, LocalCloud], words: list[str], says: str
) -> None:
    folder, _ = project
    (folder / "event.json").write_text("{}")
    (folder / "broken.json").write_text("{")
    done = cosmicai(folder, "local", "invoke", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
