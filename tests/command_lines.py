"""Commands as pages and help texts have them: taken out, and parsed without being run."""

import re
from pathlib import Path
from typing import Any

import typer
from cosmicai_workbench.cli.main import app

ROOT: Any = typer.main.get_command(app)


def shell_lines(page: Path) -> list[str]:
    """Return the commands of a page's shell blocks, those in lists too, without their comments."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    text = "\n".join(blocks).replace("\\\n", " ")
    lines = (re.split(r"\s#(?:\s|$)", line)[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def parse(words: list[str]) -> tuple[str, ...]:
    """Parse the words after ``cosmicai`` to the end; return those that name command or group.

    Raises
    ------
    click.UsageError
        An option, value or argument is none.
    """
    command, context, path = ROOT, ROOT.context_class(ROOT), ()
    while hasattr(command, "get_command") and not (words and words[0].startswith("-")):
        if not words:
            return path
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, name
        path += (name,)
        context = command.context_class(command, parent=context)
    asks_help = "--help" in words
    command.make_context("cosmicai", words, parent=context.parent, resilient_parsing=asks_help)
    return path
