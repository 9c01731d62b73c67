"""Read an execution's input from a file, with keys overridden on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmicai.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_input(source: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the input in a JSON file (``-`` for standard input), overridden by KEY=VALUE pairs.

    Raises
    ------
    InvalidInput
        If it cannot be read, is no JSON object, or a pair has no equals sign.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
        content = json.loads(text)
    except OSError as error:
        raise InvalidInput(f"the input {source} cannot be read: {error}") from error
    except ValueError as error:
        raise InvalidInput(f"the input {source} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"the input {source} must be a JSON object, found {text[:40]!r}")
    return {**content, **{key: _value(text) for key, text in pairs(overrides, "--set").items()}}


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """Split KEY=VALUE texts.

    Raises
    ------
    InvalidInput
        Naming the option, if a text has no equals sign or no key.
    """
    result = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidInput(f"{option} expects KEY=VALUE, found {text!r}")
        result[key] = value
    return result


def _value(text: str) -> Any:
    """Read a value as JSON where it is, as plain text where it is not."""
    try:
        return json.loads(text)
    except ValueError:
        return text
