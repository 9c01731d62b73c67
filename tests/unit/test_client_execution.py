"""Following an execution by what Step Functions tells, which a fake tells here."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cosmicai_workbench.client.connection import Connection
from cosmicai_workbench.client.execution import ended, watch
from cosmicai_workbench.performing import follow
from cosmicai_workbench.place import Place

ARN = "arn:aws:states:us-east-1:123456789012:execution:m:one"


class FakeStates:
    """Step Functions with one execution: a list of moments, one a look."""

    def __init__(self, moments: list[dict[str, Any]], end: dict[str, Any]) -> None:
        self._moments = iter(moments)
        self._now: dict[str, Any] = {}
        self._end = end

    def describe_execution(self, executionArn: str) -> dict[str, Any]:  # noqa: N803
        assert executionArn == ARN
        self._now = next(self._moments, self._end)
        return {"name": "one", "input": "{}", **self._now}

    def get_paginator(self, operation: str) -> "FakeStates":
        assert operation == "get_execution_history"
        return self

    def paginate(self, executionArn: str) -> Iterator[dict[str, Any]]:  # noqa: N803
        yield {"events": [{"stateEnteredEventDetails": {"name": "Initialize"}}]}
        if self._now.get("planned"):
            plan = {"name": "Initialize", "output": json.dumps({"planned_ranks": 4})}
            yield {"events": [{"stateExitedEventDetails": plan}]}

    def list_map_runs(self, executionArn: str) -> dict[str, Any]:  # noqa: N803
        return {"mapRuns": [{"mapRunArn": "map"}] if "counts" in self._now else []}

    def describe_map_run(self, mapRunArn: str) -> dict[str, Any]:  # noqa: N803
        zeros = dict.fromkeys(("succeeded", "failed", "timedOut", "aborted", "running"), 0)
        return {"itemCounts": zeros | self._now["counts"]}


def connection(moments: list[dict[str, Any]], **end: Any) -> Connection:
    return Connection(s3=None, states=FakeStates(moments, end), outputs={}, service=None)  # type: ignore[arg-type]


MOMENTS = [
    {"status": "RUNNING"},
    {"status": "RUNNING", "planned": True},
    {"status": "RUNNING", "planned": True, "counts": {"running": 2, "succeeded": 1}},
    {"status": "RUNNING", "planned": True, "counts": {"failed": 1, "timedOut": 1, "succeeded": 2}},
    {"status": "FAILED", "planned": True, "counts": {"failed": 2, "succeeded": 2}},
]


def test_progress_from_start_to_end() -> None:
    seen = list(watch(connection(MOMENTS), ARN, interval=0))
    assert [(each.total, each.succeeded, each.failed) for each in seen] == [
        (0, 0, 0),
        (4, 0, 0),
        (4, 1, 0),
        (4, 2, 2),
        (4, 2, 2),
    ]
    assert seen[0].state == "Initialize"


@pytest.mark.parametrize(
    ("moments", "bars"),
    [(MOMENTS, {4: 4}), ([{"status": "FAILED"}], {}), (MOMENTS[:1] + MOMENTS[4:], {4: 4})],
    ids=["watched", "refused at once", "over before the second look"],
)
def test_a_bar_is_advanced_to_the_end_however_soon_that_comes(
    moments: list[dict[str, Any]], bars: dict[int, int]
) -> None:
    advanced: dict[int, int] = {}

    @contextmanager
    def bar(_what: str, total: int, _unit: str) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            advanced[total] = advanced.get(total, 0) + count

        yield advance

    follow(Place(connection(moments), interval=0), ARN, bar=bar)
    assert advanced == bars


def test_a_failure_is_told_in_words_and_bad_input_apart() -> None:
    cause = json.dumps({"errorType": "InvalidInput", "errorMessage": "key 'x': unknown"})
    end = ended(connection([], status="FAILED", error="InvalidInput", cause=cause), ARN)
    assert (end.error, end.reason) == ("InvalidInput", "key 'x': unknown")
    assert end.is_refused
    lost = ended(connection([], status="FAILED", error="IncompleteResults", cause="3 ranks"), ARN)
    assert lost.reason == "3 ranks"
    assert not lost.is_refused


@pytest.mark.parametrize(("status", "partial"), [("SUCCEEDED", False), ("PARTIAL", True)])
def test_a_partial_result_is_never_passed_off_as_whole(status: str, partial: bool) -> None:
    end = ended(connection([], status="SUCCEEDED", output=json.dumps({"status": status})), ARN)
    assert end.is_partial is partial
