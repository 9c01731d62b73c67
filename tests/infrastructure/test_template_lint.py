"""The template: linted, and consistent with the code that reads its environment."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cosmicai import keys
from cosmicai.settings import (
    CollectiveSettings,
    FunctionSettings,
    InferenceSettings,
    InitializeSettings,
    SummarizeSettings,
)
from cosmicai_workbench.cloud.template import _Reader
from deployed_stack import transformed
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).parents[2]
TEMPLATE: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())
RESOURCES: dict[str, Any] = TEMPLATE["Resources"]
FUNCTIONS = {
    name: resource["Properties"]
    for name, resource in RESOURCES.items()
    if resource["Type"] == "AWS::Serverless::Function"
}
BIN = Path(sys.executable).parent
TEMPLATES = [ROOT / "template.yaml", *sorted((ROOT / "infrastructure").glob("*.yaml"))]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "us-east-1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_sam_validates_and_lints_the_template() -> None:
    outcome = run(str(BIN / "sam"), "validate", "--lint", "--region", "us-east-1")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_cfn_lint_finds_nothing() -> None:
    outcome = run(str(BIN / "cfn-lint"), "template.yaml", "infrastructure/*.yaml")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        ("InitializeFunction", InitializeSettings),
        ("ModelInferenceFunction", InferenceSettings),
        ("InvokeFmiFunction", CollectiveSettings),
        ("SummarizeFunction", SummarizeSettings),
    ],
)
def test_a_functions_environment_is_what_its_settings_read(
    function: str, settings: type[FunctionSettings]
) -> None:
    variables = set(FUNCTIONS[function]["Environment"]["Variables"])
    read = {str(field.alias) for field in settings.model_fields.values()}
    not_of_the_template = {
        "INFERENCE_THREADS",  # the local cloud's
        "FMI_TOKEN",  # where there is no Secrets Manager
    }
    by_lambda = {name for name in read if name.startswith("AWS_")}
    assert {name for name in variables if not name.startswith("POWERTOOLS_")} == (
        read - by_lambda - not_of_the_template
    )


def test_the_stacks_defaults_are_valid_settings() -> None:
    references = FUNCTIONS["InitializeFunction"]["Environment"]["Variables"]
    defaults = {
        name: str(TEMPLATE["Parameters"][value["Ref"]]["Default"])
        for name, value in references.items()
        if isinstance(value, dict) and "Ref" in value
    }
    settings = InitializeSettings.read(defaults)
    assert settings.max_concurrency == TEMPLATE["Parameters"]["MaxConcurrency"]["Default"]


def test_what_a_crashed_collective_leaves_expires_by_its_tag() -> None:
    key, value = keys.FMI_TAG.split("=")
    rules = RESOURCES["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    (rule,) = [rule for rule in rules if rule.get("Id") == "messages"]
    assert rule == {
        "Id": "messages",
        "Status": "Enabled",
        "TagFilters": [{"Key": key, "Value": value}],
        "ExpirationInDays": 1,
    }


def test_every_function_logs_to_a_group_with_a_retention() -> None:
    for name, properties in FUNCTIONS.items():
        group = RESOURCES[properties["LoggingConfig"]["LogGroup"]["Ref"]]
        assert group["Type"] == "AWS::Logs::LogGroup", name
        assert group["Properties"]["RetentionInDays"], name


def test_every_parameter_is_described_and_bounded() -> None:
    for name, parameter in TEMPLATE["Parameters"].items():
        assert parameter["Description"].endswith("."), name
        bounds = {"AllowedValues", "AllowedPattern", "MinValue", "MaxValue"} & set(parameter)
        assert bounds, f"{name} accepts anything"


RESOURCELESS = {
    # Sid -> AWS's reason: https://docs.aws.amazon.com/service-authorization/latest/reference/
    "Trace": "X-Ray defines no resource types",
    "JoinVpc": "Lambda checks network permissions without a resource",
    "DeliverLogs": "log deliveries have no resource type",
}


def statements() -> Iterator[dict[str, Any]]:
    """Yield every statement of every role, those under a condition included."""
    policies = [
        policy["PolicyDocument"]
        for resource in RESOURCES.values()
        if resource["Type"] == "AWS::IAM::Role"
        for policy in resource["Properties"]["Policies"]
    ]
    policies.append(RESOURCES["SandboxPolicy"]["Properties"]["PolicyDocument"])
    policies += RESOURCES["InferenceStateMachine"]["Properties"]["Policies"]
    for policy in policies:
        for statement in policy["Statement"]:
            yield statement["Fn::If"][1] if "Fn::If" in statement else statement


def test_statements_allow_named_actions_on_named_resources() -> None:
    for statement in statements():
        assert "*" not in str(statement["Action"]), statement["Sid"]
        if statement["Sid"] not in RESOURCELESS:
            assert statement["Resource"] != "*", statement["Sid"]


def test_every_function_has_a_role_of_its_own() -> None:
    roles = [properties["Role"]["Fn::GetAtt"] for properties in FUNCTIONS.values()]
    assert len({str(role) for role in roles}) == len(FUNCTIONS)


def test_nothing_bills_while_idle_by_default() -> None:
    """Alarms, dashboard and warm sandboxes are made only when asked for."""
    defaults = {name: value["Default"] for name, value in TEMPLATE["Parameters"].items()}
    assert defaults["Monitoring"] == "off"
    assert defaults["ColdStart"] == "on-demand"
    assert RESOURCES["Operations"]["Condition"] == "Monitor"
    billed_while_idle = ("AWS::CloudWatch::", "AWS::KMS::", "AWS::EC2::", "AWS::ElastiCache::")
    assert not [r for r in RESOURCES.values() if r["Type"].startswith(billed_while_idle)]


def test_snapstart_and_provisioned_concurrency_exclude_each_other() -> None:
    """They hang on different values of one parameter."""
    conditions = TEMPLATE["Conditions"]
    snapstart = conditions["UseSnapStart"]["Fn::Equals"]
    provisioned = conditions["UseProvisionedConcurrency"]["Fn::Equals"]
    assert snapstart[0] == provisioned[0] == {"Ref": "ColdStart"}
    assert snapstart[1] != provisioned[1]
    function = FUNCTIONS["ModelInferenceFunction"]
    assert function["SnapStart"]["ApplyOn"]["Fn::If"][0] == "UseSnapStart"
    assert function["ProvisionedConcurrencyConfig"]["Fn::If"][0] == "UseProvisionedConcurrency"


def test_a_created_bucket_refuses_plain_http_and_the_public() -> None:
    bucket = RESOURCES["Bucket"]
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    assert all(bucket["Properties"]["PublicAccessBlockConfiguration"].values())
    (statement,) = RESOURCES["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_every_parameter_is_in_a_group_of_the_console() -> None:
    groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    assert sorted(grouped) == sorted(TEMPLATE["Parameters"])


RULE_FUNCTIONS = {
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/rules-section-structure.html
    "Ref",
    "Fn::And",
    "Fn::Contains",
    "Fn::EachMemberEquals",
    "Fn::EachMemberIn",
    "Fn::Equals",
    "Fn::Not",
    "Fn::Or",
    "Fn::RefAll",
    "Fn::ValueOf",
    "Fn::ValueOfAll",
}


def functions_in(value: Any) -> Iterator[str]:
    """Yield the names of the intrinsic functions in a template's expression."""
    if isinstance(value, list):
        for each in value:
            yield from functions_in(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "Ref" or key.startswith("Fn::"):
                yield key
            yield from functions_in(each)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_rules_use_only_the_functions_that_cloudformation_allows_there(path: Path) -> None:
    """Anything else, an Fn::Join for example, is refused when the change set is created."""
    rules = yaml_parse(path.read_text()).get("Rules", {})
    assert set(functions_in(rules)) <= RULE_FUNCTIONS


def value_of(expression: Any, parameters: dict[str, str]) -> Any:
    """Compute what CloudFormation would, with these parameters."""
    if not isinstance(expression, dict):
        return expression
    ((function, argument),) = expression.items()
    if function == "Ref":
        is_list = TEMPLATE["Parameters"][argument]["Type"] == "CommaDelimitedList"
        return parameters[argument].split(",") if is_list else parameters[argument]
    operands = [value_of(each, parameters) for each in argument]
    if function == "Fn::EachMemberEquals":
        members, value = operands
        return all(member == value for member in members)
    return operands[0] == operands[1] if function == "Fn::Equals" else not operands[0]


def refusals(**given: str) -> list[str]:
    """Return what CloudFormation says against these parameters before it makes anything."""
    defaults = {name: str(value["Default"]) for name, value in TEMPLATE["Parameters"].items()}
    parameters = defaults | given
    return [
        assertion["AssertDescription"]
        for rule in TEMPLATE["Rules"].values()
        if value_of(rule["RuleCondition"], parameters)
        for assertion in rule["Assertions"]
        if not value_of(assertion["Assert"], parameters)
    ]


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"ResultRetentionDays": "7", "ResultPrefix": ""}, "a ResultPrefix"),
        ({"ResultRetentionDays": "7", "ResultPrefix": "r/", "BucketName": "mine"}, "creates"),
        ({"SubnetIds": "subnet-1"}, "SecurityGroupIds"),
        ({"RendezvousImage": "image", "RendezvousSubnetIds": "subnet-1"}, "RendezvousVpcId"),
        ({"RendezvousImage": "image", "RendezvousVpcId": "vpc-1"}, "RendezvousSubnetIds"),
        ({"FmiRedisSecretArn": "arn:aws:secretsmanager:login"}, "FmiRedisUrl"),
        ({"ValkeyVpcId": "vpc-1"}, "SubnetIds"),
        (
            {
                "ValkeyVpcId": "vpc-1",
                "SubnetIds": "subnet-1",
                "SecurityGroupIds": "sg-1",
                "FmiRedisUrl": "redis://mine",
            },
            "leave FmiRedisUrl empty",
        ),
        ({"AlarmEmail": "me@example.org"}, "Monitoring=on"),
    ],
)
def test_parameters_that_need_one_another_are_refused_alone(
    given: dict[str, str], missing: str
) -> None:
    (refusal,) = refusals(**given)
    assert missing in refusal


