"""The application deployed as a user deploys it, to an emulator of AWS that enforces IAM.

The tests run in the order of the file: they are one life of a stack, from `sam build` to its
deletion.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import emulator
import pytest
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.deployment import build_check
from s3_stack import make_galaxies
from samcli.yamlhelper import yaml_parse

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "COSMICAI_TEST_DEPLOY" not in os.environ, reason="needs an emulator: make test-deploy"
    ),
]
COSMICAI = str(Path(sys.executable).with_name("cosmicai"))
MODEL = emulator.ROOT / "models/astromae-small"
MODEL_PREFIX = "models/astromae-small"
PARTITIONS = 4
GALAXIES = 60
ARCHITECTURE = f"Architecture={emulator.NATIVE}"
MARK = "the changed code runs"


@dataclass
class Account:
    """An empty account, the project beside it, and the environment of a user's commands."""

    endpoint: str
    project: Path
    variables: dict[str, str]
    parameters: dict[str, str]

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def sam(self, *words: str) -> str:
        return emulator.command(self.project, self.variables, "sam", *words)

    def cosmicai(self, *words: str, errors: bool = True) -> str:
        """Run the command line; return what it printed, with or without its messages."""
        folder = self.project.parent
        return emulator.command(folder, self.variables, COSMICAI, *words, errors=errors)

    def deploy(self, **parameters: str) -> str:
        """Run `sam deploy` with these parameters beside those given before."""
        self.parameters |= parameters
        given = [f"{key}={value}" for key, value in self.parameters.items()]
        return self.sam("deploy", "--no-confirm-changeset", "--parameter-overrides", *given)

    def update(self, **parameters: str) -> None:
        """Change parameters as `sam deploy` would, without packaging the same code again."""
        self.parameters |= parameters
        cloudformation = self.client("cloudformation")
        cloudformation.update_stack(
            StackName=emulator.STACK,
            UsePreviousTemplate=True,
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value}
                for key, value in self.parameters.items()
            ],
        )
        cloudformation.get_waiter("stack_update_complete").wait(
            StackName=emulator.STACK, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )
        self.client("lambda").get_waiter("function_active_v2").wait(
            FunctionName=self.outputs()["ModelInferenceFunction"],
            Qualifier="live",
            WaiterConfig={"Delay": 1, "MaxAttempts": 120},
        )

    def outputs(self) -> dict[str, str]:
        (stack,) = self.client("cloudformation").describe_stacks(StackName=emulator.STACK)["Stacks"]
        assert stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE")
        return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}

    def inputs(self, folder: str, **changes: Any) -> Path:
        """Write an execution's input over the uploaded partitions; return its file."""
        outputs = self.outputs()
        given = {
            "bucket": outputs["BucketName"],
            "file_limit": PARTITIONS,
            "batch_size": 64,
            "object_type": "folder",
            "S3_object_name": MODEL_PREFIX,
            "script": "inference.py",
            "result_path": f"results/{folder}",
            "data_bucket": outputs["DataBucketName"],
            "data_prefix": "data",
        }
        path = self.project.parent / "input.json"
        path.write_text(json.dumps({**given, **changes}))
        return path

    def run(self, result_path: str, **changes: Any) -> dict[str, Any]:
        """Run an execution by the command line; return the summary that it leaves."""
        self.cosmicai(
            *("run", "--stack", emulator.STACK, "--yes"),
            *("-i", str(self.inputs(result_path, **changes))),
        )
        return self.summary(result_path)

    def summary(self, result_path: str) -> dict[str, Any]:
        body = self.client("s3").get_object(
            Bucket=self.outputs()["BucketName"], Key=f"results/{result_path}/summary.json"
        )["Body"]
        return dict(json.load(body))

    def alias(self) -> dict[str, Any]:
        """Return the configuration of the version that the state machine calls."""
        name = self.outputs()["ModelInferenceFunction"]
        client = self.client("lambda")
        return dict(client.get_function_configuration(FunctionName=name, Qualifier="live"))

    def lines(self, step: str, pattern: str) -> list[dict[str, Any]]:
        """Return a step's log events that hold a text, oldest first."""
        return list(
            self.client("logs").filter_log_events(
                logGroupName=f"/aws/lambda/{emulator.STACK}-{step}", filterPattern=f'"{pattern}"'
            )["events"]
        )


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    folder = tmp_path_factory.mktemp("deploy")
    with emulator.running(folder) as endpoint:
        yield Account(
            endpoint,
            emulator.project(folder / "cosmicai"),
            emulator.environment(endpoint),
            {"Architecture": emulator.NATIVE},
        )


