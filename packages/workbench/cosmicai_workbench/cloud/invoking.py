"""Call a single function: in a sandbox of a local cloud, or in this process for a debugger."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmicai.errors import InvalidInput

from cosmicai_workbench.application import TEMPLATE
from cosmicai_workbench.cloud.local import LocalCloud, server_environment
from cosmicai_workbench.cloud.pool import sandbox_environment, streams_folder
from cosmicai_workbench.cloud.records import LogReader
from cosmicai_workbench.cloud.session import local_session
from cosmicai_workbench.cloud.state import (
    LocalCloudError,
    Settings,
    Status,
    logs_folder,
    not_up,
    state_folder,
)
from cosmicai_workbench.cloud.template import load_stack
from cosmicai_workbench.defaults import CLOUD

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ_SECONDS = 1200
"""Longer than the longest time-out of a function, its start included."""


@dataclass(frozen=True)
class Answer:
    """What a function answered, and the log lines of the call; ``failed`` if it raised."""

    payload: Any
    lines: tuple[str, ...]
    failed: bool


@contextmanager
def cloud_for_a_call(name: str | None, root: Path, template: Path | None) -> Iterator[Path]:
    """Yield the state folder of the cloud of a name; without one, of a cloud for this call at need.

    Raises
    ------
    LocalCloudError
        If the cloud of the name is not up.
    """
    folder = state_folder(root, name or CLOUD)
    if Status.read(folder) is not None:
        yield folder
        return
    if name is not None:
        raise not_up(name)
    with LocalCloud(template=template or TEMPLATE, root=root, concurrency=1) as cloud:
        yield cloud.folder


def find_function(folder: Path, wanted: str) -> str:
    """Return the step of a function, the name of its folder; its full name will do as well.

    Raises
    ------
    InvalidInput
        If there is none; the message lists those that there are.
    """
    functions = _status(folder).functions
    for step, name in functions.items():
        if wanted.replace("-", "_") in (name.replace("-", "_"), step):
            return step
    raise InvalidInput(f"the stack has no function {wanted!r}; it has {', '.join(functions)}")


def invoke(folder: Path, step: str, event: bytes) -> Answer:
    """Call a function in a sandbox."""
    from botocore.config import Config

    status = _status(folder)
    reader = LogReader(streams_folder(logs_folder(folder), step))
    reader.read()
    client = local_session(status.variables).client(
        "lambda",
        endpoint_url=status.endpoint,
        config=Config(read_timeout=_READ_SECONDS, retries={"total_max_attempts": 1}),
    )
    answer = client.invoke(FunctionName=status.functions[step], Payload=event)
    return Answer(
        json.load(answer["Payload"]),
        tuple(entry.shown() for entry in reader.read()),
        "FunctionError" in answer,
    )


def invoke_here(folder: Path, step: str, event: bytes) -> Any:
    """Call a function's handler in this process, with the environment that a sandbox has.

    Its exceptions are the caller's, and ``breakpoint()`` in it opens the debugger. Neither memory
    nor time is limited.
    """
    from awslambdaric.lambda_context import LambdaContext

    status = _status(folder)
    template = Path(Settings.read(folder).template)
    stack = load_stack(template, name=status.stack, parameters=status.parameters)
    function = next(each for each in stack.functions if each.code.name == step)
    here = server_environment(os.environ)
    sandbox = sandbox_environment(function, status.variables, 1)
    os.environ.clear()
    os.environ.update({**here, **sandbox, "PATH": here.get("PATH", os.defpath)})
    sys.path[:0] = sandbox["PYTHONPATH"].split(os.pathsep)
    module, _, handler = function.handler.rpartition(".")
    deadline = int((time.time() + function.timeout) * 1000)
    context = LambdaContext(str(uuid.uuid4()), None, None, deadline, function.arn)
    return getattr(importlib.import_module(module), handler)(json.loads(event), context)


def _status(folder: Path) -> Status:
    status = Status.read(folder)
    if status is None:
        raise LocalCloudError(f"the local cloud of {folder} has ended")
    return status