def test_parameters_that_go_together_are_accepted() -> None:
    assert refusals() == []
    assert refusals(ResultRetentionDays="7", ResultPrefix="results/") == []
    assert refusals(SubnetIds="subnet-1,subnet-2", SecurityGroupIds="sg-1") == []
    assert refusals(AlarmEmail="me@example.org", Monitoring="on") == []


def transformed_version() -> dict[str, Any]:
    """Return the version that the SAM transform makes of Model Inference."""
    resources = transformed()["Resources"]
    (version,) = [each for each in resources.values() if each["Type"] == "AWS::Lambda::Version"]
    return dict(version)


def inference(**parameters: str) -> tuple[Any, Any]:
    """Return what a version of Model Inference holds with these parameters, and its description."""
    reader = _Reader(ROOT / "template.yaml", TEMPLATE, "cosmicai", parameters)
    properties = reader._resources["ModelInferenceFunction"]["Properties"]
    held = {key: value for key, value in properties.items() if key not in NOT_IN_A_VERSION}
    return reader._resolve(without_roles(held)), reader._resolve(properties["VersionDescription"])


NOT_IN_A_VERSION = {
    "VersionDescription",
    "AutoPublishAlias",
    "ProvisionedConcurrencyConfig",  # of the alias
    "ReservedConcurrentExecutions",  # of the function, and all its versions
}


