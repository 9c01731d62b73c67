"""Changes to moto's Step Functions interpreter, each for a measured need.

They are here, in ``map_runs.py`` and in ``storage.py``, and nowhere else, so that a newer moto can
be checked against these files. They reach into moto's internals, hence its exact pin.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

from cosmicai_workbench.cloud import map_runs
from cosmicai_workbench.cloud.session import local_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from cosmicai_workbench.cloud.credentials import Keys

_CONNECT_SECONDS = 10
_READ_SECONDS = 3600
"""Longer than any function may take, its wait for a sandbox included."""
_CONNECTIONS = 64


def enable(keys: Callable[[str], Keys], endpoint: str, express_seconds: int) -> None:
    """Turn the interpreter on and apply the changes; call once, before the server starts.

    Parameters
    ----------
    keys
        Returns what the interpreter signs its calls with, for the ARN of a state machine's role.
    endpoint
        URL of the local cloud, which it calls.
    express_seconds
        How long an EXPRESS child of a Map may take.
    """
    from moto.core.config import default_user_config

    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    _share_clients(keys, endpoint)
    map_runs.enable(express_seconds)
    _name_executions()
    _give_result_writer_the_input()
    _write_json_bodies()
    _end_at_once()


def _share_clients(keys: Callable[[str], Keys], endpoint: str) -> None:
    """Make one boto3 client a service and role, with the role's keys, instead of one a task.

    A client costs some 10 ms to make and a new connection to use, for every rank; and the default
    session that makes it is not safe to share between the threads of a Map. moto's signs with keys
    of its own.
    """
    from botocore.config import Config

    # The parser imports every kind of task, each of which holds the function by name.
    from moto.stepfunctions.parser.asl.utils import boto_client

    clients: dict[tuple[str, str, str], Any] = {}
    lock = threading.Lock()

    def client(region: str, service: str, state_credentials: Any) -> Any:
        role = state_credentials.role_arn
        with lock:
            if (region, service, role) not in clients:
                session: Any = local_session(keys(role).variables(region))
                clients[region, service, role] = session.client(
                    service,
                    endpoint_url=endpoint,
                    config=Config(
                        parameter_validation=False,
                        retries={"total_max_attempts": 1},
                        connect_timeout=_CONNECT_SECONDS,
                        read_timeout=_READ_SECONDS,
                        max_pool_connections=_CONNECTIONS,
                    ),
                )
            return clients[region, service, role]

    original = boto_client.boto_client_for
    for module in list(sys.modules.values()):
        if getattr(module, "boto_client_for", None) is original:
            module.boto_client_for = client  # type: ignore[attr-defined]


def _name_executions() -> None:
    """Give an execution that is started without a name one of its own, as Step Functions does.

    moto calls all of them ``None``, and takes the second for the first.
    """
    from moto.stepfunctions.parser.models import StepFunctionsParserBackend as Backend

    start = Backend.start_execution

    def start_execution(
        self: Any, state_machine_arn: str, name: str | None = None, *arguments: Any, **options: Any
    ) -> Any:
        return start(self, state_machine_arn, name or str(uuid.uuid4()), *arguments, **options)

    Backend.start_execution = start_execution  # type: ignore[method-assign]


def _give_result_writer_the_input() -> None:
    """Resolve a ResultWriter's paths against the Map's input, as Step Functions does.

    moto resolves them against the list of results.
    """
    from moto.stepfunctions.parser.asl.component.state.exec.state_map.result_writer import (
        result_writer_decl as module,
    )

    def eval_body(self: Any, env: Any) -> None:
        results = env.stack.pop()
        env.stack.append(env.states.get_input())
        self.parargs.eval(env=env)
        parameters = env.stack.pop()
        env.stack[-1] = results
        env.stack.append(parameters)
        self.resource_eval.eval_resource(env=env)

    module.ResultWriter._eval_body = eval_body  # type: ignore[method-assign]


def _write_json_bodies() -> None:
    """Write the ``Body`` of an SDK task as JSON where it is an object, as Step Functions does.

    moto hands the object to boto3, which takes bytes only.
    """
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
        state_task_service_aws_sdk as module,
    )

    def normalise_parameters(_self: Any, parameters: dict[str, Any], *_: Any, **__: Any) -> None:
        if isinstance(parameters.get("Body"), dict):
            parameters["Body"] = json.dumps(parameters["Body"]).encode()

    task = module.StateTaskServiceAwsSdk
    task._normalise_parameters = normalise_parameters  # type: ignore[method-assign, assignment]


def _end_at_once() -> None:
    """Let no one see an execution that has ended but has no output, error or cause yet.

    The interpreter sets the status first and the rest after it, while another thread may describe
    the execution: a success without output, or a failure without a reason.
    """
    from moto.stepfunctions.parser.backend import execution

    lock = threading.Lock()

    def locked(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any) -> Any:
            with lock:
                return method(*arguments)

        return call

    worker = execution.BaseExecutionWorkerCommunication
    worker._reflect_execution_status = locked(worker._reflect_execution_status)  # type: ignore[method-assign]
    described = locked(execution.Execution.to_describe_output)
    execution.Execution.to_describe_output = described  # type: ignore[method-assign]
