"""The local cloud's front door: Lambda calls go to the sandboxes, everything else to moto."""

from __future__ import annotations

import json
import re
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from cosmicai_workbench.cloud.pool import Pools

_INVOKE = re.compile(r"/2015-03-31/functions/([^/]+)/invocations")
_REQUEST_RESPONSE = "RequestResponse"
_MAX_PAYLOAD_BYTES = 6 * 1024 * 1024


class Gateway:
    """WSGI application in front of moto's.

    Parameters
    ----------
    pools
        The functions.
    moto
        Serves every other request.
    """

    def __init__(self, pools: Pools, moto: WSGIApplication) -> None:
        self._pools = pools
        self._moto = moto
        self._conditional = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if match := _INVOKE.fullmatch(unquote(environ["PATH_INFO"])):
            return self._invoke(match[1], environ, start)
        if environ["REQUEST_METHOD"] == "PUT" and _is_conditional(environ):
            # moto looks and writes in two steps; S3 lets one of two such writers win.
            with self._conditional:
                return _drained(self._moto(environ, start))
        return self._moto(environ, start)

    def _invoke(self, named: str, environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        name = named.rsplit(":function:", 1)[-1].split(":", 1)[0]
        payload = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"{}"
        if name not in self._pools:
            return _error(start, 404, "ResourceNotFoundException", f"Function not found: {named}")
        if len(payload) > _MAX_PAYLOAD_BYTES:
            return _error(
                start, 413, "RequestTooLargeException", f"Request of {len(payload)} bytes"
            )
        kind = environ.get("HTTP_X_AMZ_INVOCATION_TYPE", _REQUEST_RESPONSE)
        if kind != _REQUEST_RESPONSE:
            message = f"the local cloud serves {_REQUEST_RESPONSE} calls only, found {kind}"
            return _error(start, 400, "InvalidParameterValueException", message)
        try:
            outcome = self._pools.invoke(name, payload)
        except (OSError, RuntimeError) as error:  # no sandbox could be started
            return _error(start, 500, "ServiceException", str(error))
        headers = {"x-amzn-RequestId": outcome.report.request_id}
        if outcome.error is not None:
            headers["X-Amz-Function-Error"] = outcome.error
        return _answer(start, 200, outcome.payload, headers)


def _is_conditional(environ: WSGIEnvironment) -> bool:
    return "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ


def _drained(body: Iterable[bytes]) -> list[bytes]:
    """Read a response to its end, so that the work behind it is done."""
    try:
        return list(body)
    finally:
        close: Callable[[], Any] | None = getattr(body, "close", None)
        if close is not None:
            close()


def _error(start: StartResponse, status: int, kind: str, message: str) -> list[bytes]:
    body = json.dumps({"Type": "User" if status < 500 else "Server", "Message": message})
    return _answer(start, status, body.encode(), {"x-amzn-ErrorType": kind})


def _answer(
    start: StartResponse, status: int, body: bytes, headers: dict[str, str] | None = None
) -> list[bytes]:
    start(
        f"{status} {HTTPStatus(status).phrase}",
        [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            *(headers or {}).items(),
        ],
    )
    return [body]
