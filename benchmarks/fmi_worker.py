"""One rank of the fmilib benchmark: runs its operations and leaves their times in a file.

Started by ``fmi.py``. It imports nothing before the first barrier but what its system needs: the
time from the start of the processes to there is measured, too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ELEMENTS = 131_072  # doubles: 1 MB
WARM_UP = 3
Times = dict[str, list[float]]


def measure(
    barrier: Callable[[], Any], operations: dict[str, Callable[[], Any]], repetitions: Any
) -> Times:
    """Return each operation's times on this rank in milliseconds, each after a barrier."""
    times: Times = {}
    for name, operation in operations.items():
        count = repetitions["large" if name.endswith(("_1mb", " 1mb")) else "small"]
        warm_up = min(WARM_UP, count)
        times[name] = []
        for number in range(warm_up + count):
            barrier()
            started = time.perf_counter()
            operation()
            elapsed = time.perf_counter() - started
            if number >= warm_up:
                times[name].append(1000 * elapsed)
    return times


def communicator(task: dict[str, Any]) -> Any:
    """Join the task's session."""
    import fmilib as fmi

    return fmi.Communicator(
        task["rank"], task["size"], {"backends": task["backends"]}, task["session"], timeout=90,
        session=task["session"],
    )  # fmt: skip


def run_fmi(task: dict[str, Any]) -> Times:
    """Run one rank over fmilib."""
    comm = communicator(task)
    comm.barrier()
    first = time.time() - task["spawned"]
    import fmilib as fmi
    import numpy as np

    total, double = fmi.func(fmi.op.sum), fmi.types(fmi.datatypes.double)
    values = np.ones(ELEMENTS)
    times = measure(
        comm.barrier,
        {
            "barrier": comm.barrier,
            "allreduce_double": lambda: comm.allreduce(1.0, total, double),
            "reduce_double": lambda: comm.reduce(1.0, 0, total, double),
            "bcast_1mb": lambda: comm.bcast(values, 0, out=values),
            "allreduce_1mb": lambda: comm.allreduce(values, total),
        },
        task["repetitions"],
    )
    comm.close()
    return {**times, "start": [first]}


def run_gloo(task: dict[str, Any]) -> Times:
    """Run one rank over gloo."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{task['port']}",
        rank=task["rank"],
        world_size=task["size"],
    )
    dist.barrier()
    first = time.time() - task["spawned"]
    one = torch.ones(1, dtype=torch.float64)
    values = torch.ones(ELEMENTS, dtype=torch.float64)
    times = measure(
        dist.barrier,
        {
            "barrier": dist.barrier,
            "allreduce_double": lambda: dist.all_reduce(one),
            "reduce_double": lambda: dist.reduce(one, 0),
            "bcast_1mb": lambda: dist.broadcast(values, 0),
            "allreduce_1mb": lambda: dist.all_reduce(values),
        },
        task["repetitions"],
    )
    dist.barrier()
    dist.destroy_process_group()
    return {**times, "start": [first]}


def run_openmpi(task: dict[str, Any]) -> Times:
    """Run one rank under mpiexec."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    comm.Barrier()
    first = time.time() - task["spawned"]
    import numpy as np

    task["rank"] = comm.rank
    values, result = np.ones(ELEMENTS), np.empty(ELEMENTS)
    times = measure(
        comm.Barrier,
        {
            "barrier": comm.Barrier,
            "allreduce_double": lambda: comm.allreduce(1.0),
            "reduce_double": lambda: comm.reduce(1.0),
            "bcast_1mb": lambda: comm.Bcast(values),
            "allreduce_1mb": lambda: comm.Allreduce(values, result),
        },
        task["repetitions"],
    )
    return {**times, "start": [first]}


def run_algorithms(task: dict[str, Any]) -> Times:
    """Run one rank of the direct channel, with other algorithms beside its own."""
    import fmi_algorithms
    import fmilib as fmi
    from fmilib import backend

    direct, opened = backend.find("Direct"), []

    def open_direct(settings: Any, member: fmi.Member) -> Any:
        opened.append(direct.open(settings, member))
        return opened[0]

    fmi.register(direct._replace(name="Recorded", open=open_direct))
    comm = communicator({**task, "backends": {"Recorded": task["backends"]["Direct"]}})
    operations = fmi_algorithms.alternatives(comm, opened[0], ELEMENTS)
    times = measure(comm.barrier, operations, task["repetitions"])
    comm.close()
    return times


RUNNERS = {
    "direct": run_fmi,
    "redis": run_fmi,
    "s3": run_fmi,
    "gloo": run_gloo,
    "openmpi": run_openmpi,
    "algorithms": run_algorithms,
}


def main() -> None:
    """Run the rank that the command line describes."""
    task = json.loads(sys.argv[1])
    times = RUNNERS[task["system"]](task)
    with open(os.path.join(task["folder"], f"{task['rank']}.json"), "w") as file:  # noqa: PTH118, PTH123 - pathlib is an import that would be measured
        json.dump(times, file)


if __name__ == "__main__":
    main()