def upload(account: Account) -> None:
    outputs = account.outputs()
    s3 = account.client("s3")
    for file in ("config.json", "model.safetensors"):
        s3.upload_file(str(MODEL / file), outputs["BucketName"], f"{MODEL_PREFIX}/{file}")
    for number in range(1, PARTITIONS + 1):
        path = account.project.parent / f"{number}.pt"
        write_partition(path, make_galaxies(GALAXIES // PARTITIONS, number), {})
        s3.upload_file(str(path), outputs["DataBucketName"], f"data/{number}.pt")


def test_plain_sam_build_and_sam_deploy(account: Account) -> None:
    """Nothing but aws-sam-cli is installed where these run."""
    account.sam("build", "--parameter-overrides", ARCHITECTURE)
    output = account.deploy()
    assert "Successfully created" in output
    assert account.outputs()["Architecture"] == emulator.NATIVE


def test_the_demo_is_a_first_result(account: Account) -> None:
    """The third command of a newcomer, after `make build` and `sam deploy`."""
    outcome = json.loads(
        account.cosmicai(
            *("demo", "--stack", emulator.STACK, "--yes", "--json"),
            *("--galaxies", str(GALAXIES), "--partitions", str(PARTITIONS)),
            errors=False,
        )
    )
    assert outcome["status"] == "SUCCEEDED"
    assert outcome["summary"]["num_samples"] == GALAXIES


def test_an_execution_of_ones_own_data_succeeds(account: Account) -> None:
    upload(account)
    summary = account.run("first")
    assert summary["status"] == "SUCCEEDED"
    assert summary["num_samples"] == GALAXIES


def test_sam_logs_and_the_command_line_show_the_ranks(account: Account) -> None:
    lines = account.sam("logs", "--stack-name", emulator.STACK)
    assert "EstimatedCost" in lines
    assert "InferenceTime" in lines


def test_sam_lists_the_resources(account: Account) -> None:
    listed = account.sam("list", "resources", "--stack-name", emulator.STACK, "--output", "json")
    names = {each["LogicalResourceId"] for each in json.loads(listed[listed.index("[") :])}
    assert {"Bucket", "InferenceStateMachine", "ModelInferenceFunctionAliaslive"} <= names


def test_ranks_meet_over_s3(account: Account) -> None:
    summary = account.run("meets", script="inference_FMI.py", fmi_channel="s3")
    assert summary["status"] == "SUCCEEDED"
    assert summary["fmi"]["world_size"] == PARTITIONS


def test_a_result_path_is_overwritten_when_asked(account: Account) -> None:
    with pytest.raises(AssertionError, match="belongs to execution"):
        account.run("first")
    before = account.summary("first")
    after = account.run("first", overwrite=True)
    assert after["status"] == "SUCCEEDED"
    assert after["execution"]["name"] != before["execution"]["name"]


def test_a_failing_rank_is_named_and_resumed_once_its_partition_is_mended(account: Account) -> None:
    bucket = account.outputs()["DataBucketName"]
    account.client("s3").put_object(Bucket=bucket, Key="data/2.pt", Body=b"not a partition")
    try:
        with pytest.raises(AssertionError, match="IncompleteResults"):
            account.run("fails")
    finally:
        upload(account)
    summary = account.summary("fails")
    assert summary["status"] == "FAILED"
    (failed,) = summary["failed_ranks"]
    assert failed["rank"] == 1
    assert account.lines("model-inference", "CorruptPartition")
    account.cosmicai("resume", summary["execution"]["name"], "--stack", emulator.STACK, "--yes")
    resumed = account.summary("fails")
    assert resumed["status"] == "SUCCEEDED"
    assert (resumed["ranks_received"], resumed["ranks_kept"]) == (PARTITIONS, PARTITIONS - 1)


@pytest.mark.parametrize("path", ["elsewhere/1", "result/1"])
def test_a_path_that_the_roles_do_not_open_is_refused_with_the_reason(
    account: Account, path: str
) -> None:
    with pytest.raises(AssertionError, match="result_path"):
        account.cosmicai(
            *("run", "--stack", emulator.STACK, "--yes"),
            *("-i", str(account.inputs("any", result_path=path))),
        )


def test_changed_code_runs_after_the_second_deploy(account: Account) -> None:
    """The domain package travels in a layer: what a version runs without being published anew."""
    module = account.project / "packages/cosmicai/cosmicai/observability.py"
    text = module.read_text()
    module.write_text(f'{text}\n\nlogger.info("{MARK}")\n')
    before = account.alias()["Version"]
    account.sam("build", "--parameter-overrides", ARCHITECTURE)
    account.deploy()
    assert account.run("changed")["status"] == "SUCCEEDED"
    after = account.alias()["Version"]
    assert after != before
    lines = account.lines("model-inference", MARK)
    assert lines
    assert all(f"[{after}]" in line["logStreamName"] for line in lines)


@pytest.mark.parametrize(
    ("change", "setting", "expected"),
    [
        ({"InferenceMemorySize": "2048"}, "MemorySize", 2048),
        ({"InferenceTimeout": "100"}, "Timeout", 100),
        ({"LogLevel": "WARN"}, "LoggingConfig", "WARN"),
        ({"PreloadModel": MODEL_PREFIX}, "PRELOAD_MODEL", MODEL_PREFIX),
        ({"ColdStart": "snapstart"}, "SnapStart", "PublishedVersions"),
        ({"Engine": "torch"}, "Layers", "PyTorchFMILayer"),
        ({"Engine": "openvino", "ColdStart": "on-demand"}, "Layers", "OpenVINOLayer"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_changed_parameter_reaches_the_version_that_runs(
    account: Account, change: dict[str, str], setting: str, expected: Any
) -> None:
    before = account.alias()["Version"]
    account.update(**change)
    running = account.alias()
    assert running["Version"] != before
    found = {**running, **running["Environment"]["Variables"]}[setting]
    assert str(expected) in str(found)
    client = account.client("lambda")
    started = int(time.time() * 1000)
    client.invoke(FunctionName=running["FunctionArn"], Payload=b"{}")  # refused, and logged
    lines = [
        line
        for line in account.lines("model-inference", "REPORT")
        if line["timestamp"] >= started - 1000
        and f"[{running['Version']}]" in line["logStreamName"]
    ]
    assert f"Memory Size: {running['MemorySize']} MB" in lines[-1]["message"]


def test_old_versions_are_deleted(account: Account) -> None:
    """A version with a snapshot is billed for as long as it exists."""
    name = account.outputs()["ModelInferenceFunction"]
    versions = account.client("lambda").list_versions_by_function(FunctionName=name)["Versions"]
    assert {each["Version"] for each in versions} == {"$LATEST", account.alias()["Version"]}


def test_a_deleted_stack_leaves_its_bucket_and_nothing_else(account: Account) -> None:
    """By CloudFormation: `sam delete` reads the emulator's template addresses for no S3 ones."""
    bucket = account.outputs()["BucketName"]
    cloudformation = account.client("cloudformation")
    cloudformation.delete_stack(StackName=emulator.STACK)
    cloudformation.get_waiter("stack_delete_complete").wait(
        StackName=emulator.STACK, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )
    kept = account.client("s3").list_objects_v2(Bucket=bucket, Prefix="results/first/")
    assert kept["KeyCount"] > 0
    assert account.client("lambda").list_functions()["Functions"] == []
    assert account.client("stepfunctions").list_state_machines()["stateMachines"] == []
    assert account.client("iam").list_roles()["Roles"] == []


def test_the_default_build_is_for_arm64_and_says_so_elsewhere(account: Account) -> None:
    """Layers of another processor than the function's are named, not an import that fails."""
    shutil.rmtree(account.project / ".aws-sam")
    account.sam("build")
    build = account.project / ".aws-sam/build"
    template = yaml_parse((build / "template.yaml").read_text())
    assert template["Parameters"]["Architecture"]["Default"] == "arm64"
    assert build_check.check_machine_code(build, "arm64") == []
    if emulator.NATIVE == "arm64":
        pytest.skip("this machine runs what was built")
    account.parameters["Architecture"] = "arm64"
    account.deploy()
    function = account.client("lambda").list_functions()["Functions"][0]["FunctionName"]
    answer = account.client("lambda").invoke(FunctionName=function, Payload=b"{}")
    assert "the layers were built for arm64" in answer["Payload"].read().decode()
