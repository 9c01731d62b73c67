"""The transformed template deployed into moto, and the command line against it, as against AWS."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import boto3
import deployed_stack
import moto
import pytest
from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.cli.run import report
from cosmicai_workbench.client.cloudwatch import lines
from cosmicai_workbench.client.connection import connect
from cosmicai_workbench.client.execution import Ended
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.performing import collect
from cosmicai_workbench.place import on_aws
from deployed_stack import ROOT, STACK
from s3_stack import make_galaxies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENT = ROOT / "events/seed-100MB-1GB.json"
INPUT: dict[str, Any] = json.loads(EVENT.read_text())


@pytest.fixture(scope="module")
def stack() -> Iterator[dict[str, str]]:
    """The application's stack; its outputs."""
    with pytest.MonkeyPatch.context() as monkeypatch, moto.mock_aws():
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(key, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", deployed_stack.REGION)
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        deployed_stack.deploy(Monitoring="on")
        found = boto3.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
        assert found["StackStatus"] == "CREATE_COMPLETE"
        yield {each["OutputKey"]: each["OutputValue"] for each in found["Outputs"]}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return deployed_stack.answer_for_moto(monkeypatch)


def seed(stack: dict[str, str]) -> list[str]:
    """Return the options of the sample event where the stack's roles allow it."""
    words = ["-i", str(EVENT)]
    for key, value in allowed(stack).items():
        words += ["--set", f"{key}={value}"]
    return words


MODEL = {
    "model.safetensors": b"x",
    "config.json": (ROOT / "models/astromae-small/config.json").read_bytes(),
}


def allowed(stack: dict[str, str]) -> dict[str, str]:
    """Return the stack's own buckets, and a path under its ResultPrefix."""
    return {
        "bucket": stack["BucketName"],
        "data_bucket": stack["DataBucketName"],
        "result_path": f"{stack['ResultPrefix']}1",
    }


def put_data(stack: dict[str, str], sizes: dict[str, int]) -> None:
    """Put a model, and partitions in place of those that are there."""
    s3, bucket = boto3.client("s3"), stack["BucketName"]
    for each in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
        s3.delete_object(Bucket=bucket, Key=each["Key"])
    for file, body in MODEL.items():
        s3.put_object(Bucket=bucket, Key=f"{INPUT['S3_object_name']}/{file}", Body=body)
    for name, size in sizes.items():
        s3.put_object(Bucket=bucket, Key=f"{INPUT['data_prefix']}/{name}", Body=b"x" * size)


def test_cloudformation_creates_every_resource(stack: dict[str, str]) -> None:
    wanted = deployed_stack.for_moto(deployed_stack.transformed())["Resources"]
    summaries = boto3.client("cloudformation").list_stack_resources(StackName=STACK)
    created = {each["LogicalResourceId"] for each in summaries["StackResourceSummaries"]}
    assert created == set(wanted)
    machine = boto3.client("stepfunctions").describe_state_machine(
        stateMachineArn=stack["StateMachineArn"]
    )
    definition = json.loads(machine["definition"])
    assert definition["StartAt"] == "Initialize"
    (dashboard,) = boto3.client("cloudwatch").list_dashboards()["DashboardEntries"]
    body = boto3.client("cloudwatch").get_dashboard(DashboardName=dashboard["DashboardName"])
    assert len(json.loads(body["DashboardBody"])["widgets"]) == 9
    (topic,) = boto3.client("sns").list_topics()["Topics"]
    assert "AlarmTopic" in topic["TopicArn"]


def test_deploy_check_passes_and_estimates(
    stack: dict[str, str], calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put_data(stack, {f"{n}.pt": 200_000 for n in range(1, 12)})
    code = main(["deploy-check", "--stack", STACK, *seed(stack), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert "GetAccountSettings" in calls
    assert (found["partitions"], found["ranks"], found["passed"]) == (11, 11, True)
    assert 0 < found["estimated_cost"]["total"] < 0.1


def test_deploy_check_names_what_the_roles_refuse(
    stack: dict[str, str], calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put_data(stack, {"1.pt": 200_000})
    change = ["--set", "bucket=somebody-elses", "--set", "result_path=elsewhere/1"]
    folders = ["--model", str(ROOT / "models/astromae-small")]
    assert main(["deploy-check", *seed(stack), *change, *folders]) == 1
    output = capsys.readouterr().out
    assert "ERROR  permission: key 'bucket'" in output
    assert "functions may write under results/ only, found 'elsewhere/1'" in output
    assert f"{stack['BucketName']} only, found 'somebody-elses'" in output


def test_run_stops_where_the_check_finds_an_error(
    stack: dict[str, str], calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put_data(stack, {"1.pt": 200_000})
    before = len(
        boto3.client("stepfunctions").list_executions(stateMachineArn=stack["StateMachineArn"])[
            "executions"
        ]
    )
    change = ["--set", "S3_object_name=nowhere", "--no-watch", "--yes"]
    assert main(["run", "--stack", STACK, *seed(stack), *change]) == 2
    assert "model: not in s3://" in capsys.readouterr().err
    after = len(
        boto3.client("stepfunctions").list_executions(stateMachineArn=stack["StateMachineArn"])[
            "executions"
        ]
    )
    assert after == before


def test_run_is_bounded_by_the_accounts_free_concurrency(
    stack: dict[str, str],
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = {"ConcurrentExecutions": 10, "UnreservedConcurrentExecutions": 5}
    monkeypatch.setitem(deployed_stack.ANSWERS, "GetAccountSettings", {"AccountLimit": small})
    put_data(stack, {f"{n}.pt": 200_000 for n in range(1, 12)})
    assert main(["run", "--stack", STACK, *seed(stack), "--no-watch"]) == 0
    printed = capsys.readouterr()
    assert "bounded to 5 ranks at once" in printed.err
    assert "'Concurrent executions' (L-B99A9384) is 10" in printed.err
    found = boto3.client("stepfunctions").describe_execution(executionArn=printed.out.strip())
    assert json.loads(found["input"])["max_concurrency"] == 5


def test_what_may_not_be_asked_is_a_warning_and_the_run_is_still_checked(
    stack: dict[str, str],
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = ("GetAccountSettings", "GetFunctionConcurrency", "GetFunctionConfiguration")
    for operation in refused:
        monkeypatch.setitem(deployed_stack.ANSWERS, operation, deployed_stack.DENIED)
    put_data(stack, {"1.pt": 200_000})
    assert main(["deploy-check", *seed(stack)]) == 0
    output = capsys.readouterr().out
    for operation in refused:
        assert f"not checked: your credentials lack lambda:{operation}" in output


def test_deploy_check_reads_the_version_that_runs(
    stack: dict[str, str],
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As after a deployment whose alias stayed at an earlier version, with a snapshot."""
    version = {"Version": "1", "MemorySize": 5000, "Timeout": 140, "Architectures": ["arm64"]}
    version["SnapStart"] = {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
    monkeypatch.setitem(deployed_stack.ANSWERS, "GetFunctionConfiguration", version)
    put_data(stack, {"1.pt": 200_000})
    assert main(["deploy-check", *seed(stack)]) == 0
    output = capsys.readouterr().out
    assert "version 1 runs, with InferenceMemorySize 5000" in output
    assert "1 snapshot cached: $19.31 a month while nothing runs" in output  # 4.88 GB, 730 hours


def test_deploy_check_fails_above_a_cost(
    stack: dict[str, str], calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put_data(stack, {"1.pt": 200_000})
    assert main(["deploy-check", *seed(stack), "--max-cost", "0.000001"]) == 1
    assert "above --max-cost" in capsys.readouterr().err


def test_deploy_check_names_the_engine_that_a_model_needs(
    stack: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    put_data(stack, {"1.pt": 200_000})
    config = {
        "architecture": "ONNX",
        "inputs": {"image": {"bands": ["r"], "side": 64}},
        "output": {"kind": "point"},
    }
    for name, text in {"config.json": json.dumps(config), "model.xml": "", "model.bin": ""}.items():
        (tmp_path / name).write_text(text)
    assert main(["deploy-check", *seed(stack), "--model", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "ERROR  engine: models of ONNX need the engine openvino, and there is native" in output
    assert "parameter Engine=openvino" in output
    # One band of 64 × 64 pixels and a redshift, in float32.
    assert f"about {200_000 // (4 * (64 * 64 + 1))} galaxies" in output
    assert "the times are those of AstroMAE, and the model is another (ONNX)" in output


def test_deploy_check_names_a_missing_model_and_a_barrier_too_wide(
    stack: dict[str, str], calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put_data(stack, {"1.pt": 200_000})
    boto3.client("s3").delete_object(
        Bucket=stack["BucketName"], Key=f"{INPUT['S3_object_name']}/config.json"
    )
    change = ["--set", "script=inference_FMI.py", "--set", "world_size=2000"]
    assert main(["deploy-check", *seed(stack), *change]) == 1
    output = capsys.readouterr().out
    assert "ERROR  model:" in output
    assert "a barrier needs all 2000 ranks at once" in output


def test_an_unknown_stack_is_one_clear_line(
    stack: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy-check", "--stack", "nowhere", *seed(stack)]) == 2
    assert "nowhere" in capsys.readouterr().err


def start(stack: dict[str, str], name: str) -> str:
    return boto3.client("stepfunctions").start_execution(
        stateMachineArn=stack["StateMachineArn"],
        name=name,
        input=json.dumps(INPUT | allowed(stack)),
    )["executionArn"]


def test_resume_starts_a_new_execution_over_a_stopped_one(
    stack: dict[str, str], calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put_data(stack, {"1.pt": 200_000})
    arn = start(stack, "stopped")
    boto3.client("stepfunctions").stop_execution(executionArn=arn)
    change = ["--set", "tolerated_failure_percentage=5", "--name", "resumed"]
    assert main(["resume", "stopped", "--stack", STACK, "--no-watch", *change]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip().endswith(":resumed")
    assert "estimated cost $" in printed.err
    found = boto3.client("stepfunctions").describe_execution(executionArn=printed.out.strip())
    assert json.loads(found["input"]) == {
        **INPUT,
        **allowed(stack),
        "overwrite": False,
        "resume": arn,
        "tolerated_failure_percentage": 5,
    }


def test_resume_refuses_an_execution_that_still_runs_and_an_unknown_one(
    stack: dict[str, str], calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    start(stack, "going")
    assert main(["resume", "going", "--stack", STACK]) == 2
    assert "still running" in capsys.readouterr().err
    assert main(["resume", "nobody", "--stack", STACK]) == 2
    assert "nobody" in capsys.readouterr().err


def test_run_needs_no_bucket_name_and_no_input_file(
    stack: dict[str, str],
    calls: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only the folders are named; the stack's outputs say where everything goes."""
    partitions, model = tmp_path / "partitions", tmp_path / "my model"
    partitions.mkdir()
    for number in range(3):
        galaxies = make_galaxies(9, seed=number)
        write_partition(partitions / f"{number}.pt", galaxies, {"from": "test"})
    shutil.copytree(ROOT / "models/astromae-small", model)
    folders = ["--data", str(partitions), "--model", str(model)]
    assert main(["run", "--stack", STACK, *folders, "--no-watch", "--name", "mine"]) == 0
    arn = capsys.readouterr().out.strip()
    found = boto3.client("stepfunctions").describe_execution(executionArn=arn)
    content = json.loads(found["input"])
    assert content["bucket"] == stack["BucketName"]
    assert content["data_bucket"] == stack["DataBucketName"]
    assert content["file_limit"] == 3
    assert content["result_path"].endswith("/mine")
    listing = boto3.client("s3").list_objects_v2(Bucket=stack["BucketName"])["Contents"]
    keys = {each["Key"] for each in listing}
    assert {f"{content['data_prefix']}/{number}.pt" for number in range(3)} <= keys
    assert f"{content['S3_object_name']}/model.safetensors" in keys


def test_run_says_what_is_missing_where_nothing_names_it(
    stack: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--stack", STACK]) == 2
    assert "'S3_object_name' is missing" in capsys.readouterr().err
    assert main(["run", "--stack", STACK, "--set", "S3_object_name=m"]) == 2
    assert "name a folder of partitions by --data" in capsys.readouterr().err


def test_results_get_refuses_a_running_execution_and_an_unknown_one(
    stack: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(stack, "still-going")
    assert main(["results", "get", "still-going", "--runs", str(tmp_path)]) == 2
    assert "still running" in capsys.readouterr().err
    assert main(["results", "get", "nobody", "--runs", str(tmp_path)]) == 2
    assert "nobody" in capsys.readouterr().err


def test_why_an_execution_failed_is_told_though_its_results_cannot_be_fetched(
    stack: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = Ended(
        arn=stack["StateMachineArn"].replace("stateMachine", "execution") + ":lost",
        name="lost",
        status="FAILED",
        input={"bucket": "no-such-bucket", "result_path": "results/lost"},
        error="IncompleteResults",
        reason="1 of 3 ranks left no result",
    )
    outcome = collect(on_aws(STACK), failed, bar=no_bar, runs=tmp_path)
    assert report(outcome, as_json=False) == 1
    told = capsys.readouterr().err
    assert "its results cannot be fetched: " in told
    assert "no-such-bucket" in told
    assert "IncompleteResults: 1 of 3 ranks left no result" in told
    assert f"#/v2/executions/details/{failed.arn}" in told
    report(outcome, as_json=True)
    links = json.loads(capsys.readouterr().out)["links"]
    assert links == {"execution": outcome.links.execution, "failed_ranks": []}  # type: ignore[union-attr]


def put_lines(group: str, messages: list[tuple[int, str]]) -> None:
    logs = boto3.client("logs")
    with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_stream(logGroupName=group, logStreamName="one")
    events = [{"timestamp": when, "message": message} for when, message in messages]
    logs.put_log_events(logGroupName=group, logStreamName="one", logEvents=events)  # type: ignore[arg-type]


def test_logs_shows_the_lines_that_sam_logs_shows_by_time(
    stack: dict[str, str],
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from click.testing import CliRunner
    from samcli.cli.main import cli

    resources = boto3.client("cloudformation").list_stack_resources(StackName=STACK)
    names = {
        each["LogicalResourceId"]: each["PhysicalResourceId"]
        for each in resources["StackResourceSummaries"]
    }
    group_of = {
        name: names[logical.replace("Function", "LogGroup")]
        for logical, name in names.items()
        if logical.endswith("Function")
    }

    def with_its_group(arguments: dict[str, str]) -> dict[str, Any]:
        """What moto leaves out of a function's configuration."""
        return {"LoggingConfig": {"LogGroup": group_of[arguments["FunctionName"]]}}

    monkeypatch.setitem(deployed_stack.ANSWERS, "GetFunctionConfiguration", with_its_group)

    machine = boto3.client("stepfunctions").describe_state_machine(
        stateMachineArn=stack["StateMachineArn"]
    )
    destination = machine["loggingConfiguration"]["destinations"][0]["cloudWatchLogsLogGroup"]
    own = destination["logGroupArn"].removesuffix(":*").split(":log-group:")[1]
    groups = [*stack["LogGroups"].split(","), own]
    now = int(time.time() * 1000)
    for offset, group in enumerate(reversed(groups)):
        put_lines(group, [(now - 1000 * offset, f"line {offset}")])
    assert main(["logs", "--stack", STACK]) == 0
    ours = capsys.readouterr().out.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in ours] == ["4", "3", "2", "1", "0"]
    theirs = CliRunner().invoke(cli, ["logs", "--stack-name", STACK]).stdout
    assert sorted(re.findall(r"line \d", theirs)) == sorted(re.findall(r"line \d", "".join(ours)))


def test_logs_of_a_stack_without_lines_say_so(
    stack: dict[str, str],
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # moto does not know the patterns of JSON fields.
    monkeypatch.setitem(deployed_stack.ANSWERS, "FilterLogEvents", lambda _: {"events": []})
    assert main(["logs", "--stack", STACK, "--execution", "none", "--rank", "4"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "no lines of an invocation that served rank 4 of execution none in" in told.err


def test_log_lines_of_a_stack_cannot_control_the_terminal(
    stack: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    put_lines(stack["LogGroups"].split(",")[-1], [(int(time.time() * 1000), "a\x1b[2J\rb")])
    assert main(["logs", "--stack", STACK]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\n    b\n" in told


def test_followed_logs_read_each_line_once_and_only_what_is_new(stack: dict[str, str]) -> None:
    """Late lines are still found; what is long read is not asked for again."""
    connection = connect(STACK)
    group = stack["LogGroups"].split(",")[0]
    now = int(time.time() * 1000)
    put_lines(group, [(now - 200_000, "old"), (now - 20_000, "newest")])
    asked = []
    client = connection.service("logs")
    client.meta.events.register(
        "provide-client-params.cloudwatch-logs.FilterLogEvents",
        lambda params, **_: asked.append((params["logGroupName"], params["startTime"])),
    )
    watched = dataclasses.replace(connection, service=lambda _name: client)
    texts = []
    for line in lines(watched, timedelta(minutes=60), follow=True):
        if line.group != group or line.text.startswith("line"):
            continue
        texts.append(line.text)
        if line.text == "newest":
            put_lines(group, [(now - 30_000, "late"), (now - 10_000, "new")])
        if line.text == "new":
            break
    assert texts == ["old", "newest", "late", "new"]
    starts = [start for name, start in asked if name == group]
    assert starts[-1] > starts[0] + 3_000_000
