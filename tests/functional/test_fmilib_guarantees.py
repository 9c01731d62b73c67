"""What a program may rely on: its own memory, agreement of ranks, deadlines, a free place."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fmilib as fmi
import numpy as np
import pytest
from fmi_support import (
    INT,
    MAX,
    SUM,
    TOKEN,
    Servers,
    doubles,
    free_port,
    own_channel,
    run_ranks,
    start_redis,
    stop,
    temporary_folder,
    watched,
)
from fmilib.codec import ARRAY
from fmilib.communicator import communicator_number
from fmilib.frame import Kind, Packet, pack_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
CHANNELS = ["Memory", "Direct", "Redis", "S3"]
FAST = ["Memory", "Direct", "Redis"]
BIG = 20_000  # takes the algorithms for large values


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_program_may_begin_with_any_operation(servers: Servers, channel: str) -> None:
    """The Redis client once read the reply of an earlier command for another's."""

    def body(comm: fmi.Communicator) -> Any:
        return comm.bcast(7, 0, INT), comm.allreduce(1, SUM, INT)

    assert run_ranks(2, servers.configuration(channel), body) == [(7, 2)] * 2

    def messages_first(comm: fmi.Communicator) -> Any:
        if comm.rank == 0:
            for number in range(400):
                comm.send(number, 1, INT)
            return comm.scan(1, SUM, INT)
        received = [comm.recv(0, INT) for _ in range(400)] if channel != "S3" else list(range(400))
        assert received == list(range(400))
        return comm.scan(1, SUM, INT)

    if channel != "S3":
        assert run_ranks(2, servers.configuration(channel), messages_first) == [1, 2]


# Memory -------------------------------------------------------------------------------------


def in_place(a: Any, b: Any) -> Any:
    a += b
    return a


IN_PLACE = fmi.func(fmi.op.custom, in_place)
LATTER = fmi.func(fmi.op.custom, lambda _, b: b)
RESULTS: dict[str, Callable[[fmi.Group, Any], Any]] = {
    "allgather": lambda c, x: c.allgather(x),
    "gather": lambda c, x: c.gather(x, 0),
    "scatter": lambda c, x: [c.scatter(np.concatenate([x] * c.size), 0)],
    "scatter list": lambda c, x: [c.scatter([x] * c.size, 0)],
    "bcast": lambda c, x: [c.bcast(x, 0)],
    "reduce": lambda c, x: [c.reduce(x, 0, SUM)],
    "allreduce": lambda c, x: [c.allreduce(x, SUM)],
    "scan": lambda c, x: [c.scan(x, SUM)],
    "scan in place": lambda c, x: [c.scan(x, IN_PLACE)],
    "allreduce in place": lambda c, x: [c.allreduce(x, IN_PLACE)],
    "allreduce latter": lambda c, x: [c.allreduce(x, LATTER)],
}


@pytest.mark.parametrize("operation", RESULTS)
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("channel", FAST)
def test_results_share_no_memory_with_arguments(
    servers: Servers, channel: str, size: int, operation: str
) -> None:
    def body(comm: fmi.Communicator) -> None:
        for length in (5, BIG):
            argument = np.arange(float(length)) + 1
            kept = argument.copy()
            results = [r for r in RESULTS[operation](comm, argument) if r is not None]
            assert np.array_equal(argument, kept), "the argument was written to"
            values = [result.copy() for result in results]
            argument[:] = -1
            for result, value in zip(results, values, strict=True):
                assert np.array_equal(result, value)
                assert not np.shares_memory(result, argument)
                result += 100
            assert (argument == -1).all()
            wanted = kept * (comm.rank + 1) if operation.startswith("scan") else None
            assert wanted is None or np.array_equal(values[0], wanted)

    run_ranks(size, servers.configuration(channel), body)


