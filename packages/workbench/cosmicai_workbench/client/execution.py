"""Start an execution of the state machine and follow it to its end."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cosmicai.errors import CosmicAIError, InvalidInput
from cosmicai.schema import ExecutionInput, Failure, parse

from cosmicai_workbench.client.connection import lookups
from cosmicai_workbench.client.waiting import persist

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cosmicai_workbench.client.connection import Connection

RUNNING = "RUNNING"
_REFUSALS = frozenset(
    {
        "InvalidInput",
        "PartitionNotFound",
        "CorruptPartition",
        "PartitionMismatch",
        "ModelNotFound",
        "ModelMismatch",
        "UnsafePickle",
        "ResultPathInUse",
    }
)
"""Errors of an execution whose input is at fault: it could never have worked."""


@dataclass(frozen=True)
class Progress:
    """How far an execution is. ``total`` is 0 until Initialize has planned the ranks."""

    state: str
    total: int
    succeeded: int
    failed: int
    running: int


@dataclass(frozen=True)
class Ended:
    """How an execution ended.

    ``status`` is Step Functions' (SUCCEEDED, FAILED, TIMED_OUT, ABORTED); ``summary`` is what
    Summarize returned, for one that succeeded.
    """

    arn: str
    name: str
    status: str
    input: dict[str, Any]
    summary: dict[str, Any] | None = None
    error: str = ""
    reason: str = ""
    started: datetime | None = None

    @property
    def is_partial(self) -> bool:
        """Whether ranks are missing, no more than the execution tolerates."""
        return self.summary is not None and self.summary.get("status") == "PARTIAL"

    @property
    def is_refused(self) -> bool:
        """Whether its input was at fault."""
        return self.error in _REFUSALS


def new_name(now: datetime | None = None) -> str:
    """Return a name for an execution: the time it starts, and a few random digits."""
    return f"run-{now or datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def check_input(content: Mapping[str, Any]) -> ExecutionInput:
    """Check an execution's input as Initialize will, before anything is spent.

    Raises
    ------
    InvalidInput
        With every offending key.
    """
    return parse(ExecutionInput, dict(content))


def start(connection: Connection, content: Mapping[str, Any], name: str | None = None) -> str:
    """Start an execution and return its ARN.

    Raises
    ------
    CosmicAIError
        If Step Functions refuses, e.g. because the name is taken by an execution of other input.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return connection.states.start_execution(
            stateMachineArn=connection.state_machine,
            name=name or new_name(),
            input=json.dumps(content),
        )["executionArn"]
    except (ClientError, BotoCoreError) as error:
        raise CosmicAIError(f"the execution could not be started: {error}") from error


def execution_arn(connection: Connection, name: str) -> str:
    """Return the ARN of an execution of the stack, given its name or ARN."""
    if name.startswith("arn:"):
        return name
    return connection.state_machine.replace(":stateMachine:", ":execution:") + f":{name}"


def latest_execution(connection: Connection) -> str:
    """Return the ARN of the execution that started last.

    Raises
    ------
    InvalidInput
        If there is none.
    LookupRefused
        If AWS refuses to answer.
    """
    with lookups("the executions"):
        found = connection.states.list_executions(
            stateMachineArn=connection.state_machine, maxResults=100
        )["executions"]
    if not found:
        raise InvalidInput("there is no execution to watch; start one by `cosmicai run`")
    return max(found, key=lambda each: each["startDate"])["executionArn"]


def resumed_input(connection: Connection, arn: str) -> dict[str, Any]:
    """Return the input of a new execution that resumes one which has ended.

    Raises
    ------
    InvalidInput
        If it still runs, or succeeded with every rank.
    LookupRefused
        If there is no such execution, or AWS refuses.
    """
    with lookups(f"execution {arn}"):
        earlier = ended(connection, arn)
    if earlier.status == RUNNING:
        raise InvalidInput(
            f"execution {earlier.name} is still running: wait for it (`cosmicai run --attach "
            f"{earlier.name}`), or stop it first"
        )
    if earlier.status == "SUCCEEDED" and not earlier.is_partial:
        raise InvalidInput(f"execution {earlier.name} succeeded: there is nothing left to run")
    return {**earlier.input, "overwrite": False, "resume": arn}


def watch(
    connection: Connection, arn: str, interval: float, patience: float = 0.0
) -> Iterator[Progress]:
    """Yield how far an execution is, every ``interval`` seconds, until it ends.

    Raises
    ------
    LookupRefused
        If AWS refuses, or does not answer for ``patience`` seconds.
    """
    state, total, running = "", 0, True

    def look() -> Progress:
        nonlocal state, total, running
        running = connection.states.describe_execution(executionArn=arn)["status"] == RUNNING
        if total == 0 or not running:
            state, total = _planned(connection, arn, state)
        return _progress(connection, arn, state, total)

    while True:
        yield persist(look, f"execution {arn}", patience)
        if not running:
            return
        time.sleep(interval)


def ended(connection: Connection, arn: str) -> Ended:
    """Return how an execution ended."""
    described = connection.states.describe_execution(executionArn=arn)
    error, cause = described.get("error", ""), described.get("cause", "")
    output = described.get("output")
    return Ended(
        arn=arn,
        name=described["name"],
        status=described["status"],
        input=json.loads(described["input"]),
        summary=json.loads(output) if output else None,
        error=error,
        started=described.get("startDate"),
        reason=Failure(Error=error, Cause=cause).message if error or cause else "",
    )


def _planned(connection: Connection, arn: str, state: str) -> tuple[str, int]:
    """Return the state that the execution is in, and the number of ranks once it is planned."""
    total = 0
    pages = connection.states.get_paginator("get_execution_history").paginate(executionArn=arn)
    for page in pages:
        for event in page["events"]:
            state = event.get("stateEnteredEventDetails", {}).get("name", state)
            left = event.get("stateExitedEventDetails", {})
            if left.get("name") == "Initialize":
                output = json.loads(left.get("output") or "{}")
                total = output.get("planned_ranks", total)
    return state, total


def _progress(connection: Connection, arn: str, state: str, total: int) -> Progress:
    runs = connection.states.list_map_runs(executionArn=arn)["mapRuns"] if total else []
    if not runs:
        return Progress(state, total, 0, 0, 0)
    counts = connection.states.describe_map_run(mapRunArn=runs[-1]["mapRunArn"])["itemCounts"]
    failed = counts["failed"] + counts["timedOut"] + counts["aborted"]
    return Progress(state, total, counts["succeeded"], failed, counts["running"])
