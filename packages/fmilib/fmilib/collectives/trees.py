"""The k-ary tree that group operations run along.

Ranks are numbered from the root, ``v = (rank - root) mod size``; the children of ``v`` are
``k·v + 1 … k·v + k``. With k = 2 it is the binary tree of pipelined broadcasts; with a k above
the group's size it is a star.
"""

from __future__ import annotations

import math
from typing import Final

# A small message costs its sender some 10 µs and takes 300 µs and more between functions, so a
# parent serves some thirty children in the time that one more level of the tree would cost.
SMALL_DEGREE: Final = 32
# A large message costs its sender its bandwidth; two children is the least that branches.
LARGE_DEGREE: Final = 2
# A parent reads its children's objects from a store one after the other, and each level waits
# for k reads and a write: k = 4 takes the fewest requests in a row.
STORE_DEGREE: Final = 4


def parent(rank: int, root: int, size: int, degree: int) -> int | None:
    """Return the parent's rank; None for the root."""
    place = (rank - root) % size
    return None if place == 0 else ((place - 1) // degree + root) % size


def children(rank: int, root: int, size: int, degree: int) -> list[int]:
    """Return the children's ranks, nearest first."""
    place = (rank - root) % size
    first = degree * place + 1
    return [(v + root) % size for v in range(first, min(first + degree, size))]


def depth(size: int, degree: int) -> int:
    """Return the levels below the root."""
    levels, place = 0, size - 1
    while place > 0:
        levels, place = levels + 1, (place - 1) // degree
    return levels


def levels(size: int, degree: int) -> int:
    """Return the rounds in which a tree of ``degree`` reaches ``size`` ranks, roughly."""
    return math.ceil(math.log(max(size, 2), degree))
