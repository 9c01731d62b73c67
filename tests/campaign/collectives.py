"""Random programs and fault schedules over every channel of fmilib.

A trial draws a program, the same for all ranks: operations, types, sizes, roots and groups. It is
run by threads, once as it is or under a schedule of faults, and held against a plain evaluation in
one process. Whatever was done to it, a rank returns the right values or raises a named error by its
deadline.

    PYTHONPATH=tests python -m campaign.collectives --seed 1 --trials 200
    PYTHONPATH=tests python -m campaign.collectives --only "collectives over redis, faults"
"""

from __future__ import annotations

import atexit
import functools
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import fmilib as fmi
import numpy as np
from campaign.campaign import Outcome, Verdict, main
from fmi_support import TOKEN, Killed, Servers, kill, own_channel, watched

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

CHANNELS = ("Memory", "Direct", "Redis", "S3")
SIZES = {"Memory": 6, "Direct": 6, "Redis": 5, "S3": 3}
LENGTHS = (0, 1, 7, 1000, 5000, 20_000)  # elements of arrays: small and large algorithms
# Neither commutative nor associative: only one order of evaluation gives its result.
ORDERED = fmi.func(fmi.op.custom, lambda a, b: 2 * a - b, False, False)
FUNCTIONS: dict[str, tuple[fmi.func, Callable[[Any, Any], Any]]] = {
    "sum": (fmi.func(fmi.op.sum), np.add),
    "max": (fmi.func(fmi.op.max), np.maximum),
    "min": (fmi.func(fmi.op.min), np.minimum),
    "ordered": (ORDERED, lambda a, b: 2 * a - b),
}
OPERATIONS = ("send", "barrier", "bcast", "gather", "scatter", "allgather", "reduce", "allreduce",
              "scan", "split")  # fmt: skip
HANG_SECONDS = 15.0  # beyond all deadlines of a trial


class Step(NamedTuple):
    """One operation of a program; ``values`` are those of all ranks."""

    operation: str
    values: list[Any]
    root: int
    function: str
    out: bool


def draw_step(generator: random.Random, size: int) -> Step:
    """Draw an operation and every rank's value."""
    operation = generator.choice(OPERATIONS)
    kind = generator.choice(["int", "float", "list", "array"])
    length = generator.choice(LENGTHS)
    seed = generator.getrandbits(32)
    numbers = np.random.default_rng(seed)
    if kind == "int":
        values: list[Any] = numbers.integers(-1000, 1000, size).tolist()
    elif kind == "float":
        values = numbers.normal(size=size).tolist()
    elif kind == "list":
        values = numbers.normal(size=(size, 1 + length % 50)).tolist()
    else:
        dtype = generator.choice(["f8", "f4", "i8", "i4"])
        values = list((100 * numbers.normal(size=(size, length))).astype(dtype))
    function = generator.choice(list(FUNCTIONS))
    return Step(operation, values, generator.randrange(size), function, generator.random() < 0.3)


def fold(step: Step, count: int) -> Any:
    """Evaluate a reduction of the first ``count`` values from left to right."""
    _, combine = FUNCTIONS[step.function]
    values = step.values[:count]
    if isinstance(values[0], list):
        return [
            functools.reduce(lambda a, b: float(combine(a, b)), column)
            for column in zip(*values, strict=True)
        ]
    if isinstance(values[0], np.ndarray):
        return functools.reduce(combine, values)
    return functools.reduce(lambda a, b: type(a)(combine(a, b)), values)


def expected(step: Step, rank: int, size: int) -> Any:
    """Return what an operation has to give on a rank."""
    joined = step.values
    if isinstance(joined[0], list):
        joined = [list(value) for value in joined]
    at_root = rank == step.root
    return {
        "send": lambda: step.values[(rank - 1) % size],
        "barrier": lambda: None,
        "bcast": lambda: step.values[step.root],
        "gather": lambda: joined if at_root else [],
        "scatter": lambda: step.values[rank],
        "allgather": lambda: joined,
        "reduce": lambda: fold(step, size) if at_root else None,
        "allreduce": lambda: fold(step, size),
        "scan": lambda: fold(step, rank + 1),
        "split": lambda: [rank % 2 for _ in range(rank % 2, size, 2)],
    }[step.operation]()


def perform(comm: fmi.Communicator, step: Step) -> Any:
    """Run an operation."""
    value, root = step.values[comm.rank], step.root
    function, _ = FUNCTIONS[step.function]
    if step.operation == "send":
        comm.send(value, (comm.rank + 1) % comm.size)
        left = (comm.rank - 1) % comm.size
        if step.out and isinstance(value, np.ndarray):
            return comm.recv(left, out=np.empty_like(value))
        return comm.recv(left)
    if step.operation == "barrier":
        return comm.barrier()
    if step.operation == "bcast":
        out = np.empty_like(value) if step.out and isinstance(value, np.ndarray) else None
        return comm.bcast(value if comm.rank == root else None, root, out=out)
    if step.operation == "scatter":
        return comm.scatter(step.values if comm.rank == root else None, root)
    if step.operation == "split":
        half = comm.split(comm.rank % 2)
        assert half is not None
        return half.allgather(comm.rank % 2)
    if step.operation in ("gather", "reduce"):
        arguments = (value, root) if step.operation == "gather" else (value, root, function)
        return getattr(comm, step.operation)(*arguments)
    arguments = (value,) if step.operation == "allgather" else (value, function)
    return getattr(comm, step.operation)(*arguments)


