"""Answers of the local cloud's own services, in the form that AWS's clients read."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from wsgiref.types import StartResponse


class Fault(Exception):
    """A request that a service refuses: AWS's name for why, the HTTP status, and a message."""

    def __init__(self, kind: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


def answer(
    start: StartResponse,
    body: bytes,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> list[bytes]:
    """Answer with JSON that is written already."""
    start(
        f"{status} {HTTPStatus(status).phrase}",
        [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            *(headers or {}).items(),
        ],
    )
    return [body]


def answer_json(start: StartResponse, document: Any) -> list[bytes]:
    """Answer with a document."""
    return answer(start, json.dumps(document).encode())


def answer_fault(start: StartResponse, fault: Fault) -> list[bytes]:
    """Answer with an error, under the keys that any of AWS's JSON protocols looks for."""
    document = {
        "__type": fault.kind,
        "Type": "User" if fault.status < 500 else "Server",
        "Message": str(fault),
        "message": str(fault),
    }
    return answer(
        start,
        json.dumps(document).encode(),
        status=fault.status,
        headers={"x-amzn-ErrorType": fault.kind},
    )
