"""What clouds on one machine can do of what this application needs: ours, moto's, ministack's.

python benchmarks/alternatives.py    # its results, and the table in docs/alternatives.md

Every cloud is started as its users start it, without Docker, and asked the same by boto3. ministack
runs in the environment that `make test-deploy` makes; without it, its earlier answers are kept.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/alternatives.json"
PAGE = ROOT / "docs/alternatives.md"
BEGIN = "<!-- clouds: made by benchmarks/alternatives.py -->\n"
END = "<!-- end of clouds -->"
MINISTACK = ROOT / ".ministack/bin/python"
ROLE = "arn:aws:iam::000000000000:role/any"
HANDLER = (
    "def handler(event, context):\n    print('said')\n    return {'doubled': 2 * event['n']}\n"
)
SECONDS = 60

DEFINITION = {
    "StartAt": "Each",
    "States": {
        "Each": {
            "Type": "Map",
            "ItemReader": {
                "Resource": "arn:aws:states:::s3:getObject",
                "ReaderConfig": {"InputType": "JSON"},
                "Parameters": {"Bucket": "probe", "Key": "items.json"},
            },
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"},
                "StartAt": "Double",
                "States": {
                    "Double": {
                        "Type": "Task",
                        "Resource": "arn:aws:states:::lambda:invoke",
                        "Parameters": {"FunctionName": "probe", "Payload.$": "$"},
                        "OutputPath": "$.Payload",
                        "End": True,
                    }
                },
            },
            "End": True,
        }
    },
}


def client_of(endpoint: str, key: str = "test", secret: str = "test") -> Callable[[str], Any]:
    """Return what makes a client of a service; nobody retries or waits long."""
    session = boto3.Session(key, secret, region_name="us-east-1")
    settings = Config(
        retries={"total_max_attempts": 1}, read_timeout=SECONDS, s3={"addressing_style": "path"}
    )
    return lambda service: session.client(service, endpoint_url=endpoint, config=settings)


def conditional_write(clients: Callable[[str], Any]) -> bool:
    """Write an object that must not exist, twice: the second time it does."""
    s3 = clients("s3")
    s3.create_bucket(Bucket="probe")
    s3.put_object(Bucket="probe", Key="once", Body=b"1", IfNoneMatch="*")
    try:
        s3.put_object(Bucket="probe", Key="once", Body=b"2", IfNoneMatch="*")
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    return False


def function_runs(clients: Callable[[str], Any]) -> bool:
    """Create a function of a zip file, and call it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("probe.py", HANDLER)
    service = clients("lambda")
    with contextlib.suppress(ClientError):
        clients("iam").create_role(
            RoleName="any",
            AssumeRolePolicyDocument=json.dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Principal": {
                                "Service": ["lambda.amazonaws.com", "states.amazonaws.com"]
                            },
                            "Action": "sts:AssumeRole",
                        }
                    ],
                }
            ),
        )
        clients("iam").put_role_policy(
            RoleName="any",
            PolicyName="any",
            PolicyDocument=json.dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
                }
            ),
        )
    service.create_function(
        FunctionName="probe",
        Runtime="python3.13",
        Handler="probe.handler",
        Role=ROLE,
        Code={"ZipFile": archive.getvalue()},
    )
    answer = service.invoke(FunctionName="probe", Payload=b'{"n": 21}')
    return json.loads(answer["Payload"].read()) == {"doubled": 42}


def logs_are_read(clients: Callable[[str], Any]) -> bool:
    """Read what the function said."""
    events = clients("logs").filter_log_events(logGroupName="/aws/lambda/probe")["events"]
    return any("said" in event["message"] for event in events)


def distributed_map(clients: Callable[[str], Any]) -> bool:
    """Run a Distributed Map over items in S3 that calls the function for each."""
    clients("s3").put_object(Bucket="probe", Key="items.json", Body=b'[{"n": 1}, {"n": 2}]')
    states = clients("stepfunctions")
    machine = states.create_state_machine(
        name="probe", definition=json.dumps(DEFINITION), roleArn=ROLE
    )["stateMachineArn"]
    return finished(states, machine, "{}") == [{"doubled": 2}, {"doubled": 4}]


def finished(states: Any, machine: str, content: str) -> Any:
    """Return the output of an execution that succeeds in time, else None."""
    execution = states.start_execution(stateMachineArn=machine, input=content)["executionArn"]
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = states.describe_execution(executionArn=execution)
        if found["status"] != "RUNNING":
            return json.loads(found["output"]) if found["status"] == "SUCCEEDED" else None
        time.sleep(0.2)
    return None


def creates_stacks(clients: Callable[[str], Any]) -> bool:
    """Create a stack of a CloudFormation template."""
    template = {"Resources": {"Made": {"Type": "AWS::S3::Bucket"}}}
    clients("cloudformation").create_stack(StackName="probe", TemplateBody=json.dumps(template))
    return bool(clients("cloudformation").describe_stacks(StackName="probe")["Stacks"])


