"""Partitions to ranks: pure functions, no storage, no clock."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Final, TypeVar

from cosmicai.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

T = TypeVar("T")

STAGING: Final = ".cosmicai-partitions-"
"""What the name of a folder begins with in which partitions wait to replace others around it."""
OLD: Final = "old"
"""Folder in that one that takes those others up, while they are replaced."""

_MAX_GAPS_NAMED = 10
_DIGITS = re.compile(r"(\d+)")
_NUMBERED = re.compile(r"(?:.*/)?(\d+)\.pt")


def natural_key(key: str) -> tuple[tuple[int, str] | tuple[int, str, int], ...]:
    """Return a sort key by which ``2.pt`` comes before ``10.pt``.

    Runs of digits compare as numbers, everything else as text; numbers come before text.
    Equal numbers written differently (``1.pt``, ``01.pt``) compare by their text.
    """
    parts: list[tuple[int, str] | tuple[int, str, int]] = []
    for position, part in enumerate(_DIGITS.split(key)):
        if position % 2:
            parts.append((int(part), part))
        elif part:
            parts.append((-1, part))
    return tuple(parts)


def is_partition(key: str) -> bool:
    """Say whether a key names a partition: it ends in ``.pt``, and is not a hidden file.

    macOS leaves a ``._1.pt`` beside every ``1.pt`` that it copies to another file system.
    """
    return key.endswith(".pt") and not key.rpartition("/")[2].startswith(".")


def partition_files(folder: Path) -> list[Path]:
    """Return the partitions in a local folder, in natural order; none where there is no folder.

    Raises
    ------
    InvalidInput
        Some of them are being replaced, or were when a process was killed: what is there may be of
        two data sets.
    """
    if any(folder.glob(f"{STAGING}*/{OLD}")):
        raise InvalidInput(
            f"{folder}: its partitions are being replaced, or were when that was interrupted; run "
            "the command that writes them again, which completes or undoes it"
        )
    found = (path for path in folder.glob("*.pt") if is_partition(path.name))
    return sorted(found, key=lambda path: natural_key(path.name))


def describe_gaps(keys: Iterable[str]) -> str | None:
    """Report the gaps in the numbering of ``1.pt, 2.pt, …`` in one sentence, or None.

    Only what is missing between the lowest and the highest number is a gap.
    """
    numbers = sorted({int(match[1]) for key in keys if (match := _NUMBERED.fullmatch(key))})
    gaps = [
        (before + 1, after - 1)
        for before, after in itertools.pairwise(numbers)
        if after - before > 1
    ]
    if not gaps:
        return None
    missing = sum(last - first + 1 for first, last in gaps)
    named = [f"{first}.pt" if first == last else f"{first}.pt–{last}.pt" for first, last in gaps]
    if len(named) > _MAX_GAPS_NAMED:
        named = [*named[:_MAX_GAPS_NAMED], f"and {len(gaps) - _MAX_GAPS_NAMED} more gaps"]
    return f"{missing} partitions are missing in the numbering: {', '.join(named)}"


def share(partitions: Sequence[T], world_size: int) -> list[Sequence[T]]:
    """Deal consecutive partitions out to ranks, as evenly as possible.

    The first ``len(partitions) % world_size`` ranks get one more than the others; where there
    are more ranks than partitions, the last ranks get none.

    Raises
    ------
    ValueError
        If ``world_size`` is below 1.
    """
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1, found {world_size}")
    size, more = divmod(len(partitions), world_size)
    shares = []
    start = 0
    for rank in range(world_size):
        end = start + size + (rank < more)
        shares.append(partitions[start:end])
        start = end
    return shares
