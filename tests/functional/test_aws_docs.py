"""Every command about AWS in README and docs, as far as the call that needs an account."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import botocore.session
import pytest
from command_lines import parse, shell_lines
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PAGES = ("README.md", "docs/deploy.md", "docs/runbook.md")


def commands(program: str) -> list[str]:
    """Return the commands of a program in the pages' shell blocks that concern AWS."""
    found = []
    for page in PAGES:
        for line in shell_lines(ROOT / page):
            about_aws = program != "cosmicai" or "--stack" in line
            if line.startswith(f"{program} ") and about_aws:
                found.append(line)
    return sorted(set(found))


@pytest.mark.parametrize("command", commands("cosmicai"))
def test_cosmicai_understands_the_command(command: str) -> None:
    """Parse it whole: options, values and arguments; nothing is called."""
    words = shlex.split(command)[1:]
    parse(list(words))  # raises UsageError on what it does not know
    if "-i" in words:
        assert (ROOT / words[words.index("-i") + 1]).is_file()


@pytest.mark.parametrize("command", commands("sam"))
def test_sam_knows_the_options(command: str) -> None:
    words = shlex.split(command)
    environment = {"SAM_CLI_TELEMETRY": "0", "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    subcommand = words[1:3] if words[1] == "local" else words[1:2]
    helped = subprocess.run(
        [str(BIN / "sam"), *subcommand, "--help"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=True,
    )
    for option in (word for word in words if word.startswith("--")):
        assert option in helped.stdout, f"{command}: {option}"
    if "--config-env" in words:
        environment_name = words[words.index("--config-env") + 1]
        assert f"[{environment_name}.deploy.parameters]" in (ROOT / "samconfig.toml").read_text()


def test_every_function_is_invoked_locally_with_its_own_event() -> None:
    """`make test-sam` invokes them; here, that the pages name what there is."""
    template = yaml_parse((ROOT / "template.yaml").read_text())
    functions = {
        name: Path(resource["Properties"]["CodeUri"]).name
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }
    words = [shlex.split(command) for command in commands("sam") if "local invoke" in command]
    assert {each[3]: each[each.index("-e") + 1] for each in words} == {
        name: f"events/{folder}.json" for name, folder in functions.items()
    }


def test_the_sample_event_chooses_the_default_engine() -> None:
    """Another engine's layer is not on a function that was built without parameters."""
    template = yaml_parse((ROOT / "template.yaml").read_text())
    event = json.loads((ROOT / "events" / "model_inference.json").read_text())
    assert event["ENGINE"] == template["Parameters"]["Engine"]["Default"]


@pytest.mark.parametrize("command", [c for c in commands("aws") if not c.startswith("aws s3 ")])
def test_aws_knows_the_operation_and_its_parameters(command: str) -> None:
    _, service, operation, *options = shlex.split(command)
    model = botocore.session.get_session().get_service_model(service)
    name = "".join(part.title() for part in operation.split("-"))
    shape = model.operation_model(name).input_shape
    assert shape is not None
    for option in (word for word in options if word.startswith("--")):
        member = "".join(part.title() for part in option.removeprefix("--").split("-"))
        assert member in shape.members, f"{command}: {option}"


def test_there_are_commands_to_test() -> None:
    assert all(commands(program) for program in ("cosmicai", "sam", "aws"))