PROBES: dict[str, Callable[[Callable[[str], Any]], bool]] = {
    "S3: a conditional write of what exists is refused": conditional_write,
    "Lambda: any Python function of a zip file runs": function_runs,
    "CloudWatch Logs: what that function said": logs_are_read,
    "Step Functions: a Distributed Map over S3 calls that function": distributed_map,
    "CloudFormation: creates a stack": creates_stacks,
}
OWN = "this application, from its template and definition as they deploy"
SIGNED = "a request with a made-up secret is refused"


def answers(clients: Callable[[str], Any], strangers: Callable[[str], Any]) -> dict[str, str]:
    """Return yes or no to every probe."""
    found = {}
    for what, probe in PROBES.items():
        try:
            found[what] = "yes" if probe(clients) else "no"
        except (ClientError, BotoCoreError, ValueError, KeyError):
            found[what] = "no"
    try:
        strangers("s3").list_buckets()
        found[SIGNED] = "no"
    except ClientError:
        found[SIGNED] = "yes"
    return found


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """Start moto's server, its interpreter of state machines switched on."""
    import urllib.request

    import moto.server

    server = moto.server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    body = json.dumps({"stepfunctions": {"execute_state_machine": True}}).encode()
    urllib.request.urlopen(f"{endpoint}/moto-api/config", body, timeout=10).close()
    try:
        yield endpoint
    finally:
        server.stop()


def ours() -> dict[str, str]:
    """Ask the local cloud, and run the application on it."""
    command = [str(Path(sys.executable).parent / "cosmicai")]
    with tempfile.TemporaryDirectory() as folder:

        def cosmicai(*words: str) -> str:
            done = subprocess.run(
                [*command, *words],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=300,
                check=True,
            )
            return done.stdout

        cosmicai("local", "up")
        try:
            lines = cosmicai("local", "status", "--env").splitlines()
            told = dict(line.removeprefix("export ").split("=", 1) for line in lines if "=" in line)
            told = {key: value.strip("'\";") for key, value in told.items()}
            endpoint = told["AWS_ENDPOINT_URL"]
            key, secret = told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"]
            found = answers(client_of(endpoint, key, secret), client_of(endpoint, key, "made up"))
        finally:
            cosmicai("local", "down")
        cosmicai("demo", "--galaxies", "200", "--partitions", "2")
        found[OWN] = "yes"
    return found


def ministack() -> dict[str, str]:
    """Ask ministack; that it runs the application is what `make test-deploy` shows."""
    sys.path.insert(0, str(ROOT / "tests"))
    import emulator

    with tempfile.TemporaryDirectory() as folder, emulator.running(Path(folder)) as endpoint:
        found = answers(client_of(endpoint), client_of(endpoint, "AKIAMADEUP", "made up"))
    found[OWN] = "yes, after `sam build` and `sam deploy`, but for what tests/emulator.py takes out"
    return found


def sam_local() -> dict[str, str]:
    """Ask the SAM command line for one function; it wants Docker."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "sam"), "local", "invoke", "InitializeFunction",
         "-e", "events/initialize.json"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": "/usr/bin:/bin", "SAM_CLI_TELEMETRY": "0", "DOCKER_HOST": "unix:///nowhere"},
    )  # fmt: skip
    works = "yes" if done.returncode == 0 else "no"
    return {
        **dict.fromkeys(PROBES, "no"),
        "Lambda: any Python function of a zip file runs": works,
        SIGNED: "no",
        OWN: "function by function, with Docker" if works == "no" else "function by function",
    }


def measure() -> dict[str, Any]:
    """Ask all of them."""
    earlier = json.loads(RESULTS.read_text())["answers"] if RESULTS.exists() else {}
    with moto() as endpoint:
        theirs = answers(client_of(endpoint), client_of(endpoint, "AKIAMADEUP", "made up"))
        theirs[OWN] = "no"  # it runs no function without Docker, and no SAM template
    found = {"`cosmicai local up`": ours(), "moto server": theirs, "`sam local`": sam_local()}
    if MINISTACK.exists():
        found["MiniStack"] = ministack()
    elif "MiniStack" in earlier:
        found["MiniStack"] = earlier["MiniStack"]
    versions = {name: version(name) for name in ("moto", "aws-sam-cli", "cosmicai")}
    if MINISTACK.exists():
        code = "from importlib.metadata import version; print(version('ministack'))"
        asked = subprocess.run(
            [str(MINISTACK), "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        versions["ministack"] = asked.stdout.strip()
    return {"versions": versions, "docker": "none", "answers": found}


def table(found: dict[str, Any]) -> str:
    """Return the table of the page."""
    clouds = found["answers"]
    rows = [
        [what, *(cloud.get(what, "no") for cloud in clouds.values())]
        for what in (OWN, *PROBES, SIGNED)
    ]
    lines = [["without Docker", *clouds], ["---"] * (len(clouds) + 1), *rows]
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{body}\n\nAsked by `benchmarks/alternatives.py`: {versions}.\n"


def main() -> None:
    """Ask, and write results and table."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    found = measure()
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    text = PAGE.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(text[:start] + table(found) + text[end:])


if __name__ == "__main__":
    main()
