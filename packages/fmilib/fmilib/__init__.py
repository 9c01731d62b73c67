"""MPI-like messages between functions that cannot listen on a port.

::

    from fmilib.fmi_operations import fmi_communicator
    import fmilib as fmi

    comm = fmi_communicator(world_size, rank)
    comm.barrier()
    total = comm.reduce(seconds, 0, fmi.func(fmi.op.sum), fmi.types(fmi.datatypes.double))
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

__version__ = "0.1.0"

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
    "types",
]
