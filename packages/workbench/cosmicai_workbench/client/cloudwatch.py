"""Log lines of a stack's steps, from CloudWatch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cosmicai.errors import InvalidInput

from cosmicai_workbench.client.connection import lookups
from cosmicai_workbench.client.waiting import persist

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmicai_workbench.client.connection import Connection

_INTERVAL = 2.0
_LATE_MILLISECONDS = 60_000
"""How far behind the newest line of a group another one may still appear."""


@dataclass(frozen=True, order=True)
class Line:
    """One line: when, from which log group, and its text."""

    time: datetime
    group: str
    text: str


def pattern(execution: str | None, rank: int | None) -> str:
    """Return the filter pattern for lines of an execution, or of one of its ranks."""
    terms = [f'$.execution = "{execution}"'] if execution else []
    terms += [f"$.rank = {rank}"] if rank is not None else []
    return "{ " + " && ".join(terms) + " }" if terms else ""


def log_groups(connection: Connection) -> list[str]:
    """Return the log groups of a stack's steps and of its state machine.

    Raises
    ------
    InvalidInput
        If the stack names no log groups.
    """
    groups = connection.outputs.get("LogGroups", "").split(",")
    if groups == [""]:
        raise InvalidInput("the stack has no output LogGroups: is it older than this command line?")
    with lookups("the state machine's log group"):
        machine = connection.states.describe_state_machine(stateMachineArn=connection.state_machine)
    for each in machine.get("loggingConfiguration", {}).get("destinations", []):
        arn = each.get("cloudWatchLogsLogGroup", {}).get("logGroupArn", "")
        groups.append(arn.removesuffix(":*").rpartition(":log-group:")[2])
    return [group for group in groups if group]


def lines(
    connection: Connection,
    since: timedelta,
    filter_pattern: str = "",
    *,
    follow: bool = False,
    patience: float = 0.0,
) -> Iterator[Line]:
    """Yield the lines of all steps by time; with ``follow``, go on for ever.

    Raises
    ------
    InvalidInput
        If the stack names no log groups.
    LookupRefused
        If CloudWatch refuses, or does not answer for ``patience`` seconds.
    """
    client = connection.service("logs")
    start = datetime.now(UTC) - since
    tails = [_Tail(client, group, start, filter_pattern) for group in log_groups(connection)]
    while True:
        yield from sorted(
            line for tail in tails for line in persist(tail.read, f"log {tail.group}", patience)
        )
        if not follow:
            return
        time.sleep(_INTERVAL)


def _identity(event: Any) -> str:
    """Return what identifies an event; its ID is optional in the service's model."""
    fallback = f"{event['logStreamName']} {event['timestamp']} {event['message']}"
    return str(event.get("eventId", fallback))


class _Tail:
    """The lines of one log group that were not read yet."""

    def __init__(self, client: Any, group: str, start: datetime, pattern: str) -> None:
        self.group = group
        self._client, self._pattern = client, pattern
        self._start = _milliseconds(start)
        self._seen: dict[str, int] = {}

    def read(self) -> list[Line]:
        """Return what came since the last call; lines may arrive late, and out of order."""
        pages = self._client.get_paginator("filter_log_events").paginate(
            logGroupName=self.group, startTime=self._start, filterPattern=self._pattern
        )
        new = {
            identity: event
            for page in pages
            for event in page["events"]
            if (identity := _identity(event)) not in self._seen
        }
        self._seen |= {key: event["timestamp"] for key, event in new.items()}
        if self._seen:
            self._start = max(self._start, max(self._seen.values()) - _LATE_MILLISECONDS)
            self._seen = {key: when for key, when in self._seen.items() if when >= self._start}
        return [
            Line(
                datetime.fromtimestamp(event["timestamp"] / 1000, UTC),
                self.group,
                event["message"].rstrip(),
            )
            for event in new.values()
        ]


def _milliseconds(when: datetime) -> int:
    return int(when.timestamp() * 1000)
