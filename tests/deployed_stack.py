"""The application as CloudFormation would get it, created in moto.

Everything moto cannot create is taken out or replaced here, and only here.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samcli.yamlhelper import yaml_parse

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[1]
REGION = "us-east-1"
STACK = "cosmicai"

MISSING_IN_MOTO = {
    "AWS::Logs::QueryDefinition": "no saved queries",
    "AWS::S3::BucketPolicy": "no bucket policies by CloudFormation",
    "AWS::Lambda::Alias": "no aliases by CloudFormation",
}
DENIED: dict[str, Any] = {"denied": True}
"""Stands for an operation that the credentials do not allow."""
ANSWERS: dict[str, Any] = {
    "GetAccountSettings": {
        "AccountLimit": {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 900}
    },
}
"""Operations that moto does not know, and what AWS would answer, or what makes the answer."""


def transformed(path: Path = ROOT / "template.yaml") -> dict[str, Any]:
    """Return a template as AWS's SAM transform leaves it."""
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    os.environ.setdefault("AWS_DEFAULT_REGION", REGION)
    document = yaml_parse(path.read_text())
    for resource in document["Resources"].values():
        properties = resource.get("Properties", {})
        for key in ("CodeUri", "ContentUri"):
            if key in properties:
                properties[key] = f"s3://artifacts/{properties[key]}"
        if "DefinitionUri" in properties:
            definition = json.loads((ROOT / properties.pop("DefinitionUri")).read_text())
            properties["Definition"] = definition
        if resource["Type"] == "AWS::Serverless::Application":
            file = Path(properties["Location"]).name
            properties["Location"] = f"https://s3.amazonaws.com/artifacts/{file}"
    return dict(Translator({}, Parser()).translate(document, {}))


def for_moto(template: dict[str, Any]) -> dict[str, Any]:
    """Take out what moto cannot create; an alias's function stands for it."""
    resources = template["Resources"]
    aliases = {
        name: resource["Properties"]["FunctionName"]["Ref"]
        for name, resource in resources.items()
        if resource["Type"] == "AWS::Lambda::Alias"
    }

    def without_aliases(value: Any) -> Any:
        if isinstance(value, list):
            return [without_aliases(each) for each in value]
        if not isinstance(value, dict):
            return value
        if set(value) == {"Ref"} and value["Ref"] in aliases:
            return {"Fn::GetAtt": [aliases[value["Ref"]], "Arn"]}
        return {key: without_aliases(each) for key, each in value.items()}

    kept = {
        name: without_aliases(resource)
        for name, resource in resources.items()
        if resource["Type"] not in MISSING_IN_MOTO
        # moto lists a nested stack whose condition is false, under an empty name.
        and resource.get("Condition") not in ("RunRendezvous", "RunValkey")
    }
    # moto leaves out every output where one is a nested stack's.
    outputs = {
        name: output
        for name, output in template["Outputs"].items()
        if '"Outputs.' not in json.dumps(output)
    }
    return {**template, "Resources": kept, "Outputs": outputs}


def deploy(**parameters: str) -> None:
    """Create the stack at the AWS endpoint of the environment."""
    import boto3

    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="artifacts")
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("app.py", "")
    for folder in (*(ROOT / "functions").iterdir(), *(ROOT / "layers").iterdir()):
        s3.put_object(
            Bucket="artifacts", Key=str(folder.relative_to(ROOT)), Body=package.getvalue()
        )
    operations = json.dumps(yaml_parse((ROOT / "infrastructure/operations.yaml").read_text()))
    s3.put_object(Bucket="artifacts", Key="operations.yaml", Body=operations)
    s3.put_object(Bucket="artifacts", Key="template", Body=json.dumps(for_moto(transformed())))
    formation = boto3.client("cloudformation")
    formation.create_stack(
        StackName=STACK,
        TemplateURL="https://artifacts.s3.amazonaws.com/template",
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
    )
    _substitute(formation)


def _substitute(formation: Any) -> None:
    """Put the functions' ARNs into the definition, and its log group, which moto leaves out."""
    import boto3

    summaries = formation.list_stack_resources(StackName=STACK)["StackResourceSummaries"]
    names = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in summaries}
    functions, states = boto3.client("lambda"), boto3.client("stepfunctions")
    machine = states.describe_state_machine(stateMachineArn=names["InferenceStateMachine"])
    definition = machine["definition"]
    for name in re.findall(r"\$\{(\w+)Arn\}", definition):
        found = functions.get_function_configuration(FunctionName=names[name])
        definition = definition.replace(f"${{{name}Arn}}", found["FunctionArn"])
    group = names["StateMachineLogGroup"]
    arn = f"arn:aws:logs:{REGION}:123456789012:log-group:{group}:*"
    states.update_state_machine(
        stateMachineArn=names["InferenceStateMachine"],
        definition=definition,
        loggingConfiguration={
            "level": "ERROR",
            "destinations": [{"cloudWatchLogsLogGroup": {"logGroupArn": arn}}],
        },
    )


def answer_for_moto(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer the operations that moto does not know; return the list of those called."""
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

    called: list[str] = []
    real = BaseClient._make_api_call  # type: ignore[attr-defined]

    def call(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        if operation in ANSWERS:
            called.append(operation)
            if ANSWERS[operation] is DENIED:
                error: Any = {"Error": {"Code": "AccessDeniedException", "Message": "no"}}
                raise ClientError(error, operation)
            answer: Any = ANSWERS[operation]
            return answer(arguments) if callable(answer) else answer
        return real(self, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    return called
