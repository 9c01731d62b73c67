"""One retry layer for what the client waits for: an execution's end, log lines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from cosmicai.errors import CosmicAIError
from cosmicai.storage import backoff

from cosmicai_workbench.client.connection import LookupRefused

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class WatchLost(CosmicAIError):
    """An execution can no longer be watched; it continues."""


def persist(call: Callable[[], T], what: str, patience: float) -> T:
    """Call AWS until it answers, or for ``patience`` seconds.

    A lost connection, throttling and errors of the service are waited out; refusals, such as
    expired credentials, are not.

    Parameters
    ----------
    what
        What is looked up, for the message.

    Raises
    ------
    LookupRefused
        If AWS refuses, or does not answer in time.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    end = time.monotonic() + patience
    attempt = 1
    while True:
        try:
            return call()
        except (BotoCoreError, ClientError) as error:
            if not _may_pass(error) or time.monotonic() >= end:
                raise LookupRefused(f"{what} could not be looked up: {error}") from error
        time.sleep(min(backoff(attempt), max(0.0, end - time.monotonic())))
        attempt += 1


def _may_pass(error: Exception) -> bool:
    from botocore.exceptions import ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as NoConnection

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(error.response.get("Error", {}).get("Code", ""))
        return status >= 500 or status == 429 or "Throttl" in code or code == "TooManyRequests"
    return isinstance(error, (HTTPClientError, NoConnection))
