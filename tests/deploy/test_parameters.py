"""Every parameter set worth naming: the stack is created, or refused with its own words."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import emulator
import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "COSMICAI_TEST_DEPLOY" not in os.environ, reason="needs an emulator: make test-deploy"
    ),
]
ARTIFACTS = "artifacts"
CREATE_SECONDS = 120
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/fmi:1"
VPC = {"SubnetIds": "{subnet}", "SecurityGroupIds": "{group}"}

CREATED: dict[str, dict[str, str]] = {
    "default": {},
    "snapstart": {"ColdStart": "snapstart"},
    "snapstart with a model": {"ColdStart": "snapstart", "PreloadModel": "models/astromae-small"},
    "provisioned": {"ColdStart": "provisioned", "ProvisionedConcurrency": "2"},
    "reserved": {"ReservedConcurrency": "5"},
    "engine openvino": {"Engine": "openvino"},
    "engine torch": {"Engine": "torch"},
    "engine plain": {"Engine": "plain"},
    "largest memory": {"InferenceMemorySize": "10240"},
    "VPC": VPC,
    "VPC with a Valkey": {**VPC, "ValkeyVpcId": "{vpc}"},
    "VPC with a Redis of one's own": {**VPC, "FmiRedisUrl": "rediss://cache.example:6379"},
    "rendezvous of one's own": {"FmiChannel": "direct", "FmiRendezvous": "fmi.example:10000"},
    "rendezvous on Fargate": {
        "RendezvousImage": IMAGE,
        "RendezvousVpcId": "{vpc}",
        "RendezvousSubnetIds": "{subnet}",
    },
    "own bucket": {"BucketName": "mine"},
    "own buckets": {"BucketName": "mine", "DataBucketName": "survey"},
    "own data bucket": {"DataBucketName": "survey"},
    "any result path": {"ResultPrefix": ""},
    "another prefix": {"ResultPrefix": "redshifts/2026/"},
    "expiring results": {"ResultRetentionDays": "7"},
    "monitoring": {"Monitoring": "on"},
    "monitoring by mail": {"Monitoring": "on", "AlarmEmail": "me@example.org"},
}
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "expiry of everything": (
        {"ResultRetentionDays": "7", "ResultPrefix": ""},
        "ResultRetentionDays needs a ResultPrefix.",
    ),
    "expiry in a brought bucket": (
        {"ResultRetentionDays": "7", "BucketName": "mine"},
        "ResultRetentionDays needs a bucket that the stack creates",
    ),
    "subnets alone": ({"SubnetIds": "{subnet}"}, "SubnetIds needs SecurityGroupIds."),
    "Valkey without a VPC": ({"ValkeyVpcId": "{vpc}"}, "ValkeyVpcId needs SubnetIds."),
    "Valkey beside a Redis": (
        {**VPC, "ValkeyVpcId": "{vpc}", "FmiRedisUrl": "redis://mine"},
        "leave FmiRedisUrl empty",
    ),
    "image without a VPC": (
        {"RendezvousImage": IMAGE, "RendezvousSubnetIds": "{subnet}"},
        "RendezvousImage needs RendezvousVpcId.",
    ),
    "image without subnets": (
        {"RendezvousImage": IMAGE, "RendezvousVpcId": "{vpc}"},
        "RendezvousImage needs RendezvousSubnetIds.",
    ),
    "login without a server": (
        {"FmiRedisSecretArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:login"},
        "FmiRedisSecretArn needs FmiRedisUrl.",
    ),
    "mail without monitoring": (
        {"AlarmEmail": "me@example.org"},
        "AlarmEmail needs Monitoring=on.",
    ),
    "two tries too long": ({"InferenceTimeout": "141"}, "InferenceTimeout"),
    "memory that Lambda has not": ({"InferenceMemorySize": "10241"}, "InferenceMemorySize"),
    "an engine nobody knows": ({"Engine": "tpu"}, "Engine"),
}


@dataclass
class Creator:
    """Creates stacks of the packaged template, each with the network that the account has."""

    endpoint: str
    network: dict[str, str]
    created: int = 0

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def create(self, parameters: dict[str, str]) -> tuple[str, list[str]]:
        """Create a stack and delete it; return the status it reached, and what failed."""
        self.created += 1
        name = f"Table-{self.created}"  # upper case: not every resource's name may hold it
        cloudformation = self.client("cloudformation")
        cloudformation.create_stack(
            StackName=name,
            TemplateURL=f"{self.endpoint}/{ARTIFACTS}/packaged.yaml",
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value.format(**self.network)}
                for key, value in parameters.items()
            ],
        )
        deadline = time.monotonic() + CREATE_SECONDS
        while (status := self.status(name)).endswith("IN_PROGRESS"):
            assert time.monotonic() < deadline, f"{status} after {CREATE_SECONDS} s"
            time.sleep(0.2)
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        failed = [
            f"{each['LogicalResourceId']}: {each.get('ResourceStatusReason')}"
            for each in events
            if "FAILED" in each["ResourceStatus"]
        ]
        cloudformation.delete_stack(StackName=name)
        return status, failed

    def status(self, name: str) -> str:
        (stack,) = self.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
        return str(stack["StackStatus"])


@pytest.fixture(scope="module")
def creator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Creator]:
    folder = tmp_path_factory.mktemp("parameters")
    with emulator.running(folder) as endpoint:
        creator = Creator(endpoint, {})
        s3, ec2 = creator.client("s3"), creator.client("ec2")
        for bucket in (ARTIFACTS, "mine", "survey"):
            s3.create_bucket(Bucket=bucket)
        project = emulator.project(folder / "cosmicai")
        # Code is zipped as it is: these stacks are created, never called.
        emulator.command(
            project,
            emulator.environment(endpoint),
            *("sam", "package", "--s3-bucket", ARTIFACTS),
            *("--template-file", "template.yaml", "--output-template-file", "packaged.yaml"),
        )
        s3.upload_file(str(project / "packaged.yaml"), ARTIFACTS, "packaged.yaml")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
        group = ec2.create_security_group(GroupName="ranks", Description="ranks", VpcId=vpc)
        creator.network = {
            "vpc": vpc,
            "subnet": subnets[0]["SubnetId"],
            "group": group["GroupId"],
        }
        yield creator


@pytest.mark.parametrize("name", CREATED)
def test_a_stack_is_created(creator: Creator, name: str) -> None:
    assert creator.create(CREATED[name]) == ("CREATE_COMPLETE", [])


@pytest.mark.parametrize("name", REFUSED)
def test_a_stack_is_refused_before_anything_is_made(creator: Creator, name: str) -> None:
    parameters, words = REFUSED[name]
    with pytest.raises(ClientError, match=words):
        creator.create(parameters)
