"""Waiting on AWS: what is waited out, what ends it, and what an execution's watcher is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.client.connection import Connection, LookupRefused
from cosmicai_workbench.client.waiting import WatchLost, persist
from cosmicai_workbench.performing import attach
from cosmicai_workbench.place import Place

if TYPE_CHECKING:
    from pathlib import Path


def refusal(code: str, status: int) -> ClientError:
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "DescribeExecution")


PASSING = [
    EndpointConnectionError(endpoint_url="https://states"),
    ReadTimeoutError(endpoint_url="https://states"),
    refusal("InternalServerError", 500),
    refusal("ThrottlingException", 400),
]
FINAL = [
    refusal("ExpiredTokenException", 400),
    refusal("AccessDeniedException", 400),
    refusal("ExecutionDoesNotExist", 400),
    NoCredentialsError(),
]


def failing(error: Exception, times: int) -> Any:
    left = [error] * times

    def call() -> str:
        if left:
            raise left.pop()
        return "answer"

    return call


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_what_may_pass_is_waited_out(error: Exception) -> None:
    assert persist(failing(error, 1), "it", patience=30) == "answer"


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_patience_ends(error: Exception) -> None:
    with pytest.raises(LookupRefused, match="it could not be looked up"):
        persist(failing(error, 1_000_000), "it", patience=0.2)


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_a_refusal_is_final(error: Exception) -> None:
    with pytest.raises(LookupRefused):
        persist(failing(error, 1), "it", patience=30)


class Refusing:
    """Step Functions that forgets who asks, at once or after a look."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def describe_execution(self, executionArn: str) -> dict[str, Any]:  # noqa: N803
        raise self._error


@pytest.mark.parametrize("error", [*FINAL, PASSING[0]], ids=lambda error: type(error).__name__)
def test_a_watch_that_is_lost_says_that_the_execution_goes_on(
    tmp_path: Path, error: Exception
) -> None:
    connection = Connection(
        s3=None,  # type: ignore[arg-type]
        states=Refusing(error),  # type: ignore[arg-type]
        outputs={},
        service=None,  # type: ignore[arg-type]
    )
    place = Place(connection, interval=0, stack="cosmicai")
    with pytest.raises(WatchLost, match="run --attach run-1 --stack cosmicai"):
        attach(place, "arn:aws:states:r:1:execution:m:run-1", bar=no_bar, runs=tmp_path)
