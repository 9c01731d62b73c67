"""One comparison of what an execution needs with what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """A finding: an error stands in the way, a warning does not."""

    name: str
    level: Level
    finding: str


_UNSUPPORTED = {
    "UnknownOperationException",
    "UnknownOperation",
    "InvalidAction",
    "NotImplemented",
    "404",
    "501",
}
"""What emulators answer to operations that they lack."""


def asked(what: str, permission: str, call: Callable[[], T]) -> T | Check:
    """Ask AWS, or return a warning where it may not be asked.

    Parameters
    ----------
    what
        Name of the check that the answer is for.
    permission
        The IAM action that the question needs.

    Raises
    ------
    LookupRefused
        If AWS does not answer at all.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from cosmicai_workbench.client.connection import LookupRefused

    try:
        return call()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if "AccessDenied" in code or "Unauthorized" in code or status == 403:
            return Check(what, "warning", f"not checked: your credentials lack {permission}")
        if code in _UNSUPPORTED or (status in (404, 501) and not code):
            return Check(what, "warning", f"not checked: {permission} is not supported here")
        raise LookupRefused(f"{what} could not be looked up: {error}") from error
    except NotImplementedError:  # moto, of an operation that it lacks
        return Check(what, "warning", f"not checked: {permission} is not supported here")
    except BotoCoreError as error:
        raise LookupRefused(f"{what} could not be looked up: {error}") from error
