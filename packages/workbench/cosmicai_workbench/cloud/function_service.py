"""Lambda of the local cloud: its functions as AWS describes them, and their invocations."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from cosmicai_workbench.cloud.answers import Fault, answer, answer_json
from cosmicai_workbench.cloud.pool import Throttled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from wsgiref.types import StartResponse, WSGIEnvironment

    from cosmicai_workbench.cloud.pool import Pools
    from cosmicai_workbench.cloud.template import Function

_PATH = re.compile(
    r"/(?:2015-03-31|2019-09-30)/functions"
    r"(?:/([^/]+)(/invocations|/configuration|/concurrency)?)?/?"
)
_REQUEST_RESPONSE = "RequestResponse"
_MAX_PAYLOAD_BYTES = 6 * 1024 * 1024


class FunctionService:
    """Serves Lambda's API for the functions of a stack.

    Parameters
    ----------
    functions
        The functions.
    pools
        Their sandboxes.
    """

    def __init__(self, functions: Sequence[Function], pools: Pools) -> None:
        self._functions = {each.name: each for each in functions}
        self._pools = pools

    @staticmethod
    def serves(environ: WSGIEnvironment) -> bool:
        """Say whether a request is one of Lambda's."""
        return _PATH.fullmatch(unquote(environ["PATH_INFO"])) is not None

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        """Answer one request.

        Raises
        ------
        Fault
            If the function is unknown, or cannot be called so.
        """
        path = _PATH.fullmatch(unquote(environ["PATH_INFO"]))
        assert path is not None  # noqa: S101 - see `serves`
        named, action = path.groups()
        if named is None:
            found = [_configuration(each) for each in self._functions.values()]
            return answer_json(start, {"Functions": found})
        # A name, a qualified name or an ARN; here a function has one version.
        name = named.rsplit(":function:", 1)[-1].split(":", 1)[0]
        if name not in self._functions:
            raise Fault("ResourceNotFoundException", f"Function not found: {named}", 404)
        if action == "/invocations":
            return self._invoke(name, environ, start)
        if action == "/concurrency":
            return answer_json(start, {})  # the local cloud reserves none
        configuration = _configuration(self._functions[name])
        if action == "/configuration":
            return answer_json(start, configuration)
        code = {"Location": self._functions[name].code.as_uri()}
        return answer_json(start, {"Configuration": configuration, "Code": code})

    def _invoke(self, name: str, environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        payload = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"{}"
        if len(payload) > _MAX_PAYLOAD_BYTES:
            raise Fault("RequestTooLargeException", f"Request of {len(payload)} bytes", 413)
        kind = environ.get("HTTP_X_AMZ_INVOCATION_TYPE", _REQUEST_RESPONSE)
        if kind != _REQUEST_RESPONSE:
            raise Fault(
                "InvalidParameterValueException",
                f"the local cloud serves {_REQUEST_RESPONSE} calls only, found {kind}",
            )
        try:
            outcome = self._pools.invoke(name, payload)
        except Throttled as error:
            raise Fault("TooManyRequestsException", str(error), 429) from error
        except (OSError, RuntimeError) as error:  # no sandbox could be started
            raise Fault("ServiceException", str(error), 500) from error
        headers = {"x-amzn-RequestId": outcome.report.request_id}
        if outcome.error is not None:
            headers["X-Amz-Function-Error"] = outcome.error
        return answer(start, outcome.payload, headers=headers)


def _configuration(function: Function) -> dict[str, Any]:
    return {
        "FunctionName": function.name,
        "FunctionArn": function.arn,
        "Handler": function.handler,
        "Runtime": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "Timeout": function.timeout,
        "MemorySize": function.memory_size,
        "Environment": {"Variables": function.environment},
        "LoggingConfig": {"LogFormat": "JSON", "LogGroup": function.log_group},
        "PackageType": "Zip",
        "Version": "$LATEST",
        "State": "Active",
        "LastUpdateStatus": "Successful",
    }
