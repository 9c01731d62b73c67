"""The way to the services: Lambda and the logs are the local cloud's own, the others moto's."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from cosmicai_workbench.cloud.answers import Fault, answer_fault, answer_json
from cosmicai_workbench.cloud.log_service import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from cosmicai_workbench.cloud.function_service import FunctionService
    from cosmicai_workbench.cloud.log_service import LogService


class Gateway:
    """WSGI application in front of moto's.

    Parameters
    ----------
    functions, logs
        The local cloud's own services.
    moto
        Serves every other request.
    """

    def __init__(self, functions: FunctionService, logs: LogService, moto: WSGIApplication) -> None:
        self._functions = functions
        self._logs = logs
        self._moto = moto
        self._conditional = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            if self._functions.serves(environ):
                return self._functions(environ, start)
            target = environ.get("HTTP_X_AMZ_TARGET", "")
            if target.startswith(TARGET):
                body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                answered = self._logs.call(target.removeprefix(TARGET), json.loads(body or b"{}"))
                return answer_json(start, answered)
        except Fault as fault:
            return answer_fault(start, fault)
        if environ["REQUEST_METHOD"] == "PUT" and _is_conditional(environ):
            # moto looks and writes in two steps; S3 lets one of two such writers win.
            with self._conditional:
                return _drained(self._moto(environ, start))
        return self._moto(environ, start)


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