def without_roles(properties: dict[str, Any]) -> dict[str, Any]:
    """Leave out references that the local cloud does not resolve, and that no parameter changes."""
    assert properties["Role"] == {"Fn::GetAtt": ["ModelInferenceRole", "Arn"]}
    assert properties["LoggingConfig"]["LogGroup"] == {"Ref": "ModelInferenceLogGroup"}
    return {**properties, "Role": "role", "LoggingConfig": "logging"}


def other_value(parameter: dict[str, Any]) -> list[str]:
    """Return values of a parameter besides its default."""
    allowed = parameter.get("AllowedValues")
    if parameter["Type"] == "Number":
        allowed = allowed or [parameter["MaxValue"]]
    values = [str(value) for value in allowed or ["other"]]
    return [value for value in values if value != str(parameter["Default"])]


CHANGES = [
    (name, value)
    for name, parameter in TEMPLATE["Parameters"].items()
    if "AllowedPattern" not in parameter
    for value in other_value(parameter)
]


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_new_version_is_made_exactly_when_it_would_differ(name: str, value: str) -> None:
    """A change without a version never runs; Lambda makes no version that would not differ."""
    before, described_before = inference()
    after, described_after = inference(**{name: value})
    assert (after != before) == (described_after != described_before)


def test_a_new_layer_makes_a_new_version_and_the_old_one_is_deleted() -> None:
    version = transformed_version()
    text, values = version["Properties"]["Description"]["Fn::Sub"]
    layers = {key for key in transformed()["Resources"] if "Layer" in key}
    assert len(layers) == 4
    mentioned = text + str(values)
    assert all(layer in mentioned for layer in layers), (layers, mentioned)
    assert version["DeletionPolicy"] == "Delete"


