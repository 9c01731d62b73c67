"""Consecutive ranks in groups, for large reductions that go from group to group.

In a group, member ``j`` folds slice ``j`` of all its members' values; the groups follow one
another, each going on from the previous one's partial results. So a value is folded from left to
right over all ranks, with as few bytes as ring or Rabenseifner move, and a rank talks to the
members of its group and to its neighbours in two others, not to all.

Messages of N ranks in g groups, the smallest of which has c ranks (N a multiple of g):
``N(c-1)`` for the slices, ``c(g-1)`` along the chain; then for reduce ``c`` to the root (one less
if it has a part itself), for allreduce ``c(g-1)`` to the groups and ``N(c-1)`` within them, for
scan ``N(c-1)`` within them.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fmilib.call import Call

# Few enough that a rank's messages stay large, many enough that the chain stays short.
GROUP_RANKS: Final = 8


def bounds(size: int, group_ranks: int | None) -> list[int]:
    """Return where the groups of ``size`` ranks begin, and the end of the last.

    Groups hold ``group_ranks`` or a few more; None makes one group of all. With very many
    ranks, groups and chain grow alike.
    """
    least = size if group_ranks is None else max(group_ranks, math.isqrt(size))
    count = max(1, size // least)
    return [size * i // count for i in range(count + 1)]


class Chain:
    """The groups of an operation's ranks, and this rank's place among them.

    Parameters
    ----------
    call : Call
    group_ranks : int or None
        Least ranks of a group; None for one group of all. Groups differ by one rank at most;
        the rank that a larger one has on top owns no slice.

    Attributes
    ----------
    owners : int
        Slices, each of which has one owner in every group.
    group : Call
        The operation among the ranks of this rank's group.
    column : Call or None
        The operation among those who own this rank's slice, in the order of the chain; None if
        it owns none.
    last_owners : range
        Places of the last group's owners, who have the whole fold.
    """

    __slots__ = ("column", "group", "last_owners", "owners")

    def __init__(self, call: Call, group_ranks: int | None) -> None:
        *starts, _ = limits = bounds(call.size, group_ranks)
        self.owners = min(b - a for a, b in itertools.pairwise(limits))
        self.last_owners = range(starts[-1], starts[-1] + self.owners)
        first, following = next((a, b) for a, b in itertools.pairwise(limits) if a <= call.rank < b)
        place = call.rank - first
        self.group = call.among(range(first, following))
        self.column = (
            call.among([start + place for start in starts]) if place < self.owners else None
        )
