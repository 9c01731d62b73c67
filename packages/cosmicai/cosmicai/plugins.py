"""What other installed packages declare, by entry points."""

from __future__ import annotations

from typing import TypeVar

from cosmicai.errors import InvalidInput

T = TypeVar("T")


def declared(group: str, kind: type[T]) -> list[T]:
    """Return the declarations that the entry points of a group refer to.

    Raises
    ------
    InvalidInput
        One of them refers to something else.
    """
    from importlib.metadata import entry_points

    found = []
    for entry in entry_points(group=group):
        declaration = entry.load()
        if not isinstance(declaration, kind):
            raise InvalidInput(
                f"entry point {entry.value!r} of {group}: {kind.__name__} expected, found "
                f"{type(declaration).__name__}"
            )
        found.append(declaration)
    return found
