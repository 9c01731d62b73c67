"""The textbook algorithms that fmilib's direct channel does not run, to compare it with.

Written with its ``send`` and ``recv``, so they share its cost a message. Their reductions are
right up to rounding only: the order of evaluation depends on the slice (ring) or pairs neighbours
first (halving, doubling), where fmilib folds from left to right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fmilib as fmi
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DOUBLE = fmi.types(fmi.datatypes.double)
SUM = fmi.func(fmi.op.sum)
SEGMENT = 16_384  # doubles: 128 KiB, of the pipelined chain


def ring_allreduce(comm: fmi.Communicator, values: Array) -> Array:
    """Reduce-scatter, then allgather, along a ring: 2(N-1) rounds."""
    result = values.copy()
    parts = np.array_split(result, comm.size)
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for step in range(comm.size - 1):
        mine = parts[(comm.rank - step - 1) % comm.size]
        comm.send(parts[(comm.rank - step) % comm.size], right)
        mine += comm.recv(left, out=np.empty_like(mine))
    for step in range(comm.size - 1):
        comm.send(parts[(comm.rank + 1 - step) % comm.size], right)
        comm.recv(left, out=parts[(comm.rank - step) % comm.size])
    return result


def rabenseifner_allreduce(comm: fmi.Communicator, values: Array) -> Array:
    """Recursive halving, then recursive doubling: 2·log₂ N rounds; N a power of two."""
    result = values.copy()
    low, high, path = 0, len(result), []
    distance = comm.size // 2
    while distance:
        peer, middle = comm.rank ^ distance, (low + high) // 2
        keep, give = ((low, middle), (middle, high))[:: 1 if comm.rank < peer else -1]
        comm.send(result[slice(*give)], peer)
        part = result[slice(*keep)]
        part += comm.recv(peer, out=np.empty_like(part))
        path.append((peer, keep, give))
        low, high = keep
        distance //= 2
    for peer, keep, give in reversed(path):
        comm.send(result[slice(*keep)], peer)
        comm.recv(peer, out=result[slice(*give)])
    return result


def doubling_allreduce(comm: fmi.Communicator, value: float) -> float:
    """Recursive doubling of a small value: log₂ N rounds; N a power of two."""
    distance = 1
    while distance < comm.size:
        comm.send(value, comm.rank ^ distance, DOUBLE)
        value += comm.recv(comm.rank ^ distance, DOUBLE)
        distance *= 2
    return value


def dissemination_barrier(comm: fmi.Communicator) -> None:
    """Hear, in log₂ N rounds, of twice as many ranks each."""
    distance = 1
    while distance < comm.size:
        comm.send(0.0, (comm.rank + distance) % comm.size, DOUBLE)
        comm.recv((comm.rank - distance) % comm.size, DOUBLE)
        distance *= 2


def chain_bcast(comm: fmi.Communicator, values: Array) -> None:
    """Pass segments from rank to rank."""
    for start in range(0, len(values), SEGMENT):
        segment = values[start : start + SEGMENT]
        if comm.rank > 0:
            comm.recv(comm.rank - 1, out=segment)
        if comm.rank + 1 < comm.size:
            comm.send(segment, comm.rank + 1)


def star_bcast(comm: fmi.Communicator, values: Array) -> None:
    """Send from the root to every rank."""
    if comm.rank > 0:
        comm.recv(0, out=values)
        return
    for dst in range(1, comm.size):
        comm.send(values, dst)


def binomial_bcast(comm: fmi.Communicator, values: Array) -> None:
    """Send whole along a binomial tree: log₂ N rounds."""
    distance = 1
    while distance < comm.size:
        if comm.rank < distance and comm.rank + distance < comm.size:
            comm.send(values, comm.rank + distance)
        elif distance <= comm.rank < 2 * distance:
            comm.recv(comm.rank - distance, out=values)
        distance *= 2


def scatter_allgather_bcast(comm: fmi.Communicator, values: Array) -> None:
    """Scatter slices, then gather them along a ring (van de Geijn): N rounds."""
    parts = np.array_split(values, comm.size)
    if comm.rank == 0:
        for dst in range(1, comm.size):
            comm.send(parts[dst], dst)
    else:
        comm.recv(0, out=parts[comm.rank])
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for step in range(comm.size - 1):
        comm.send(parts[(comm.rank - step) % comm.size], right)
        comm.recv(left, out=parts[(comm.rank - step - 1) % comm.size])


def alternatives(
    comm: fmi.Communicator, channel: Any, elements: int
) -> dict[str, Callable[[], Any]]:
    """Return what to measure over the communicator's channel, fmilib's own first in each group."""
    values = np.ones(elements)
    standard = channel.group_ranks

    def grouped(group_ranks: int | None) -> Callable[[], Any]:
        def run() -> None:
            channel.group_ranks = group_ranks
            comm.allreduce(values, SUM)
            channel.group_ranks = standard

        return run

    return {
        "fmilib: groups of 8, allreduce 1mb": grouped(standard),
        "groups of 4, allreduce 1mb": grouped(4),
        "groups of 16, allreduce 1mb": grouped(16),
        "one group (direct exchange), allreduce 1mb": grouped(None),
        "chain of ranks, allreduce 1mb": grouped(1),
        "ring, allreduce 1mb": lambda: ring_allreduce(comm, values),
        "Rabenseifner, allreduce 1mb": lambda: rabenseifner_allreduce(comm, values),
        "fmilib: binary tree in segments, bcast 1mb": lambda: comm.bcast(values, 0, out=values),
        "chain in segments, bcast 1mb": lambda: chain_bcast(comm, values),
        "star, bcast 1mb": lambda: star_bcast(comm, values),
        "binomial tree, bcast 1mb": lambda: binomial_bcast(comm, values),
        "scatter and allgather, bcast 1mb": lambda: scatter_allgather_bcast(comm, values),
        "fmilib: tree of degree 32, allreduce double": lambda: comm.allreduce(1.0, SUM, DOUBLE),
        "recursive doubling, allreduce double": lambda: doubling_allreduce(comm, 1.0),
        "fmilib: tree of degree 32, barrier": comm.barrier,
        "dissemination, barrier": lambda: dissemination_barrier(comm),
    }
