"""Log lines of a stack's steps, from CloudWatch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cosmicai.errors import InvalidInput

from cosmicai_workbench.client.connection import lookups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmicai_workbench.client.connection import Connection

_INTERVAL = 2.0


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


def lines(
    connection: Connection, since: timedelta, filter_pattern: str = "", *, follow: bool = False
) -> Iterator[Line]:
    """Yield the lines of all steps by time; with ``follow``, go on for ever.

    Raises
    ------
    InvalidInput
        If the stack tells no log groups.
    CosmicAIError
        If CloudWatch refuses.
    """
    groups = connection.outputs.get("LogGroups", "").split(",")
    if groups == [""]:
        raise InvalidInput("the stack has no output LogGroups: is it older than this command line?")
    client = connection.service("logs")
    start = int((datetime.now(UTC) - since).timestamp() * 1000)
    seen: set[str] = set()
    while True:
        found = []
        with lookups("log lines"):
            for group in groups:
                pages = client.get_paginator("filter_log_events").paginate(
                    logGroupName=group, startTime=start, filterPattern=filter_pattern
                )
                for event in (event for page in pages for event in page["events"]):
                    if event["eventId"] not in seen:
                        seen.add(event["eventId"])
                        when = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
                        found.append(Line(when, group, event["message"].rstrip()))
        yield from sorted(found)
        if not follow:
            return
        time.sleep(_INTERVAL)
