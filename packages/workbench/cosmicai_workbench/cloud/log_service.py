"""CloudWatch Logs of the local cloud: the log streams' files, read as AWS's clients ask for them.

``aws logs tail`` and boto3 find the groups that the functions name. Nothing is written through it.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cosmicai_workbench.cloud.answers import Fault
from cosmicai_workbench.cloud.records import LogReader
from cosmicai_workbench.cloud.template import ACCOUNT, REGION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cosmicai_workbench.cloud.records import Entry

TARGET = "Logs_20140328."
"""Prefix of the header that names an operation."""

_PAGE = 10_000
_CONDITION = re.compile(r"\s*\$\.([\w.]+)\s*=\s*(\"[^\"]*\"|[\w.*-]+)\s*")


class LogService:
    """Answers the operations that read.

    Parameters
    ----------
    groups
        Folder of the log streams of each log group.
    """

    def __init__(self, groups: Mapping[str, Path]) -> None:
        self._groups = groups
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "DescribeLogGroups": self._describe_groups,
            "DescribeLogStreams": self._describe_streams,
            "FilterLogEvents": self._filter_events,
            "GetLogEvents": self._get_events,
        }

    def call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request.

        Raises
        ------
        Fault
            If the operation or log group is unknown, or a parameter is not understood.
        """
        if operation not in self._operations:
            known = ", ".join(self._operations)
            raise Fault("UnknownOperationException", f"the local cloud knows {known} of logs")
        return self._operations[operation](request)

    def _describe_groups(self, request: dict[str, Any]) -> dict[str, Any]:
        prefix, part = request.get("logGroupNamePrefix", ""), request.get("logGroupNamePattern", "")
        return {
            "logGroups": [
                {"logGroupName": name, "arn": f"{_arn(name)}:*", "logGroupArn": _arn(name)}
                for name in sorted(self._groups)
                if name.startswith(prefix) and part.lower() in name.lower()
            ]
        }

    def _describe_streams(self, request: dict[str, Any]) -> dict[str, Any]:
        name = self._group(request)
        streams: dict[str, list[int]] = {}
        for _, event in self._events(name):
            streams.setdefault(event["logStreamName"], []).append(event["timestamp"])
        prefix = request.get("logStreamNamePrefix", "")
        found: list[dict[str, Any]] = [
            {
                "logStreamName": stream,
                "arn": f"{_arn(name)}:log-stream:{stream}",
                "firstEventTimestamp": times[0],
                "lastEventTimestamp": times[-1],
            }
            for stream, times in sorted(streams.items())
            if stream.startswith(prefix)
        ]
        if request.get("orderBy") == "LastEventTime":
            found.sort(key=lambda stream: stream["lastEventTimestamp"])
        if request.get("descending"):
            found.reverse()
        return {"logStreams": found[: request.get("limit", 50)]}

    def _filter_events(self, request: dict[str, Any]) -> dict[str, Any]:
        matches = _matcher(request.get("filterPattern", ""))
        streams = request.get("logStreamNames")
        prefix = request.get("logStreamNamePrefix", "")
        found = [
            event
            for text, event in self._between(request)
            if (streams is None or event["logStreamName"] in streams)
            and event["logStreamName"].startswith(prefix)
            and matches(text)
        ]
        start = _number(request.get("nextToken", "0"))
        end = start + min(request.get("limit", _PAGE), _PAGE)
        more = {"nextToken": str(end)} if end < len(found) else {}
        return {"events": found[start:end], **more}

    def _get_events(self, request: dict[str, Any]) -> dict[str, Any]:
        stream = request.get("logStreamName")
        found = [event for _, event in self._between(request) if event["logStreamName"] == stream]
        start = _number(request.get("nextToken", "0"))
        end = min(len(found), start + min(request.get("limit", _PAGE), _PAGE))
        return {
            "events": found[start:end],
            "nextForwardToken": str(end),
            "nextBackwardToken": str(start),
        }

    def _between(self, request: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        first, last = request.get("startTime", 0), request.get("endTime", float("inf"))
        events = self._events(self._group(request))
        return [(text, event) for text, event in events if first <= event["timestamp"] <= last]

    def _group(self, request: dict[str, Any]) -> str:
        given = request.get("logGroupName") or request.get("logGroupIdentifier", "")
        name = str(given).removeprefix(_arn(""))
        if name not in self._groups:
            raise Fault("ResourceNotFoundException", f"The log group {name} does not exist.")
        return name

    def _events(self, group: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the text and the event of each line, by time."""
        lines: dict[str, int] = {}
        found = []
        for entry in LogReader(self._groups[group]).read():
            number = lines[entry.stream] = lines.get(entry.stream, 0) + 1
            found.append((entry.text, _event(entry, number)))
        return found


def _event(entry: Entry, number: int) -> dict[str, Any]:
    milliseconds = int(datetime.fromisoformat(entry.timestamp).timestamp() * 1000)
    return {
        "logStreamName": entry.stream,
        "timestamp": milliseconds,
        "ingestionTime": milliseconds,
        "message": entry.text,
        "eventId": f"{entry.stream}-{number}",
    }


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return what a filter pattern matches: words, or JSON fields that equal values."""
    if not pattern.strip().startswith("{"):
        words = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', pattern)]
        return lambda text: all(word in text for word in words)
    conditions = {}
    for part in pattern.strip().strip("{}").split("&&"):
        found = _CONDITION.fullmatch(part)
        if found is None:
            raise Fault(
                "InvalidParameterException",
                f"the local cloud knows fields that equal values, joined by &&; found {part!r}",
            )
        conditions[found[1]] = found[2].strip('"')
    return lambda text: _has(text, conditions)


def _has(text: str, conditions: Mapping[str, str]) -> bool:
    try:
        document = json.loads(text)
    except ValueError:
        return False
    return isinstance(document, dict) and all(
        key in document and str(document[key]) == value for key, value in conditions.items()
    )


def _number(token: str) -> int:
    if not token.isdigit():
        raise Fault("InvalidParameterException", f"nextToken is not one of ours: {token!r}")
    return int(token)


def _arn(group: str) -> str:
    return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}"
