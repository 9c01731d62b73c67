"""The template: linted, and consistent with the code that reads its environment."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cosmicai.schema import StackSettings
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


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "us-east-1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_sam_validates_and_lints_the_template() -> None:
    outcome = run(str(BIN / "sam"), "validate", "--lint", "--region", "us-east-1")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_cfn_lint_finds_nothing() -> None:
    outcome = run(str(BIN / "cfn-lint"), "template.yaml")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_initializes_environment_is_what_the_code_reads() -> None:
    variables = set(FUNCTIONS["InitializeFunction"]["Environment"]["Variables"])
    expected = {name.upper() for name in StackSettings.model_fields}
    assert {name for name in variables if not name.startswith("POWERTOOLS_")} == expected


def test_the_stacks_defaults_are_valid_settings() -> None:
    references = FUNCTIONS["InitializeFunction"]["Environment"]["Variables"]
    defaults = {
        name: str(TEMPLATE["Parameters"][value["Ref"]]["Default"])
        for name, value in references.items()
        if isinstance(value, dict) and "Ref" in value
    }
    settings = StackSettings.model_validate(StackSettings.from_environment(defaults))
    assert settings.max_concurrency == TEMPLATE["Parameters"]["MaxConcurrency"]["Default"]


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


def test_no_statement_allows_every_resource() -> None:
    holders = [*FUNCTIONS.values(), RESOURCES["InferenceStateMachine"]["Properties"]]
    for properties in holders:
        for policy in properties["Policies"]:
            for statement in policy["Statement"]:
                assert statement["Resource"] != "*", statement["Sid"]
                assert "*" not in str(statement["Action"]), statement["Sid"]
