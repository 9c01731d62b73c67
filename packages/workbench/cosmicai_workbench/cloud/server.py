"""The process of a local cloud: ``python -m cosmicai_workbench.cloud.server STATE_FOLDER``.

It reads ``settings.json`` there, brings the stack up, and writes ``cloud.json`` when it is ready.
With a parent (``--tethered``) it ends when the parent closes its standard input, which the kernel
does for a parent that crashed; in any case it ends on SIGTERM and SIGINT. Its sandboxes are
tethered to it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmicai.errors import InvalidInput

from cosmicai_workbench.cloud.access import USER, Guard
from cosmicai_workbench.cloud.credentials import Keys
from cosmicai_workbench.cloud.definition import load_definition
from cosmicai_workbench.cloud.function_service import FunctionService
from cosmicai_workbench.cloud.gateway import Gateway
from cosmicai_workbench.cloud.log_service import LogService
from cosmicai_workbench.cloud.pool import Pools, streams_folder
from cosmicai_workbench.cloud.rendezvous import start_rendezvous
from cosmicai_workbench.cloud.roles import Roles
from cosmicai_workbench.cloud.session import local_session
from cosmicai_workbench.cloud.state import Settings, Status, clear, logs_folder, scratch_folder
from cosmicai_workbench.cloud.template import ACCOUNT, REGION, load_stack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from wsgiref.types import WSGIApplication

    from werkzeug.serving import BaseWSGIServer

    from cosmicai_workbench.cloud.template import Function, Stack


def main(arguments: list[str]) -> None:
    """Run a local cloud until it is stopped."""
    folder = Path(arguments[0])
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    if "--tethered" in arguments:
        threading.Thread(target=_wait_for_end_of_input, args=(ended,), daemon=True).start()
    settings = Settings.read(folder)
    rendezvous = start_rendezvous()
    stack = load_stack(
        Path(settings.template),
        name=settings.stack,
        parameters=settings.parameters,
        preferred={
            "MaxConcurrency": str(settings.concurrency),
            "FmiChannel": "direct",
            "ResultPrefix": "",  # no roles here, and the published inputs write elsewhere
            "FmiRendezvous": rendezvous.address,
            "FmiRedisUrl": os.environ.get("FMI_REDIS_URL", ""),
        },
        with_policies=settings.limits.roles,
    )
    scratch = str(scratch_folder(folder))
    # Where roles are not enforced there are none: all is done by the user's keys.
    keys = {name: Keys.new() for name in (USER, *stack.policies)}
    environment = {
        "HOME": scratch,
        "TMPDIR": scratch,
        "FMI_TOKEN": rendezvous.token,
        **settings.environment,
    }
    server, pools = _listen(stack, logs_folder(folder), settings, environment, keys)
    try:
        threading.Thread(target=server.serve_forever, daemon=True, name="server").start()
        endpoint = f"http://127.0.0.1:{server.port}"
        _create_resources(stack, endpoint, settings, keys[USER])
        status = Status(
            endpoint=endpoint,
            process_id=os.getpid(),
            stack=stack.name,
            region=REGION,
            concurrency=settings.concurrency,
            keys=keys[USER],
            parameters=stack.parameters,
            functions={each.code.name: each.name for each in stack.functions},
            outputs=stack.outputs,
        )
        status.write(folder)
        ended.wait()
    finally:
        pools.close()
        clear(folder)
    # Threads of the interpreter may still wait for their sandboxes; nothing of theirs is kept.
    os._exit(0)


def _wait_for_end_of_input(ended: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    ended.set()


def _listen(
    stack: Stack,
    logs: Path,
    settings: Settings,
    environment: Mapping[str, str],
    keys: Mapping[str, Keys],
) -> tuple[BaseWSGIServer, Pools]:
    """Bind a free port of the loopback interface and put functions and moto behind it."""
    # moto reads these when it is imported. Its own clients sign with keys that nothing accepts.
    os.environ |= {
        **Keys.new().variables(REGION),
        "MOTO_ACCOUNT_ID": ACCOUNT,
        "MOTO_DISABLE_GLOBAL_CORS": "true",
    }
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    from cosmicai_workbench.cloud import interpreter, storage

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    storage.enable()

    class Handler(MotoRequestHandler):
        # Small answers must not wait for the client's delayed acknowledgement (40 ms).
        disable_nagle_algorithm = True

    applications: dict[str, Any] = {}
    server = make_server(
        "127.0.0.1",
        0,
        lambda environ, start: applications["guarded"](environ, start),
        threaded=True,
        request_handler=Handler,
    )
    endpoint = f"http://127.0.0.1:{server.port}"

    def keys_of(name: str) -> Keys:
        return keys.get(name, keys[USER])

    def variables(function: Function) -> dict[str, str]:
        own = keys_of(function.name).variables(REGION)
        return {**own, "AWS_ENDPOINT_URL": endpoint, **environment}

    interpreter.enable(
        lambda role: keys_of(role.rpartition("/")[2]), endpoint, settings.limits.express_seconds
    )
    pools = Pools(
        stack.functions,
        variables,
        settings.concurrency,
        logs,
        reload=settings.reload,
        account_concurrency=settings.limits.account_concurrency,
    )
    groups = {each.log_group: streams_folder(logs, each.code.name) for each in stack.functions}
    gateway: WSGIApplication = Gateway(
        FunctionService(stack.functions, pools),
        LogService(groups),
        DomainDispatcherApplication(create_backend_app),
    )
    if settings.limits.roles:
        gateway = Roles(gateway, stack.policies)
    applications["guarded"] = Guard(gateway, keys, server.port)
    return server, pools


def _create_resources(stack: Stack, endpoint: str, settings: Settings, keys: Keys) -> None:
    """Create what the stack deploys: buckets, state machines, and the stack's own outputs."""
    session = local_session(keys.variables(REGION))
    machines = session.client("stepfunctions", endpoint_url=endpoint)
    for machine in stack.state_machines:
        machines.create_state_machine(
            name=machine.name,
            definition=load_definition(machine),
            roleArn=f"arn:aws:iam::{ACCOUNT}:role/{machine.name}",
        )
    # Of the stack itself, moto knows the buckets and the outputs, where clients find names.
    buckets = dict.fromkeys([*stack.buckets, *settings.buckets])
    session.client("cloudformation", endpoint_url=endpoint).create_stack(
        StackName=stack.name,
        TemplateBody=json.dumps(
            {
                "Resources": {
                    f"Bucket{number}": {
                        "Type": "AWS::S3::Bucket",
                        "Properties": {"BucketName": bucket},
                    }
                    for number, bucket in enumerate(buckets)
                },
                "Outputs": {key: {"Value": value} for key, value in stack.outputs.items()},
            }
        ),
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InvalidInput as error:
        sys.exit(f"{type(error).__name__}: {error}")
