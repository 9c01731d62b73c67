"""A program on all its ranks in one process, each rank a thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from fmilib.channels.memory import Network
from fmilib.communicator import Communicator
from fmilib.errors import FmiAborted

if TYPE_CHECKING:
    from collections.abc import Callable


def run_threads(
    size: int,
    program: Callable[[Communicator], Any],
    *,
    network: Network | None = None,
    timeout: float = 30.0,
) -> list[Any]:
    """Run a program over the memory channel, each rank in a thread of its own.

    Parameters
    ----------
    size : int
        Ranks.
    program : callable
        Called with each rank's `Communicator`.
    network : Network, optional
        Where the ranks meet; by default one that is used for nothing else.
    timeout : float
        Seconds that an operation may take.

    Returns
    -------
    list
        What the program returned, in rank order.

    Raises
    ------
    BaseException
        What the program raised on a rank; the others are then aborted, and their
        `FmiAborted` is raised only if there is nothing else.
    """
    if size < 1:
        raise ValueError(f"run_threads: at least one rank, not {size}")
    configuration = {"backends": {"Memory": {"network": network or Network()}}}
    results: list[Any] = [None] * size
    errors: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        try:
            with Communicator(rank, size, configuration, "threads", timeout=timeout) as comm:
                results[rank] = program(comm)
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            errors[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        ordered = [errors[rank] for rank in sorted(errors)]
        raise next((e for e in ordered if not isinstance(e, FmiAborted)), ordered[0])
    return results