def test_a_value_that_is_broadcast_into_out_is_there_on_the_root_too(servers: Servers) -> None:
    def body(comm: fmi.Communicator) -> Any:
        out = np.zeros(3)
        value = np.array([1.0, 2.0, 3.0]) if comm.rank == 0 else None
        assert comm.bcast(value, 0, out=out) is out
        return out.tolist()

    assert run_ranks(2, servers.configuration("Memory"), body) == [[1.0, 2.0, 3.0]] * 2


@pytest.mark.parametrize("received", [0, 1, 500_000])
def test_a_late_message_never_reaches_the_array_of_a_recv_that_was_given_up(
    servers: Servers, received: int
) -> None:
    size = 1_000_000
    given_up = threading.Event()

    def body(comm: fmi.Communicator) -> Any:
        if comm.rank == 0:
            out = np.zeros(size // 8)
            with pytest.raises(fmi.FmiTimeout):
                comm.recv(1, out=out)
            kept = out.copy()
            given_up.set()
            value = comm.recv(1)
            assert np.array_equal(out, kept)
            return float(value.sum()), value.shape
        channel = own_channel()
        data = np.ones(size // 8).tobytes()
        packet = Packet(ARRAY, data, size // 8, f"<f8;{size // 8}".encode())
        number = communicator_number("late")
        frame = pack_header(packet, Kind.MESSAGE, 1, number, 0, channel.session, 0, 0) + data
        sock = channel.connections[0].sock
        sent = received + 100 if received else 0
        sock.sendall(frame[:sent])
        given_up.wait(10)
        sock.sendall(frame[sent:])
        time.sleep(0.5)
        return None

    configuration = watched(servers.configuration("Direct"))
    found = run_ranks(2, configuration, body, timeout=1.0, comm_name="late")
    assert found[0] == (125_000.0, (125_000,))


# Values -------------------------------------------------------------------------------------


class Length(np.ndarray):
    """An array with a unit, as astropy's Quantity is."""


def with_more_than_numbers() -> dict[str, Any]:
    masked = np.ma.masked_array([1.0, 1e20, 3.0], mask=[0, 1, 0])
    return {
        "masked array": masked,
        "masked element": masked[1],
        "quantity": np.arange(3.0).view(Length),
        "matrix": np.matrix([[1.0, 2.0]]),
        "list with a masked element": [1.0, masked[1]],
    }


@pytest.mark.filterwarnings("ignore:the matrix subclass", "ignore:Warning. converting a masked")
@pytest.mark.parametrize(
    "name", ["masked array", "masked element", "quantity", "matrix", "list with a masked element"]
)
def test_what_is_more_than_its_numbers_is_refused_not_stripped(name: str) -> None:
    value = with_more_than_numbers()[name]
    types = doubles(2) if isinstance(value, list) else None
    with fmi.Communicator(0, 1, {"backends": {"Memory": {}}}, name) as comm:
        for run in (
            lambda: comm.allreduce(value, SUM, types),
            lambda: comm.allgather(value, types),
            lambda: comm.bcast(value, 0, types),
            lambda: comm.send(value, 0, types),
        ):
            with pytest.raises(TypeError, match="cannot be sent"):
                run()
        assert comm.allreduce(2.0, SUM) == 2.0  # nothing was sent, nothing is broken
        if not isinstance(value, list) and value.ndim:
            comm.send(np.asarray(value), 0)
            with pytest.raises(TypeError, match="cannot be sent"):
                comm.recv(0, out=value)


def test_arrays_in_a_file_are_only_numbers(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "array", "f8", "w+", shape=3)
    with fmi.Communicator(0, 1, {"backends": {"Memory": {}}}, "mapped") as comm:
        assert type(comm.allgather(mapped)[0]) is np.ndarray


@pytest.mark.parametrize(
    ("values", "function"),
    [
        (np.array([True, False]), SUM),
        (np.array([True]), fmi.func(fmi.op.prod)),
        (np.array(["abc"]), SUM),
        (np.array([b"ab"]), MAX),
        (np.array([1], "m8[s]"), SUM),
    ],
)
def test_functions_without_a_meaning_for_a_dtype_are_named(values: Any, function: Any) -> None:
    with fmi.Communicator(0, 1, {"backends": {"Memory": {}}}, "bools") as comm:
        for reduce in (
            lambda: comm.allreduce(values, function),
            lambda: comm.reduce(values, 0, function),
            lambda: comm.scan(values, function),
        ):
            with pytest.raises(fmi.FmiReductionError, match="has no meaning for arrays of dtype"):
                reduce()
        assert comm.allreduce(np.array([True, False]), MAX).tolist() == [True, False]
        joined = fmi.func(fmi.op.custom, np.char.add)
        assert comm.allreduce(np.array(["abc"]), joined).tolist() == ["abc"]


# Agreement ----------------------------------------------------------------------------------

DISAGREEMENTS: dict[str, Callable[[fmi.Group, bool], Any]] = {
    "function of allreduce": lambda c, odd: c.allreduce(2.0, MAX if odd else SUM),
    "function of reduce": lambda c, odd: c.reduce(2.0, 0, MAX if odd else SUM),
    "function of scan": lambda c, odd: c.scan(2.0, MAX if odd else SUM),
    "function, large": lambda c, odd: c.allreduce(np.ones(BIG), MAX if odd else SUM),
    "type of allreduce": lambda c, odd: c.allreduce(1 if odd else 1.0, SUM),
    "type of scan": lambda c, odd: c.scan(1 if odd else 1.0, SUM),
    "dtype": lambda c, odd: c.allreduce(np.ones(3, "f4" if odd else "f8"), SUM),
    "dtype, large": lambda c, odd: c.allreduce(np.ones(BIG, "i8" if odd else "f8"), SUM),
    "shape": lambda c, odd: c.allreduce(np.ones((2, 3) if odd else (3, 2)), SUM),
    "length, one large": lambda c, odd: c.allreduce(np.ones(3 if odd else BIG), SUM),
    "operation": lambda c, odd: c.allgather(1) if odd else c.allreduce(1, SUM),
    "root of gather": lambda c, odd: c.gather(c.rank, 2 if odd else 0),
}


# The checks are the same on S3, where each costs a second.
@pytest.mark.parametrize(
    ("channel", "what"),
    [(channel, what) for channel in FAST for what in DISAGREEMENTS]
    + [("S3", what) for what in ("function of allreduce", "type of scan", "operation")],
)
def test_ranks_that_disagree_get_a_mismatch_and_no_value_of_the_others(
    servers: Servers, channel: str, what: str
) -> None:
    answers: dict[int, Any] = {}

    def body(comm: fmi.Communicator) -> None:
        answers[comm.rank] = DISAGREEMENTS[what](comm, comm.rank == 1)
        comm.barrier()

    errors = run_ranks(3, servers.configuration(channel), body, timeout=4, raises=False)
    for rank, error in enumerate(errors):
        assert isinstance(error, fmi.FmiError), (rank, error)
    assert any(isinstance(error, fmi.FmiMismatch) for error in errors), errors
    # Who does not need another rank's value may have its own: rank 0's prefix, a sender's None.
    assert all(answer in (None, [], 1, 2.0, 1.0) for answer in answers.values()), answers


@pytest.mark.parametrize("channel", ["Memory", "Direct"])
@pytest.mark.parametrize("operation", ["bcast", "reduce", "scatter"])
def test_ranks_that_wait_for_each_others_root_are_told_so(
    servers: Servers, channel: str, operation: str
) -> None:
    def body(comm: fmi.Communicator) -> Any:
        if operation == "reduce":
            return comm.reduce(1, comm.rank, SUM), comm.barrier()
        return getattr(comm, operation)(None, 1 - comm.rank)

    errors = run_ranks(2, servers.configuration(channel), body, timeout=1.0, raises=False)
    assert any(isinstance(error, fmi.FmiMismatch) for error in errors), errors
    assert all(isinstance(error, fmi.FmiError) for error in errors), errors


@pytest.mark.parametrize("channel", CHANNELS)
def test_two_ranks_that_both_broadcast_are_found_out(servers: Servers, channel: str) -> None:
    arrived = threading.Barrier(2)
    configuration = servers.configuration(channel)
    if channel == "S3":
        configuration = {"backends": {"S3": {**configuration["backends"]["S3"],
                                             "close_seconds": 1}}}  # fmt: skip

    def body(comm: fmi.Communicator) -> None:
        try:
            comm.bcast(comm.rank, comm.rank, INT)
        finally:
            arrived.wait(10)  # both have: now they leave, without another operation

    errors = run_ranks(2, configuration, body, timeout=5, raises=False)
    assert any(isinstance(error, fmi.FmiMismatch) for error in errors), errors


# Names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", FAST)
@pytest.mark.parametrize(
    ("first", "second"),
    [(("a", "b/c"), ("a/b", "c")), (("", "/x"), ("/", "x")), (('a"', "b"), ("a", '"b'))],
)
def test_sessions_and_names_that_read_alike_do_not_meet(
    servers: Servers, channel: str, first: tuple[str, str], second: tuple[str, str]
) -> None:
    configuration = servers.configuration(channel)
    unique = uuid.uuid4().hex

    def run(names: tuple[str, str], number: int) -> list[Any]:
        return run_ranks(2, configuration, lambda c: (time.sleep(0.2), c.allreduce(number, SUM))[1],
                         session=names[0], comm_name=names[1] + unique, timeout=10)  # fmt: skip

    found: dict[int, list[Any]] = {}
    threads = [
        threading.Thread(target=lambda n=n, names=names: found.update({n: run(names, n)}))
        for n, names in enumerate((first, second), start=1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {1: [2, 2], 2: [4, 4]}


# The end of a program -----------------------------------------------------------------------

FORGETFUL = textwrap.dedent("""
    import json, sys
    import fmilib as fmi
    configuration, rank, end = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    comm = fmi.Communicator(rank, 2, configuration, "forgetful", timeout=10, session=sys.argv[4])
    print(comm.allreduce(1, fmi.func(fmi.op.sum)))
    if end == "raise" and rank == 1:
        raise KeyError("galaxy")
    if end == "exit" and rank == 1:
        sys.exit(0)
    if end == "raise":
        comm.barrier()
""")


def run_forgetful(configuration: dict[str, Any], end: str, session: str) -> list[tuple[str, str]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FORGETFUL, json.dumps(configuration), str(rank), end, session],
            env={**os.environ, "FMI_TOKEN": TOKEN}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    return [process.communicate(timeout=60) for process in processes]


@pytest.mark.parametrize(
    ("channel", "end"),
    [("Direct", "return"), ("Redis", "return"), ("Redis", "exit"), ("S3", "return")],
)
def test_a_program_that_forgets_close_can_run_again(
    servers: Servers, channel: str, end: str
) -> None:
    configuration, session = servers.configuration(channel), uuid.uuid4().hex
    for _ in range(2):
        assert run_forgetful(configuration, end, session) == [("2\n", "")] * 2


@pytest.mark.parametrize("channel", ["Direct", "Redis", "S3"])
def test_a_program_that_ends_by_an_exception_tells_the_others(
    servers: Servers, channel: str
) -> None:
    started = time.monotonic()
    (_, told), _ = run_forgetful(servers.configuration(channel), "raise", uuid.uuid4().hex)
    assert "FmiAborted: rank 1 ended with KeyError: 'galaxy'" in told
    assert time.monotonic() - started < 9, "before the deadline"


@pytest.mark.parametrize("channel", ["Memory", "Direct"])
def test_a_forked_process_can_neither_use_nor_end_its_parents_communicator(
    servers: Servers, channel: str
) -> None:
    program = textwrap.dedent("""
        import json, os, sys, threading
        import fmilib as fmi
        configuration, results = json.loads(sys.argv[1]), {}
        def run(rank):
            comm = fmi.Communicator(rank, 2, configuration, "forked", timeout=10)
            if rank == 0 and not (child := os.fork()):
                try:
                    comm.barrier()
                except fmi.FmiClosed:
                    comm.close()
                    os._exit(7)
                os._exit(1)
            if rank == 0:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            results[rank] = comm.allreduce(1, fmi.func(fmi.op.sum))
        other = threading.Thread(target=run, args=(1,))
        other.start(); run(0); other.join()
        print(results)
    """)
    answer = subprocess.run(
        [sys.executable, "-c", program, json.dumps(servers.configuration(channel))],
        env={**os.environ, "FMI_TOKEN": TOKEN}, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert answer.stdout in ("{0: 2, 1: 2}\n", "{1: 2, 0: 2}\n"), answer


# Deadlines ----------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """Yield the port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("channel", ["Direct", "Redis", "S3"])
def test_joining_a_silent_server_ends_by_the_deadline(channel: str, silent: int) -> None:
    endpoint = f"http://127.0.0.1:{silent}"
    settings = {
        "Direct": {"host": "127.0.0.1", "port": silent},
        "Redis": {"host": "127.0.0.1", "port": silent},
        "S3": {"bucket_name": "b", "endpoint_url": endpoint, "s3_region": "us-east-1"},
    }[channel]
    import boto3  # noqa: F401 - importing it is not what is timed

    os.environ.setdefault("AWS_ACCESS_KEY_ID", "test")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "test")
    fmi.Configuration({"backends": {channel: settings}})
    started = time.monotonic()
    with pytest.raises(fmi.FmiChannelError):
        fmi.Communicator(0, 2, {"backends": {channel: settings}}, "silent", timeout=1.0)
    assert time.monotonic() - started < 3


def test_operations_over_a_stalled_redis_end_by_the_deadline() -> None:
    port = free_port()
    operations: list[Callable[[fmi.Communicator], Any]] = [
        lambda c: c.barrier(),
        lambda c: [c.send(1, 0, INT) for _ in range(1000)],
        lambda c: c.allreduce(np.ones(BIG), SUM),
    ]
    with temporary_folder() as folder:
        server = start_redis(port, str(folder))
        try:
            for operation in operations:
                meeting = threading.Barrier(3)

                def body(
                    comm: fmi.Communicator, operation: Any = operation, m: Any = meeting
                ) -> Any:
                    comm.barrier()
                    m.wait(20)
                    m.wait(20)
                    started = time.monotonic()
                    try:
                        operation(comm)
                        comm.barrier()
                    except fmi.FmiError:
                        return time.monotonic() - started
                    raise AssertionError("no error")

                found: list[Any] = []
                configuration = {"backends": {"Redis": {"host": "127.0.0.1", "port": port}}}
                runner = threading.Thread(
                    target=lambda c=configuration, b=body, f=found: f.extend(
                        run_ranks(2, c, b, timeout=1.0)
                    )
                )
                runner.start()
                meeting.wait(20)
                server.send_signal(signal.SIGSTOP)
                meeting.wait(20)
                runner.join(30)
                server.send_signal(signal.SIGCONT)
                assert max(found) < 4, found
        finally:
            server.send_signal(signal.SIGCONT)
            stop(server)


def test_operations_over_a_silent_s3_end_by_the_deadline(servers: Servers) -> None:
    backend = servers.configuration("S3")["backends"]["S3"]
    quiet = threading.Event()

    class Quiet:
        """A client whose requests get no answer from some moment on."""

        def __init__(self) -> None:
            import boto3

            self._client = boto3.client("s3", endpoint_url=backend["endpoint_url"],
                                        region_name="us-east-1")  # fmt: skip

        def __getattr__(self, name: str) -> Any:
            method = getattr(self._client, name)

            def ask(**arguments: Any) -> Any:
                while quiet.is_set():
                    time.sleep(0.05)
                return method(**arguments)

            return ask

    def body(comm: fmi.Communicator) -> Any:
        if comm.rank == 0:
            quiet.set()
        started = time.monotonic()
        with pytest.raises(fmi.FmiError):
            comm.allreduce(1, SUM)
        return time.monotonic() - started

    try:
        found = run_ranks(
            2, {"backends": {"S3": {**backend, "client": Quiet()}}}, body, timeout=1.0
        )
        assert max(found) < 3.5, found
    finally:
        quiet.clear()


CROWDED = textwrap.dedent("""
    import json, resource, sys, time
    import fmilib as fmi
    from fmi_support import own_channel, watched
    rank, configuration, name = json.loads(sys.argv[1])
    comm = fmi.Communicator(rank, 3, watched(configuration), name, timeout=20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
    print(own_channel().port, flush=True)
    sys.stdin.readline()
    for _ in range(20):
        total = comm.allreduce(1, fmi.func(fmi.op.sum))
        comm.send(1, (rank + 1) % 3); comm.recv((rank - 1) % 3)
        time.sleep(0.02)
    print(total, flush=True)
    comm.close()
""")


@pytest.mark.parametrize("strangers", [30, 200, pytest.param(1000, marks=pytest.mark.slow)])
def test_strangers_that_take_all_file_descriptors_do_not_end_a_rank(
    servers: Servers, strangers: int
) -> None:
    backend = {**servers.configuration("Direct")["backends"]["Direct"], "mesh_ranks": 1}
    name = uuid.uuid4().hex
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CROWDED,
             json.dumps([rank, {"backends": {"Direct": backend}}, name])],
            env={**os.environ, "FMI_TOKEN": TOKEN, "PYTHONPATH": path}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(3)
    ]  # fmt: skip
    held: list[socket.socket] = []
    try:
        ports = [int(process.stdout.readline()) for process in processes]  # type: ignore[union-attr]
        for number in range(strangers):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", ports[number % 3]))
            held.append(sock)
        for process in processes:
            process.stdin.write("go\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        for process in processes:
            out, error = process.communicate(timeout=60)
            assert out == "3\n", error
    finally:
        for sock in held:
            sock.close()
        for process in processes:
            process.kill()
            process.wait()


# A second process of a rank ------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("channel", FAST)
def test_a_rank_that_comes_twice_before_the_session_is_complete_harms_nobody(
    servers: Servers, channel: str, strict: bool
) -> None:
    configuration, name = servers.configuration(channel), uuid.uuid4().hex
    session = name if strict else None
    results: dict[Any, Any] = {}

    def run(label: Any, rank: int) -> None:
        try:
            with fmi.Communicator(rank, 3, configuration, name, timeout=10, session=session,
                                  token=TOKEN) as comm:  # fmt: skip
                results[label] = [comm.allreduce(comm.rank + 1, SUM, INT) for _ in range(20)]
        except fmi.FmiError as error:
            results[label] = error

    labels = [("first", 1), ("second", 1), (0, 0), (2, 2)]
    threads = [threading.Thread(target=run, args=label) for label in labels]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join(30)
    assert isinstance(results.pop("first"), fmi.FmiDuplicateRank)  # it may be dead, so it gives way
    assert results == {label: [6] * 20 for label in ("second", 0, 2)}


@pytest.mark.parametrize("channel", ["Memory", "Direct", "Redis", "S3"])
def test_a_rank_that_comes_twice_early_in_the_session_harms_nobody(
    servers: Servers, channel: str
) -> None:
    configuration, name = servers.configuration(channel), uuid.uuid4().hex
    refused: list[Any] = []

    def again() -> None:
        try:
            fmi.Communicator(1, 3, configuration, name, timeout=5, session=name, token=TOKEN)
        except fmi.FmiError as error:
            refused.append(error)

    def body(comm: fmi.Communicator) -> Any:
        second = threading.Thread(target=again)
        if comm.rank == 0:
            second.start()
        totals = [comm.allreduce(comm.rank, SUM, INT) for _ in range(3 if channel == "S3" else 50)]
        if comm.rank == 0:
            second.join(10)
        comm.barrier()
        return set(totals)

    assert run_ranks(3, configuration, body, comm_name=name, session=name) == [{3}] * 3
    assert [type(error) for error in refused] == [fmi.FmiDuplicateRank]