def test_a_versions_description_is_no_longer_than_lambda_takes() -> None:
    """With the longest names of partition and region, and ten thousand deployments."""
    layer = "arn:aws-us-gov:lambda:ap-southeast-1:123456789012:layer:PyTorchFMILayer:10000"
    longest = {
        "Architecture": "x86_64",
        "ColdStart": "snapstart",
        "Engine": "openvino",
        "InferenceMemorySize": "10240",
        "LogLevel": "ERROR",
        "PreloadModel": "m" * TEMPLATE["Parameters"]["PreloadModel"]["MaxLength"],
    }
    _, described = inference(**longest)
    settings, *_ = described.split(" arn:")
    assert len(f"{settings} {layer} {layer}") <= 256


def test_the_state_machine_may_deliver_logs_as_aws_documents_it() -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html, its ten actions."""
    (actions,) = [each["Action"] for each in statements() if each["Sid"] == "DeliverLogs"]
    assert set(actions) == {
        "logs:CreateLogDelivery",
        "logs:CreateLogStream",
        "logs:GetLogDelivery",
        "logs:UpdateLogDelivery",
        "logs:DeleteLogDelivery",
        "logs:ListLogDeliveries",
        "logs:PutLogEvents",
        "logs:PutResourcePolicy",
        "logs:DescribeResourcePolicies",
        "logs:DescribeLogGroups",
    }


def test_the_log_level_reaches_lambdas_own_filter_and_the_logger() -> None:
    shared = TEMPLATE["Globals"]["Function"]
    level = {"Ref": "LogLevel"}
    assert shared["LoggingConfig"] == {"LogFormat": "JSON", "ApplicationLogLevel": level}
    assert shared["Environment"]["Variables"]["POWERTOOLS_LOG_LEVEL"] == level
    lambdas = {"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"}
    for value in TEMPLATE["Parameters"]["LogLevel"]["AllowedValues"]:
        assert value in lambdas
        assert isinstance(logging.getLevelName(value), int), f"Python knows no level {value}"


def test_two_stacks_share_no_metric() -> None:
    namespace = {"Fn::Sub": "CosmicAI/${AWS::StackName}"}
    variables = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["POWERTOOLS_METRICS_NAMESPACE"] == namespace
    assert RESOURCES["Operations"]["Properties"]["Parameters"]["MetricsNamespace"] == namespace


def test_alarms_on_several_metrics_count_a_missing_one_as_none() -> None:
    """A metric that had no event has no value, and a sum with it has none either."""
    operations = yaml_parse((ROOT / "infrastructure/operations.yaml").read_text())
    sums = [
        metric["Expression"]
        for resource in operations["Resources"].values()
        for metric in resource["Properties"].get("Metrics", [])
        if "+" in str(metric.get("Expression", ""))
    ]
    assert sums
    for expression in sums:
        for term in expression.split(" + "):
            assert re.fullmatch(r"FILL\(\w+, 0\)", term), expression


def test_a_rendezvous_that_never_starts_does_not_hold_the_stack() -> None:
    rendezvous = yaml_parse((ROOT / "infrastructure/rendezvous.yaml").read_text())
    deployment = rendezvous["Resources"]["Service"]["Properties"]["DeploymentConfiguration"]
    assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}


def test_the_dashboards_address_is_an_output_of_the_stack() -> None:
    output = TEMPLATE["Outputs"]["DashboardUrl"]
    assert output["Condition"] == "Monitor"
    assert output["Value"] == {"Fn::GetAtt": ["Operations", "Outputs.DashboardUrl"]}


def test_the_sdk_of_x_ray_is_behind_one_module() -> None:
    """It gets no releases after February 2027, and has to be replaced then."""
    users = {
        path.relative_to(ROOT).as_posix()
        for folder in ("functions", "packages/cosmicai")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\bTracer\b|aws_xray_sdk", path.read_text())
    }
    assert users == {"packages/cosmicai/cosmicai/observability.py"}
