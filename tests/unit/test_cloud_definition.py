"""The definition that deploys, adapted to the local interpreter and otherwise untouched."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.cloud.definition import load_definition
from cosmicai_workbench.cloud.template import StateMachine, load_stack

ROOT = Path(__file__).parents[2]


def machine(path: Path, **substitutions: str) -> StateMachine:
    return StateMachine("m", "arn", path, substitutions)


def test_only_the_childrens_type_differs_from_what_deploys() -> None:
    deployed = load_stack(ROOT / "template.yaml").state_machines[0]
    local = json.loads(load_definition(deployed))
    text = deployed.definition.read_text()
    for name, value in deployed.substitutions.items():
        text = text.replace("${" + name + "}", value)
    processor = local["States"]["Distributed Inference"]["ItemProcessor"]
    assert processor.pop("Comment") == "EXPRESS"  # keeps the limit of such a child
    assert local == json.loads(text.replace('"EXPRESS"', '"STANDARD"'))


def test_percentages_become_decimals(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    inner = {"Type": "Map", "ToleratedFailurePercentage": 5, "ItemProcessor": {"States": {}}}
    path.write_text(
        json.dumps({"States": {"P": {"Type": "Parallel", "Branches": [{"States": {"M": inner}}]}}})
    )
    local = json.loads(load_definition(machine(path)))
    percentage = local["States"]["P"]["Branches"][0]["States"]["M"]["ToleratedFailurePercentage"]
    assert isinstance(percentage, float)


def test_faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(InvalidInput, match="cannot read the definition of m"):
        load_definition(machine(path))
    path.write_text('{"a": "${Arn}"')
    with pytest.raises(InvalidInput, match="does not give"):
        load_definition(machine(path))
    with pytest.raises(InvalidInput, match="is not JSON"):
        load_definition(replace(machine(path), substitutions={"Arn": "x"}))
