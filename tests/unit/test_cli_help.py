"""What --help says: texts as they are written, and examples that the command line takes."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from command_lines import ROOT, parse
from cosmicai_workbench.cli import main as cli

CODE = re.compile(r"`(cosmicai [^`]*)`")


def commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that does something, with its words."""
    context = group.context_class(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(commands(ROOT))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_and_every_example_parses(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    texts = [command.help or "", command.epilog or "", *(p.help or "" for p in command.params)]
    named = set()
    for code in CODE.findall("\n".join(texts)):
        for line in re.split(r"&&|;", code.replace("\\", "")):
            words = shlex.split(re.sub(r"[>|].*|\$\(.*?\)", "", line))
            if words[:1] == ["cosmicai"] and len(words) > len(path):
                named.add(parse(words[1:]))
    assert path in named


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_the_texts_as_they_are_written(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert cli.main([*path, "--help"]) == 0
    shown = squeezed(capsys.readouterr().out)
    assert "<bool>" not in shown
    command = COMMANDS[path]
    for text in (command.help, command.epilog, *(p.help for p in command.params)):
        assert squeezed(re.sub(r"\\(.)", r"\1", text or "").replace("`", "")) in shown


def squeezed(text: str) -> str:
    """Return a text without the spaces and lines that a terminal's width decides."""
    return re.sub(r"[\s│]+", "", text)
