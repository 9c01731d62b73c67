"""One operation of a group of ranks, as channels and algorithms see it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fmilib.errors import FmiMismatch
from fmilib.frame import KIND_NAMES, Kind, describe_terms

if TYPE_CHECKING:
    from collections.abc import Sequence


class Call:
    """One operation of one communicator.

    Parameters
    ----------
    kind : int
        A member of `fmilib.frame.Kind`.
    op : int
        The communicator's operation counter; messages are counted per pair of ranks.
    comm : int
        The communicator's number.
    ranks : tuple of int
        World ranks of the group, in group order.
    rank : int
        This process's place in ``ranks``.
    timeout : float
        Seconds that the operation may take.
    terms : int
        What else all ranks must agree on, see `fmilib.frame.pack_terms`.
    end : float, optional
        When the operation must have ended, in `time.monotonic`'s seconds; default
        ``timeout`` from now.

    Attributes
    ----------
    deadline : float
        When waiting ends. The rest of the time is for finding out, and reporting, who is absent.
    """

    __slots__ = ("comm", "deadline", "end", "kind", "op", "rank", "ranks", "terms", "timeout")

    def __init__(
        self,
        kind: int,
        op: int,
        comm: int,
        ranks: tuple[int, ...],
        rank: int,
        timeout: float,
        terms: int = 0,
        end: float | None = None,
    ) -> None:
        self.kind = kind
        self.op = op
        self.comm = comm
        self.ranks = ranks
        self.rank = rank
        self.timeout = timeout
        self.terms = terms
        self.end = time.monotonic() + timeout if end is None else end
        self.deadline = self.end - min(0.25, 0.1 * timeout)

    def among(self, places: Sequence[int]) -> Call:
        """Return the same operation among some of its ranks, this one included."""
        return Call(
            self.kind,
            self.op,
            self.comm,
            tuple(self.ranks[place] for place in places),
            list(places).index(self.rank),
            self.timeout,
            self.terms,
            self.end,
        )

    @property
    def size(self) -> int:
        """Ranks in the group."""
        return len(self.ranks)

    def disagreement(self, rank: int, other: Sequence[int]) -> FmiMismatch | None:
        """Return an error if a rank waits in an operation that does not fit this one.

        Parameters
        ----------
        rank : int
            World rank.
        other : sequence of int
            That rank's `state`.
        """
        comm, op, kind, terms = other
        if Kind.MESSAGE in (self.kind, kind) or comm != self.comm or op < self.op:
            return None
        if (op, kind, terms) == (self.op, self.kind, self.terms):
            return None
        return FmiMismatch(
            f"{self} with {describe_terms(self.terms)}: rank {rank} is in "
            f"{KIND_NAMES.get(kind, kind)} (operation {op}) with {describe_terms(terms)}",
            [rank],
        )

    @property
    def state(self) -> tuple[int, int, int, int]:
        """Communicator, operation, kind and terms."""
        return self.comm, self.op, self.kind, self.terms

    def __str__(self) -> str:
        return f"{KIND_NAMES[self.kind]} (operation {self.op} of communicator {self.comm:#x})"
