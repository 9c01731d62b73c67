"""Entry of the ``cosmicai`` command: the list of command groups, and how errors become exit codes.

A group is a module of this package with a ``typer.Typer`` called ``app``. It is imported only when
its command is asked for, or for the list that ``--help`` prints; so it may import heavy libraries
inside its commands only. A group of one command needs an ``@app.callback()`` if it is to be called
as ``cosmicai GROUP COMMAND``; without one it is called as ``cosmicai GROUP``.
"""

import errno
import io
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import cosmicai
import typer
from cosmicai.errors import (
    CosmicAIError,
    FmiTimeout,
    IncompleteResults,
    TransientStorageError,
)
from typer.core import TyperGroup

from cosmicai_workbench.cli.help_text import plain
from cosmicai_workbench.cli.interruption import answering
from cosmicai_workbench.extras import libraries_named

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUPS: tuple[str, ...] = (
    "demo",
    "predict",
    "run",
    "watch",
    "deploy_check",
    "resume",
    "local",
    "logs",
    "data",
    "model",
    "plan",
    "sweep",
    "report",
    "results",
    "compare",
    "tune",
)
"""Modules of this package, in the order of ``--help``; an underscore becomes a hyphen."""

ALIASES = {"infer": "predict"}
"""Earlier names of commands: they work, and `--help` does not list them."""

RUN_FAILED = 1
BAD_INPUT = 2
WATCH_LOST = 4
_RUN_ERRORS = (IncompleteResults, FmiTimeout, TransientStorageError)


_NAMED_WRONGLY = {
    errno.EACCES,
    errno.EEXIST,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""Errors of the operating system about files that somebody named."""


class _LazyGroups(TyperGroup):
    """A group whose commands are the modules of ``GROUPS``, imported when they are looked up."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature is typer's
        return [name.replace("_", "-") for name in GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in self.list_commands(ctx):
            return None
        module = import_module(f"{__package__}.{name.replace('-', '_')}")
        group: typer.Typer = module.app
        # Only the root offers to install shell completion.
        group._add_completion = False
        command = typer.main.get_command(group)
        command.name = cmd_name
        plain(command, ctx)
        return command


app = typer.Typer(
    cls=_LazyGroups,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cosmicai {cosmicai.__version__}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 success; 1 the run failed; 2 bad usage or input; 130 interrupted; "
    "a command's own codes are in its --help."
)
def root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Predict the redshifts of survey-sized sets of galaxies with serverless functions.

    Start with `cosmicai demo`: real SDSS galaxies through the whole system, on this machine.
    """


def exit_code(error: CosmicAIError) -> int:
    """Tell a run that failed (1), or was lost sight of (4), from bad input (2)."""
    from cosmicai_workbench.client.waiting import WatchLost

    if isinstance(error, WatchLost):
        return WATCH_LOST
    return RUN_FAILED if isinstance(error, _RUN_ERRORS) else BAD_INPUT


def _system_error(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return f"a text is not in UTF-8, which was expected: {error}"
    from cosmicai_workbench.files import explained

    return explained(error)


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments
        Words of the command line; ``sys.argv[1:]`` by default.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no result is lost to an encoding
    command = typer.main.get_command(app)
    plain(command)
    try:
        with answering(), libraries_named():
            command.main(args=arguments, prog_name="cosmicai")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except CosmicAIError as error:
        typer.echo(f"cosmicai: {type(error).__name__}: {error}", err=True)
        return exit_code(error)
    except (OSError, UnicodeError) as error:
        typer.echo(f"cosmicai: {_system_error(error)}", err=True)
        return BAD_INPUT if getattr(error, "errno", None) in _NAMED_WRONGLY else RUN_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
