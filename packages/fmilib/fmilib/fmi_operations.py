"""Communicators by one call, and the end of a session on behalf of a rank that is dead."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fmilib import backend as registry
from fmilib.communicator import Communicator, member_of
from fmilib.config import Configuration
from fmilib.errors import FmiAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_NAME = "fmi_pair"


def fmi_communicator(
    world_size: int | str,
    rank: int | str,
    *,
    comm_name: str = DEFAULT_NAME,
    faas_memory: int | None = None,
    session: str | None = None,
    epoch: int = 0,
    timeout: float | None = None,
    remaining: Callable[[], float] | None = None,
) -> Communicator:
    """Return a communicator configured by the environment; all ranks have joined it.

    Parameters
    ----------
    world_size, rank : int
        Numbers as strings are taken, too.
    comm_name, session, epoch, timeout, remaining
        See `fmilib.Communicator`.
    faas_memory : int, optional
        MiB; default ``AWS_LAMBDA_FUNCTION_MEMORY_SIZE``, else 128.

    Raises
    ------
    FmiConfigError
        Nothing in the environment says how to communicate; see `fmilib.config`.
    """
    configuration = (
        Configuration.from_environment()
        if "FMI_CONFIG" in os.environ or not os.path.exists("fmi.json")  # noqa: PTH110 - start-up time
        else Configuration("fmi.json")
    )
    if faas_memory is None:
        faas_memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"))
    return Communicator(
        int(rank),
        int(world_size),
        configuration,
        comm_name,
        faas_memory,
        session=session,
        epoch=epoch,
        timeout=timeout,
        remaining=remaining,
    )


def abort_session(
    world_size: int | str,
    rank: int | str,
    reason: str,
    *,
    comm_name: str = DEFAULT_NAME,
    session: str | None = None,
    epoch: int = 0,
    configuration: Configuration | Mapping[str, Any] | None = None,
    token: str | None = None,
) -> None:
    """Abort a session on behalf of a rank that is dead already, as its error handler.

    The ranks that wait for it, or come later, fail at once, naming it.
    """
    if configuration is None:
        configuration = Configuration.from_environment()
    elif not isinstance(configuration, Configuration):
        configuration = Configuration(configuration)
    member = member_of(configuration, rank, world_size, comm_name, session, epoch, None, token)
    error = FmiAborted(f"rank {member.rank} failed: {reason}", [member.rank])
    for name, settings in configuration.backends.items():
        channel = registry.find(name).open(settings, member)
        channel.abort(error)
        channel.close(clean=False)