def same(a: Any, b: Any) -> bool:
    """Whether two results are the same, to the bit."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return (
            isinstance(a, np.ndarray)
            and isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and np.array_equal(a, b)
        )
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


class Fault(NamedTuple):
    """What befalls a rank, before an operation or within it."""

    kind: str
    step: int
    count: int


FAULTS = ("killed", "killed within", "late", "too late", "raises", "aborts", "leaves", "skips",
          "other root", "other function")  # fmt: skip


def suffer(comm: fmi.Communicator, fault: Fault, step: Step, timeout: float) -> Step | None:
    """Let a fault befall this rank; return the step that it then takes."""
    names = list(FUNCTIONS)
    following = names[(names.index(step.function) + 1) % len(names)]
    deeds: dict[str, Callable[[], Any]] = {
        "killed": kill,
        "killed within": lambda: kill_after(fault.count),
        "late": lambda: time.sleep(0.2 * timeout),
        "too late": lambda: time.sleep(1.6 * timeout),
        "raises": lambda: {}["galaxy"],
        "aborts": lambda: comm.abort("told to"),
        "leaves": comm.close,
    }
    deeds.get(fault.kind, lambda: None)()
    changed = {
        "skips": None,
        "other root": step._replace(root=(step.root + 1) % comm.size),
        "other function": step._replace(function=following),
    }
    return changed.get(fault.kind, step)


def kill_after(operations: int) -> None:
    """Let this rank die after some operations of its channel."""
    left = [operations]

    def after() -> None:
        left[0] -= 1
        if left[0] <= 0:
            kill()

    own_channel().after = after


def trial(servers: Servers, channel: str, *, faults: bool, generator: random.Random) -> Verdict:
    """Draw a program and, if asked for, a fault; run it on all ranks, and judge."""
    size = generator.randint(1 if not faults else 2, SIZES[channel])
    steps = [draw_step(generator, size) for _ in range(generator.randint(1, 8))]
    victim = generator.randrange(size)
    fault = Fault(
        generator.choice(FAULTS), generator.randrange(len(steps)), generator.randint(1, 4)
    )
    timeout = {"S3": 3.0}.get(channel, 1.5) if faults else 20.0
    configuration = watched(servers.configuration(channel))
    if channel == "S3":
        backend = configuration["backends"]["WatchedS3"]
        configuration = {"backends": {"WatchedS3": {**backend, "close_seconds": 1}}}
    name = f"campaign-{generator.getrandbits(64):x}"
    results: list[dict[int, Any]] = [{} for _ in range(size)]
    errors: list[BaseException | None] = [None] * size

    def run(rank: int) -> None:
        try:
            with fmi.Communicator(
                rank, size, configuration, name, timeout=timeout, token=TOKEN, session=name
            ) as comm:
                for number, step in enumerate(steps):
                    taken: Step | None = step
                    if faults and rank == victim and number == fault.step:
                        taken = suffer(comm, fault, step, timeout)
                    if taken is not None:
                        results[rank][number] = perform(comm, taken)
        except (Exception, Killed) as error:  # noqa: BLE001 - judged below
            errors[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout * (2 + len(steps)) + HANG_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    what = f"{channel}, {size} ranks, {[step.operation for step in steps]}"
    if faults:
        what += f", rank {victim} {fault.kind} at {fault.step}"
    hung = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
    if hung:
        return Outcome.HUNG, f"{what}: ranks {hung}"
    return judge(steps, results, errors, (victim, fault) if faults else None, what)


def judge(
    steps: list[Step],
    results: list[dict[int, Any]],
    errors: list[BaseException | None],
    fault: tuple[int, Fault] | None,
    what: str,
) -> Verdict:
    """Compare what the ranks returned with the right results, and look at their errors."""
    size = len(results)
    victim = fault[0] if fault else -1
    disagrees = fault is not None and fault[1].kind in ("other root", "other function", "skips")
    raised = [error for error in errors if isinstance(error, fmi.FmiError)]
    for rank, found in enumerate(results):
        for number, result in found.items():
            if disagrees and rank == victim and fault is not None and number >= fault[1].step:
                continue  # it asked for something else than the others
            if not same(result, expected(steps[number], rank, size)):
                if disagrees and raised:
                    continue  # found out, though later: an error tells that nothing can be trusted
                return Outcome.WRONG, f"{what}: rank {rank}, step {number} gave {result!r:.200}"
    for rank, error in enumerate(errors):
        if error is None or rank == victim:
            continue
        if not isinstance(error, fmi.FmiError) or not str(error):
            return Outcome.UNCLEAR, f"{what}: rank {rank}: {error!r}"
        if fault is None:
            return Outcome.WRONG, f"{what}: rank {rank} without any fault: {error!r}"
    if any(errors):
        return Outcome.HELD, what
    return Outcome.SURVIVED, what


@functools.cache
def _servers() -> Servers:
    servers = Servers()
    atexit.register(servers.close)
    return servers


def parts() -> Mapping[str, Callable[[random.Random], Verdict]]:
    """Return the campaign's parts: each channel without faults, and with them."""
    return {
        f"collectives over {channel.lower()}{', faults' if faults else ''}": functools.partial(
            lambda generator, channel, faults: trial(
                _servers(), channel, faults=faults, generator=generator
            ),
            channel=channel,
            faults=faults,
        )
        for channel in CHANNELS
        for faults in (False, True)
    }


PARTS = parts()


if __name__ == "__main__":
    sys.exit(main(PARTS))
