"""The last log lines of each rank, kept in the run folder (``logs.jsonl``)."""

import json
from typing import TYPE_CHECKING

from cosmicai.errors import InvalidInput, load_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FILE_NAME = "logs.jsonl"
"""One JSON object per rank, ``{"rank": …, "lines": […]}``."""
_MOST_LINES = 60
_MOST_CHARACTERS = 600
_MOST_BYTES = 8 * 2**20


def write_logs(run: "Path", lines: "Mapping[int, Sequence[str]]") -> None:
    """Write the last lines of each rank into a run folder, up to a bound."""
    written = 0
    with (run / FILE_NAME).open("w", encoding="utf-8") as file:
        for rank, found in sorted(lines.items()):
            kept = [_shortened(line) for line in found[-_MOST_LINES:]]
            text = json.dumps({"rank": rank, "lines": kept}) + "\n"
            written += len(text)
            if written > _MOST_BYTES:
                return
            file.write(text)


def read_logs(run: "Path") -> dict[int, list[str]]:
    """Return rank → its last lines; nothing if the folder has no such file.

    Raises
    ------
    InvalidInput
        If the file is there but a line of it is not what it should be; the message names it.
    """
    source = run / FILE_NAME
    if not source.is_file():
        return {}
    found: dict[int, list[str]] = {}
    for number, text in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = load_json(text)
            found[int(row["rank"])] = [str(line) for line in row["lines"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{source}, line {number}: {error}") from None
    return found


def _shortened(line: str) -> str:
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]} …"
