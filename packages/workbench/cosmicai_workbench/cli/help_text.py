"""What ``--help`` shows: the texts of every command as they are written, but for code in backticks.

Typer would take ``<time>`` and ``[default: …]`` in a text for markup and leave it out, and show a
type for options that take no value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typer.core import TyperCommand, TyperGroup

_CODE = re.compile(r"(`[^`]*`)")
_MARKUP = re.compile(r"[\\<>*_\[\]]")


def plain(command: TyperCommand | TyperGroup | Any, parent: Any = None) -> None:
    """Make a command, and those below it, show their texts as they are written.

    Parameters
    ----------
    parent
        Context of the group that the command belongs to.
    """
    context = command.context_class(command, parent=parent, **command.context_settings)
    command.rich_markup_mode = "markdown"
    command.help = _escaped(command.help)
    command.epilog = _escaped(command.epilog)
    for parameter in command.get_params(context):
        if hasattr(parameter, "help"):
            parameter.help = _escaped(parameter.help)
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for each in getattr(command, "commands", {}).values():
        plain(each, context)


def _escaped(text: str | None) -> str | None:
    """Return Markdown that shows a text as it is, code in backticks as code."""
    if text is None:
        return None
    parts = _CODE.split(text)
    parts[::2] = [_MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)
