"""MPI-like messages between functions that cannot listen on a port.

::

    from fmilib.fmi_operations import fmi_communicator
    import fmilib as fmi

    comm = fmi_communicator(world_size, rank)
    comm.barrier()
    total = comm.reduce(seconds, 0, fmi.func(fmi.op.sum), fmi.types(fmi.datatypes.double))
"""

from fmilib.codec import Codec, codecs
from fmilib.communicator import Communicator
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

__version__ = "0.1.0"

__all__ = [
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
    "codecs",
    "datatypes",
    "func",
    "hints",
    "op",
    "types",
]
