"""Roles of the application's own template, enforced by a local cloud of them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cosmicai_workbench.cloud.local import LocalCloud
from cosmicai_workbench.cloud.session import local_session
from cosmicai_workbench.cloud.state import Limits

BUCKET = "cosmicai-results"
PROBE = "cosmicai-ProbeFunction"
TEMPLATE = (Path(__file__).parent / "small_stack/template.yaml").read_text()
ROLE = """
  ProbeRole:
    Type: AWS::IAM::Role
    Properties:
      ManagedPolicyArns: [!Ref Listing]
      Policies:
        - PolicyName: Probe
          PolicyDocument:
            Version: "2012-10-17"
            Statement:
              - {Effect: Allow, Action: "s3:GetObject", Resource: "arn:aws:s3:::*/in/*"}
              - {Effect: Allow, Action: ["s3:Put*"], Resource: !Sub "arn:aws:s3:::${Results}/out/*"}
              - {Effect: Deny, Action: "s3:PutObject", Resource: "arn:aws:s3:::*/no"}
  Listing:
    Type: AWS::IAM::ManagedPolicy
    Properties:
      PolicyDocument:
        Version: "2012-10-17"
        Statement:
          - {Effect: Allow, Action: "s3:ListBucket", Resource: !Sub "arn:aws:s3:::${Results}"}
"""
MACHINE = """      Policies:
        - Version: "2012-10-17"
          Statement:
            - {Effect: Allow, Action: "s3:GetObject", Resource: "arn:aws:s3:::*/items"}
"""
HANDLER = """
import boto3

def handler(event, context):
    s3 = boto3.client("s3")
    try:
        getattr(s3, event["call"])(Bucket="cosmicai-results", **event.get("with", {}))
    except s3.exceptions.ClientError as error:
        return error.response["Error"]
    return {"Code": "permitted"}
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    folder = tmp_path_factory.mktemp("roles")
    (folder / "probe").mkdir()
    (folder / "probe/app.py").write_text(HANDLER)
    source = Path(__file__).parent / "small_stack/machine.asl.json"
    (folder / "machine.asl.json").write_text(source.read_text())
    text = TEMPLATE.replace("CodeUri: probe", "CodeUri: probe\n      Role: !GetAtt ProbeRole.Arn")
    text = text.replace("MemorySize: 192", "MemorySize: 256").replace("Timeout: 2", "Timeout: 20")
    text = text.replace("      DefinitionUri", MACHINE + "      DefinitionUri")
    (folder / "template.yaml").write_text(text.replace("Outputs:", ROLE.lstrip("\n") + "Outputs:"))
    with LocalCloud(
        template=folder / "template.yaml",
        root=folder / "state",
        concurrency=1,
        limits=Limits(roles=True),
    ) as local:
        yield local


def client(cloud: LocalCloud, service: str) -> Any:
    return local_session(cloud.status.variables).client(service, endpoint_url=cloud.status.endpoint)


DELETE = {"Delete": {"Objects": [{"Key": "in/a"}, {"Key": "out/b"}]}}
COPY = {"Key": "out/copy", "CopySource": f"{BUCKET}/secret/a"}
DENIED = "AccessDenied"


@pytest.mark.parametrize(
    ("call", "options", "code"),
    [
        ("get_object", {"Key": "in/a"}, "permitted"),
        ("get_object", {"Key": "secret/a"}, DENIED),
        ("head_object", {"Key": "secret/a"}, "403"),
        ("put_object", {"Key": "out/b", "Body": b""}, "permitted"),
        ("put_object", {"Key": "out/b", "Body": b"", "Tagging": "a=b"}, "permitted"),
        ("put_object", {"Key": "in/a", "Body": b""}, DENIED),
        ("put_object", {"Key": "out/no", "Body": b""}, DENIED),
        ("copy_object", COPY, DENIED),
        ("delete_object", {"Key": "out/b"}, DENIED),
        ("delete_objects", DELETE, DENIED),
        ("get_object_tagging", {"Key": "in/a"}, DENIED),
        ("list_objects_v2", {}, "permitted"),
        ("get_bucket_policy", {}, DENIED),
        ("delete_bucket", {}, DENIED),
    ],
)
def test_a_function_may_do_what_its_role_says(
    cloud: LocalCloud, call: str, options: dict[str, Any], code: str
) -> None:
    s3 = client(cloud, "s3")
    for key in ("in/a", "secret/a"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"galaxies")
    event = {"call": call, "with": options}
    payload = json.dumps(event, default=lambda content: content.decode())
    answer = client(cloud, "lambda").invoke(FunctionName=PROBE, Payload=payload)
    assert json.load(answer["Payload"])["Code"] == code


def test_so_may_a_state_machine(cloud: LocalCloud) -> None:
    s3, states = client(cloud, "s3"), client(cloud, "stepfunctions")
    # The items may be read, but no function called; the others may not even be read.
    errors = {"items": "failure threshold was exceeded", "others": "to perform s3:GetObject"}
    for key, expected in errors.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=b'[{"call": "list_objects_v2"}]')
        event = {"bucket": BUCKET, "key": key, "concurrency": 1}
        arn = states.start_execution(
            stateMachineArn=cloud.status.outputs["StateMachineArn"], input=json.dumps(event)
        )["executionArn"]
        deadline = time.monotonic() + 30
        while (ended := states.describe_execution(executionArn=arn))["status"] == "RUNNING":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert ended["status"] == "FAILED"
        assert expected in ended["cause"]


def test_a_functions_keys_serve_nothing_else(cloud: LocalCloud) -> None:
    own = client(cloud, "s3")
    own.list_buckets()  # the user may
    answer = client(cloud, "lambda").get_function_configuration(FunctionName=PROBE)
    assert not any("SECRET" in name for name in answer["Environment"]["Variables"])
    with pytest.raises(ClientError):
        own.get_object(Bucket=BUCKET, Key="absent")
