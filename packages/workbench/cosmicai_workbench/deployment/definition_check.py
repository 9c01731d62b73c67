"""What AWS itself says of the deployed state machine: validated, and its Map tried with mocks.

Both calls are free of charge and start nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cosmicai_workbench.deployment.checks import Check, asked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmicai_workbench.client.connection import Connection

_PLAN = {
    "bucket": "bucket",
    "manifest_key": "results/1/manifest.json",
    "map_results_prefix": "results/1/map",
    "max_concurrency": 10,
    "map_tolerated_failure_percentage": 0,
}
_ITEM = {"RANK": 0, "FMI": False, "S3_BUCKET": "bucket", "FAILURE_KEY": "k", "EXECUTION": "arn"}


@dataclass(frozen=True)
class _Trial:
    """A state, what its task or Map is said to answer, and where the machine must go then."""

    what: str
    state: str
    input: dict[str, Any]
    mock: dict[str, Any]
    status: str
    next_state: str | None = None
    configuration: dict[str, Any] | None = None


def _fails_with(error: str) -> dict[str, Any]:
    return {"errorOutput": {"error": error, "cause": "{}"}}


TRIALS = (
    _Trial(
        "the Map goes on to Summarize",
        "Distributed Inference",
        _PLAN,
        {"result": "[]", "fieldValidationMode": "NONE"},
        "SUCCEEDED",
        "Summarize",
        {"mapItemReaderData": json.dumps([_ITEM])},
    ),
    _Trial(
        "a Map that fails is recorded",
        "Distributed Inference",
        _PLAN,
        _fails_with("States.ItemReaderFailed"),
        "CAUGHT_ERROR",
        "Record Failure",
        {"mapItemReaderData": json.dumps([_ITEM])},
    ),
    _Trial(
        "a throttled rank is retried",
        "Model Inference",
        _ITEM,
        _fails_with("Lambda.TooManyRequestsException"),
        "RETRIABLE",
        configuration={"retrierRetryCount": 0},
    ),
    _Trial(
        "a corrupt partition is not retried, and recorded",
        "Model Inference",
        _ITEM,
        _fails_with("CorruptPartition"),
        "CAUGHT_ERROR",
        "Record Rank Failure",
    ),
)


def definition_checks(connection: Connection) -> Iterator[Check]:
    """Have AWS validate the definition and try its Map, its retries and catches."""
    states = connection.states
    machine = asked(
        "definition",
        "states:DescribeStateMachine",
        lambda: states.describe_state_machine(stateMachineArn=connection.state_machine),
    )
    if isinstance(machine, Check):
        yield machine
        return
    definition = machine["definition"]
    found = asked(
        "definition",
        "states:ValidateStateMachineDefinition",
        lambda: states.validate_state_machine_definition(definition=definition, type="STANDARD"),
    )
    if isinstance(found, Check):
        yield found
    elif found["result"] == "OK":
        yield Check("definition", "ok", "AWS finds no fault in it")
    else:
        faults = "; ".join(f"{each['code']}: {each['message']}" for each in found["diagnostics"])
        yield Check("definition", "error", faults)
    yield from _trials(connection, definition)


def _trials(connection: Connection, definition: str) -> Iterator[Check]:
    surprises = []
    for trial in TRIALS:
        answer = asked("trial", "states:TestState", partial(_try, connection, definition, trial))
        if isinstance(answer, Check):
            yield answer
            return
        reached = (answer.get("status"), answer.get("nextState"))
        if reached != (trial.status, trial.next_state):
            surprises.append(
                f"{trial.what}: expected {trial.status} → {trial.next_state}, "
                f"AWS says {reached[0]} → {reached[1]} {answer.get('cause', '')}"
            )
    if surprises:
        yield Check("trial", "warning", "; ".join(surprises))
    else:
        yield Check("trial", "ok", ", ".join(trial.what for trial in TRIALS))


def _try(connection: Connection, definition: str, trial: _Trial) -> Any:
    arguments: dict[str, Any] = {
        "definition": definition,
        "stateName": trial.state,
        "input": json.dumps(trial.input),
        "mock": trial.mock,
    }
    if trial.configuration:
        arguments["stateConfiguration"] = trial.configuration
    return connection.states.test_state(**arguments)
