"""The definition of the state machine, checked for what linters let pass."""

import inspect
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cosmicai import errors, schema
from cosmicai_workbench import retries
from fmilib import errors as fmi_errors
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "statemachine/inference.asl.json").read_text()
DEFINITION: dict[str, Any] = json.loads(TEXT)
TEMPLATE: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())
MACHINE: dict[str, Any] = TEMPLATE["Resources"]["InferenceStateMachine"]["Properties"]

OURS = {
    name
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.CosmicAIError)
}
EXPRESS_SECONDS = 300
NOT_TRANSIENT = OURS - {"TransientStorageError"}


def programs(program: dict[str, Any], name: str = "main") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the machine and the programs of its Maps."""
    yield name, program
    for state_name, state in program["States"].items():
        if "ItemProcessor" in state:
            yield from programs(state["ItemProcessor"], state_name)


PROGRAMS = dict(programs(DEFINITION))
STATES = [
    pytest.param(state, id=f"{program}: {name}")
    for program, content in PROGRAMS.items()
    for name, state in content["States"].items()
]


def targets(state: dict[str, Any]) -> set[str]:
    found = {state[key] for key in ("Next", "Default") if key in state}
    found |= {catcher["Next"] for catcher in state.get("Catch", [])}
    return found | {choice["Next"] for choice in state.get("Choices", [])}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_every_target_exists_and_every_state_can_be_reached(program: dict[str, Any]) -> None:
    states = program["States"]
    reached: set[str] = set()
    to_visit = {program["StartAt"]}
    while to_visit:
        name = to_visit.pop()
        assert name in states, f"{name!r} is the target of a state, and there is no such state"
        reached.add(name)
        to_visit |= targets(states[name]) - reached
    assert reached == set(states), f"no way leads to {set(states) - reached}"


@pytest.mark.parametrize("state", STATES)
def test_every_state_goes_on_or_ends(state: dict[str, Any]) -> None:
    ends = state.get("End") or state["Type"] in {"Succeed", "Fail"}
    assert bool(ends) != bool(targets(state))


def test_the_definition_holds_the_declared_retries() -> None:
    """`make definition` writes them."""
    written = json.loads(TEXT)
    retries.write_retries(written)
    assert retries.formatted(written) == TEXT


def test_retries_of_a_missing_state_are_refused() -> None:
    with pytest.raises(ValueError, match="Summarize"):
        retries.write_retries({"States": {}})


@pytest.mark.parametrize("state", STATES)
def test_only_transient_errors_are_retried_with_backoff_and_jitter(state: dict[str, Any]) -> None:
    for retrier in state.get("Retry", []):
        names = set(retrier["ErrorEquals"])
        assert not names & NOT_TRANSIENT, f"a retry cannot mend {names & NOT_TRANSIENT}"
        assert retrier["BackoffRate"] >= 2
        assert retrier["JitterStrategy"] == "FULL"
        assert retrier["MaxAttempts"] >= 1


@pytest.mark.parametrize("name", ["Initialize", "Model Inference", "Invoke FMI", "Summarize"])
@pytest.mark.parametrize("error", retries.NOT_STARTED)
def test_a_call_that_lambda_refused_is_made_again(name: str, error: str) -> None:
    state = next(each["States"][name] for each in PROGRAMS.values() if name in each["States"])
    assert error in [each for retrier in state["Retry"] for each in retrier["ErrorEquals"]]


@pytest.mark.parametrize("name", ["Initialize", "Summarize", "Record Failure"])
@pytest.mark.parametrize("error", retries.SANDBOX)
def test_a_sandbox_that_dies_once_costs_no_execution(name: str, error: str) -> None:
    retriers = DEFINITION["States"][name]["Retry"]
    assert error in [each for retrier in retriers for each in retrier["ErrorEquals"]]


def test_a_throttled_rank_waits_as_long_as_its_child_lives_and_records_its_failure() -> None:
    """An EXPRESS child that ends by its own time-out could not say which rank failed, and why."""
    throttled, *_ = retries.RETRIERS["Model Inference"]
    rng = np.random.default_rng(0)
    longest = [throttled.delay(attempt) for attempt in range(throttled.max_attempts)]
    waits = (rng.random((10_000, len(longest))) * longest).sum(axis=1)
    assert np.median(waits) > 0.75 * EXPRESS_SECONDS
    assert np.quantile(waits, 0.99) < EXPRESS_SECONDS - 5


@pytest.mark.parametrize("state", STATES)
def test_every_task_and_map_catches_everything(state: dict[str, Any]) -> None:
    if state["Type"] in {"Task", "Map"}:
        assert ["States.ALL"] in [catcher["ErrorEquals"] for catcher in state["Catch"]]


def test_every_failure_ends_in_a_fail_state_never_in_success() -> None:
    """From any Catch, no path leads to a Succeed state."""
    for name, program in PROGRAMS.items():
        states = program["States"]
        caught = {c["Next"] for state in states.values() for c in state.get("Catch", [])}
        seen: set[str] = set()
        while caught:
            state = caught.pop()
            seen.add(state)
            caught |= targets(states[state]) - seen
        assert not [s for s in seen if states[s]["Type"] == "Succeed"], name


def test_a_failure_that_could_not_be_recorded_tells_its_reason() -> None:
    """The state's texts, by moto's interpreter."""
    import boto3
    from moto import mock_aws

    found = {
        "failure": {"Error": "States.Timeout", "Cause": '{"errorMessage": "too {} slow"}'},
        "unrecorded": {"Error": "Lambda.Unknown", "Cause": "died"},
    }
    name = "Failure Not Recorded"
    states = {"Found": {"Type": "Pass", "Result": found, "Next": name}}
    states[name] = DEFINITION["States"][name]
    with mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        machines = boto3.client("stepfunctions", **keys)
        machine = machines.create_state_machine(
            name="m",
            definition=json.dumps({"StartAt": "Found", "States": states}),
            roleArn="arn:aws:iam::123456789012:role/x",
        )
        arn = machines.start_execution(stateMachineArn=machine["stateMachineArn"])["executionArn"]
        end = time.monotonic() + 30
        while (ended := machines.describe_execution(executionArn=arn))["status"] == "RUNNING":
            assert time.monotonic() < end
            time.sleep(0.05)
    assert ended["error"] == "FailureNotRecorded"
    assert ended["cause"] == (
        'States.Timeout: {"errorMessage": "too {} slow"} '
        "(it could not be recorded: Lambda.Unknown: died)"
    )


def test_a_rank_that_others_aborted_does_not_abort_them_again() -> None:
    """With a thousand ranks that would be a million messages."""
    (choice,) = PROGRAMS["Distributed Inference"]["States"]["Peers Waiting"]["Choices"]
    wanted, unless = choice["And"]
    assert wanted == {"Variable": "$.FMI", "BooleanEquals": True}
    assert unless["Not"]["Variable"] == "$.failure.Error"
    assert issubclass(vars(fmi_errors)[unless["Not"]["StringEquals"]], fmi_errors.FmiError)
    assert choice["Next"] == "Abort FMI"


def test_the_map_is_distributed_over_express_children_from_a_manifest() -> None:
    state = DEFINITION["States"]["Distributed Inference"]
    config = state["ItemProcessor"]["ProcessorConfig"]
    assert config == {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"}
    assert state["ItemReader"]["Resource"].endswith("s3:getObject")
    assert len(state["Label"]) <= 40
    for key in ("MaxConcurrencyPath", "ToleratedFailurePercentagePath"):
        assert state[key].removeprefix("$.") in schema.Plan.model_fields


def test_the_map_reads_fields_that_the_plan_has() -> None:
    state = DEFINITION["States"]["Distributed Inference"]
    for part in (state["ItemReader"], state["ResultWriter"]):
        for path in part["Parameters"].values():
            assert path.removeprefix("$.") in schema.Plan.model_fields


def test_a_rank_reads_fields_that_its_item_has() -> None:
    fields = set(schema.ManifestItem.model_fields) | {"failure"}
    text = json.dumps(PROGRAMS["Distributed Inference"])
    used = set(re.findall(r'"\$\.(\w+)', text)) | set(re.findall(r", \$\.(\w+)", text))
    assert used <= fields, used - fields


def test_the_events_that_the_machine_builds_fit_the_steps() -> None:
    states = DEFINITION["States"]
    for name, model in (
        ("Initialize", schema.InitializeEvent),
        ("Summarize", schema.SummarizeEvent),
        ("Record Failure", schema.SummarizeEvent),
    ):
        payload = states[name]["Parameters"]["Payload"]
        keys = {key.removesuffix(".$") for key in payload}
        assert keys <= set(model.model_fields), name
        execution = {key.removesuffix(".$") for key in payload["execution"]}
        assert execution == set(schema.Execution.model_fields), name
    body = PROGRAMS["Distributed Inference"]["States"]["Record Rank Failure"]["Parameters"]["Body"]
    assert {key.removesuffix(".$") for key in body} == set(schema.RankFailure.model_fields)


def test_substitutions_match_the_template_both_ways() -> None:
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) == set(MACHINE["DefinitionSubstitutions"])


def test_the_machine_may_invoke_exactly_the_functions_it_names() -> None:
    named = {
        name
        for name, resource in TEMPLATE["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
        and name in json.dumps(MACHINE["DefinitionSubstitutions"])
    }
    allowed = json.dumps(
        [
            statement["Resource"]
            for policy in MACHINE["Policies"]
            for statement in policy["Statement"]
            if "lambda:InvokeFunction" in json.dumps(statement["Action"])
        ]
    )
    mentioned = {
        name
        for name, resource in TEMPLATE["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function" and name in allowed
    }
    assert mentioned == named


def test_a_childs_tries_fit_the_five_minutes_of_an_express_execution() -> None:
    """Two tries at the longest time-out, and the second's wait, are under 300 s."""
    state = PROGRAMS["Distributed Inference"]["States"]["Model Inference"]
    tries = next(
        retrier["MaxAttempts"] + 1
        for retrier in state["Retry"]
        if "Sandbox.Timedout" in retrier["ErrorEquals"]
    )
    timeout = TEMPLATE["Parameters"]["InferenceTimeout"]["MaxValue"]
    assert tries * timeout + 10 < EXPRESS_SECONDS


def test_state_function_module_and_resource_share_one_noun() -> None:
    for state, folder in (
        ("Initialize", "initialize"),
        ("Model Inference", "model_inference"),
        ("Invoke FMI", "invoke_fmi"),
        ("Summarize", "summarize"),
    ):
        assert state in {name for program in PROGRAMS.values() for name in program["States"]}
        assert (ROOT / "functions" / folder / "app.py").is_file()
        resource = folder.title().replace("_", "") + "Function"
        properties = TEMPLATE["Resources"][resource]["Properties"]
        assert properties["CodeUri"] == f"functions/{folder}"
        variables = properties["Environment"]["Variables"]
        assert variables["POWERTOOLS_SERVICE_NAME"] == folder
