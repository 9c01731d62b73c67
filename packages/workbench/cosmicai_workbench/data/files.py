"""Files that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def whole_text_file(path: Path) -> Iterator[TextIO]:
    """Open ``path`` for text (UTF-8, line ends as written); it appears when the block has ended.

    An error in the block leaves what was there before, and nothing beside it.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
