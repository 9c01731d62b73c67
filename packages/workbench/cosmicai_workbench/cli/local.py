"""``cosmicai local``: a local cloud that stays up."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cosmicai_workbench.cli.options import Json
from cosmicai_workbench.defaults import CLOUD, STACK

app = typer.Typer(
    no_args_is_help=True,
    help="Keep a local cloud up: the whole application on this machine.",
    epilog="Example: `cosmicai local up`, `eval $(cosmicai local status --env) && aws s3 ls`",
)

Name = Annotated[str, typer.Option("--name", help="Name of the cloud: several may be up.")]


@app.command(epilog="Example: `cosmicai local up --concurrency 4 --parameter Engine=openvino`")
def up(
    name: Name = CLOUD,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Sandboxes per function. Default: the number of cores."),
    ] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--parameter", help="NAME=VALUE for the template.")
    ] = None,
    buckets: Annotated[
        list[str] | None, typer.Option("--bucket", help="A bucket to create.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="SAM template. Default: the application's own.")
    ] = None,
    stack: Annotated[str, typer.Option(help="Name of the stack.")] = STACK,
    reload: Annotated[
        bool, typer.Option("--reload", help="Take up edited code at a function's next call.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Enforce the roles' policies, and throttle calls that AWS would throttle.",
        ),
    ] = False,
    account_concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="With --strict: calls at once. Default: --concurrency."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a local cloud and leave it running.

    Prints the environment with which any AWS client (`aws`, boto3, another terminal's
    `cosmicai run --local`) talks to it. Its buckets are in memory: `down` forgets them.
    """
    from cosmicai.machine import available_cores

    from cosmicai_workbench.application import TEMPLATE
    from cosmicai_workbench.client.inputs import pairs
    from cosmicai_workbench.cloud.local import LocalCloud
    from cosmicai_workbench.cloud.state import Limits

    cores = concurrency or available_cores()
    cloud = LocalCloud(
        template=template or TEMPLATE,
        stack=stack,
        parameters=pairs(parameters or [], "--parameter"),
        concurrency=cores,
        buckets=buckets or ["cosmicai-data"],
        name=name,
        reload=reload,
        limits=Limits(
            roles=strict,
            account_concurrency=(account_concurrency or cores) if strict else None,
        ),
    )
    status = cloud.start(detached=True)
    if as_json:
        typer.echo(status.model_dump_json(indent=2))
        return
    typer.echo(f"Local cloud {name!r} is up: {status.endpoint}, stack {status.stack}")
    for key, value in status.outputs.items():
        typer.echo(f"  {key}: {value}")
    typer.echo("To use it from this shell: eval $(cosmicai local status --env)")


@app.command(
    epilog="Examples: `cosmicai local status`, `eval $(cosmicai local status --env) && aws s3 ls`"
)
def status(
    name: Name = CLOUD,
    env: Annotated[
        bool, typer.Option("--env", help="Print shell commands that point AWS clients at it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether a local cloud is up, and where. Exit code 1: it is not."""
    from cosmicai_workbench.cloud.local import STATE_ROOT
    from cosmicai_workbench.cloud.state import Status, state_folder

    found = Status.read(state_folder(STATE_ROOT, name))
    if found is None:
        typer.echo(f"cosmicai: no local cloud {name!r} is up", err=True)
        raise typer.Exit(1)
    if env:
        # Semicolons: the shell joins the lines of an unquoted $(...) by spaces.
        typer.echo("unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN;")
        for key, value in {**found.variables, "NO_PROXY": "127.0.0.1,localhost"}.items():
            typer.echo(f"export {key}={value};")
    elif as_json:
        typer.echo(json.dumps({**found.model_dump(), "environment": found.variables}, indent=2))
    else:
        typer.echo(f"{name}: {found.endpoint}, stack {found.stack}, process {found.process_id}")


@app.command(epilog="Example: `cosmicai local down`")
def down(name: Name = CLOUD) -> None:
    """Stop a local cloud and all of its sandboxes; its logs stay."""
    from cosmicai_workbench.cloud.local import STATE_ROOT, stop
    from cosmicai_workbench.cloud.state import state_folder

    if not stop(state_folder(STATE_ROOT, name)):
        typer.echo(f"cosmicai: no local cloud {name!r} is up", err=True)
        raise typer.Exit(1)
    typer.echo(f"Local cloud {name!r} is down")


@app.command(
    epilog="Exit code 1: the function raised. Example: `cosmicai local invoke initialize -e "
    "event.json --debug`"
)
def invoke(
    function: Annotated[
        str, typer.Argument(help="Name of the function, or of its folder: e.g. model_inference.")
    ],
    event: Annotated[Path, typer.Option("--event", "-e", help="JSON file of its event.")],
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="The cloud to use, which must be up. Default: `local`, if it is up."
        ),
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="SAM template, where no cloud is up.")
    ] = None,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Call it in this process, so that `breakpoint()` works."),
    ] = False,
) -> None:
    """Call a single function, in the local cloud that is up or in one for this call.

    Prints its answer; its log lines go to standard error.
    """
    from cosmicai.errors import InvalidInput, load_json

    from cosmicai_workbench.cloud.invoking import (
        cloud_for_a_call,
        find_function,
        invoke_here,
    )
    from cosmicai_workbench.cloud.invoking import invoke as invoke_in_sandbox
    from cosmicai_workbench.cloud.local import STATE_ROOT

    try:
        content = event.read_bytes()
        load_json(content)
    except OSError as error:
        raise InvalidInput(f"the event {event} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"the event {event} is not JSON: {error}") from error
    with cloud_for_a_call(name, STATE_ROOT, template) as folder:
        found = find_function(folder, function)
        if debug:
            typer.echo(json.dumps(invoke_here(folder, found, content), indent=2))
            return
        answer = invoke_in_sandbox(folder, found, content)
    for line in answer.lines:
        typer.echo(line, err=True)
    typer.echo(json.dumps(answer.payload, indent=2))
    if answer.failed:
        raise typer.Exit(1)
