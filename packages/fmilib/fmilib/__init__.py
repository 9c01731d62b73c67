"""MPI-like messages between processes that cannot listen on a port.

::

    import fmilib as fmi

    with fmi.Communicator(rank, size, "fmi.json", "name") as comm:
        comm.barrier()
        total = comm.reduce(seconds, 0, fmi.func(fmi.op.sum), fmi.types(fmi.datatypes.double))

On one machine, `run_threads` runs a program on all its ranks.
"""

from fmilib.backend import Backend, Traffic, register
from fmilib.codec import Codec, codecs
from fmilib.communicator import Communicator, Group
from fmilib.config import Configuration
from fmilib.datatypes import datatypes, func, hints, op, types
from fmilib.errors import (
    FmiAborted,
    FmiChannelError,
    FmiClosed,
    FmiConfigError,
    FmiDenied,
    FmiDuplicateRank,
    FmiError,
    FmiMismatch,
    FmiOverflow,
    FmiPeerLost,
    FmiReductionError,
    FmiTimeout,
)
from fmilib.member import Member
from fmilib.threads import run_threads

__version__ = "0.2.0"

__all__ = [
    "Backend",
    "Codec",
    "Communicator",
    "Configuration",
    "FmiAborted",
    "FmiChannelError",
    "FmiClosed",
    "FmiConfigError",
    "FmiDenied",
    "FmiDuplicateRank",
    "FmiError",
    "FmiMismatch",
    "FmiOverflow",
    "FmiPeerLost",
    "FmiReductionError",
    "FmiTimeout",
    "Group",
    "Member",
    "Traffic",
    "codecs",
    "datatypes",
    "func",
    "hints",
    "op",
    "register",
    "run_threads",
    "types",
]
