"""Fault schedules: whoever dies, comes late or comes twice, nobody hangs or gets a wrong value."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import fmilib as fmi
import pytest
from fmi_support import (
    DOUBLE,
    INT,
    SUM,
    TOKEN,
    Servers,
    free_port,
    ints,
    kill,
    kill_after_first_message,
    own_channel,
    run_ranks,
    start_redis,
    start_rendezvous,
    stop,
    temporary_folder,
    watched,
)
from fmilib.codec import BYTES
from fmilib.communicator import communicator_number
from fmilib.frame import Kind, Packet, pack_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 4
LONG = 20_000  # takes the algorithms for large values


def pass_round(comm: fmi.Communicator) -> int:
    comm.send(comm.rank, (comm.rank + 1) % SIZE, INT)
    return int(comm.recv((comm.rank - 1) % SIZE, INT))


OPERATIONS: dict[str, Callable[[fmi.Communicator], Any]] = {
    "send and recv": pass_round,
    "barrier": lambda c: c.barrier(),
    "bcast": lambda c: c.bcast(7 if c.rank == 1 else None, 1, INT),
    "bcast large": lambda c: sum(c.bcast([1] * LONG if c.rank == 1 else None, 1, ints(LONG))),
    "gather": lambda c: c.gather(c.rank, 1, INT),
    "scatter": lambda c: c.scatter(list(range(SIZE)) if c.rank == 1 else None, 1, INT),
    "allgather": lambda c: c.allgather(c.rank, INT),
    "reduce": lambda c: c.reduce(c.rank + 1, 1, SUM, INT),
    "reduce large": lambda c: sum(c.reduce([c.rank + 1] * LONG, 1, SUM, ints(LONG)) or []),
    "allreduce": lambda c: c.allreduce(c.rank + 1, SUM, INT),
    "allreduce large": lambda c: sum(c.allreduce([c.rank + 1] * LONG, SUM, ints(LONG))),
    "scan": lambda c: c.scan(c.rank + 1, SUM, INT),
    "scan large": lambda c: sum(c.scan([c.rank + 1] * LONG, SUM, ints(LONG))),
}


def right_answer(name: str, rank: int) -> Any:
    return {
        "send and recv": (rank - 1) % SIZE,
        "barrier": None,
        "bcast": 7,
        "bcast large": LONG,
        "gather": [0, 1, 2, 3] if rank == 1 else [],
        "scatter": rank,
        "allgather": [0, 1, 2, 3],
        "reduce": 10 if rank == 1 else None,
        "reduce large": 10 * LONG if rank == 1 else 0,
        "allreduce": 10,
        "allreduce large": 10 * LONG,
        "scan": sum(range(1, rank + 2)),
        "scan large": sum(range(1, rank + 2)) * LONG,
    }[name]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("channel", ["Memory", "Direct", "Redis"])
def test_a_rank_killed(servers: Servers, channel: str, operation: str, when: str) -> None:
    check_a_rank_killed(servers, channel, operation, when)


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("operation", ["reduce large", "allreduce large", "scan large"])
@pytest.mark.parametrize("channel", ["Memory", "Direct"])
def test_a_rank_killed_in_a_chain_of_groups(
    servers: Servers, channel: str, operation: str, when: str
) -> None:
    check_a_rank_killed(servers, channel, operation, when, group_ranks=2)


def in_groups(configuration: dict[str, Any], group_ranks: int) -> dict[str, Any]:
    return {"backends": {name: {**settings, "group_ranks": group_ranks}
                         for name, settings in configuration["backends"].items()}}  # fmt: skip


def check_a_rank_killed(
    servers: Servers, channel: str, operation: str, when: str, group_ranks: int | None = None
) -> None:
    sees_deaths = channel != "Redis"
    configuration = watched(servers.configuration(channel))
    if group_ranks is not None:
        configuration = in_groups(configuration, group_ranks)
    for victim in range(SIZE) if sees_deaths else (1, 2):
        answers: dict[int, Any] = {}

        def body(comm: fmi.Communicator, victim: int = victim, answers: Any = answers) -> Any:
            comm.barrier()
            run = OPERATIONS[operation]
            if comm.rank == victim:
                if when == "before":
                    kill()
                if when == "during":
                    kill_after_first_message()
                run(comm)
                kill()
            answers[comm.rank] = run(comm)
            comm.barrier()
            raise AssertionError("a barrier without the dead rank")

        # Redis does not see who is alive: there the deadline tells.
        timeout = 8.0 if sees_deaths else 0.6
        started = time.monotonic()
        results = run_ranks(SIZE, configuration, body, timeout=timeout, raises=False)
        if sees_deaths:
            assert time.monotonic() - started < 7, "a death is seen at once, not at the deadline"
        for rank, error in enumerate(results):
            if rank == victim:
                continue
            assert isinstance(error, fmi.FmiError), (rank, error)
            assert victim in error.ranks, (rank, victim, error)
            if rank in answers:
                assert answers[rank] == right_answer(operation, rank)


@pytest.mark.parametrize("channel", ["Memory", "Direct", "Redis", "S3"])
def test_a_rank_two_seconds_late_is_named_and_gets_no_bytes_of_another_operation(
    servers: Servers, channel: str
) -> None:
    def body(comm: fmi.Communicator) -> Any:
        comm.barrier()
        if comm.rank == 2:
            time.sleep(2)
        total = comm.allreduce(comm.rank, SUM, INT)
        return total, comm.allreduce(100.0, SUM, DOUBLE)

    configuration = servers.configuration(channel)
    results = run_ranks(SIZE, configuration, body, timeout=1.0, raises=False)
    for rank, error in enumerate(results):
        assert isinstance(error, fmi.FmiError), (rank, error)
        if rank != 2:
            assert error.ranks == (2,), (rank, error)
    # With time enough the late rank is waited for.
    assert run_ranks(SIZE, configuration, body, timeout=20.0) == [(6, 400.0)] * SIZE


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("channel", ["Direct", "Redis"])
def test_a_rank_two_seconds_late_at_any_operation(
    servers: Servers, channel: str, operation: str
) -> None:
    """Whoever needs the late rank names it; whoever does not has the right value."""
    answers: dict[int, Any] = {}

    def body(comm: fmi.Communicator) -> Any:
        comm.barrier()
        if comm.rank == 2:
            time.sleep(2)
        answers[comm.rank] = OPERATIONS[operation](comm)
        return comm.barrier()

    configuration = servers.configuration(channel)
    results = run_ranks(SIZE, configuration, body, timeout=1.0, raises=False)
    for rank, error in enumerate(results):
        if rank != 2:
            assert isinstance(error, fmi.FmiError), (rank, error)
            # Beside it, ranks that wait for it themselves may be named; who was aborted is told
            # by whom, and why.
            assert 2 in error.ranks or "ranks 2" in str(error), (rank, error)
        elif error is not None:  # the others had done their part when it came
            assert isinstance(error, fmi.FmiError), error
        if rank in answers:
            assert answers[rank] == right_answer(operation, rank)
    answers.clear()
    run_ranks(SIZE, configuration, body, timeout=20.0)
    assert answers == {rank: right_answer(operation, rank) for rank in range(SIZE)}


def test_a_message_that_trickles_in_ends_by_the_deadline(servers: Servers) -> None:
    def body(comm: fmi.Communicator) -> None:
        comm.barrier()
        if comm.rank == 0:
            comm.recv(1)
        channel = own_channel()
        sock = channel.connections[0].sock
        packet = Packet(BYTES, bytes(1_000_000), 1_000_000)
        number = communicator_number("trickle")
        header = pack_header(packet, Kind.MESSAGE, 1, number, 0, channel.session, 0, 0)
        sock.send(header)
        with contextlib.suppress(OSError):  # the receiver hangs up
            for _ in range(2500):
                sock.send(b"x")
                time.sleep(0.002)

    started = time.monotonic()
    results = run_ranks(2, watched(servers.configuration("Direct")), body, timeout=1.0,
                        raises=False, comm_name="trickle")  # fmt: skip
    assert isinstance(results[0], fmi.FmiTimeout)
    assert results[0].ranks == (1,)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("victim", range(SIZE))
@pytest.mark.parametrize("channel", ["Memory", "Direct"])
def test_a_late_rank_is_named_along_the_whole_chain(
    servers: Servers, channel: str, victim: int
) -> None:
    """Those who wait for a rank that waits for the late one name the late one, too."""

    def body(comm: fmi.Communicator) -> Any:
        comm.barrier()
        if comm.rank == victim:
            time.sleep(2)
        return OPERATIONS["allreduce large"](comm)

    configuration = in_groups(servers.configuration(channel), 1)
    results = run_ranks(SIZE, configuration, body, timeout=1.0, raises=False)
    for rank, error in enumerate(results):
        assert isinstance(error, fmi.FmiError), (rank, error)
        if rank != victim:
            assert error.ranks == (victim,), (rank, error)


@pytest.mark.parametrize("channel", ["Memory", "Direct", "Redis", "S3"])
def test_a_rank_run_twice_is_refused_and_the_others_do_not_notice(
    servers: Servers, channel: str
) -> None:
    configuration = servers.configuration(channel)
    name = uuid.uuid4().hex
    second: list[Any] = []

    def body(comm: fmi.Communicator) -> Any:
        comm.barrier()
        if comm.rank == 1:
            try:
                fmi.Communicator(1, SIZE, configuration, name, session=name, timeout=2,
                                 token=TOKEN)  # fmt: skip
            except fmi.FmiError as error:
                second.append(error)
        return comm.allreduce(comm.rank, SUM, INT)

    assert run_ranks(SIZE, configuration, body, comm_name=name, session=name) == [6] * SIZE
    assert isinstance(second[0], fmi.FmiDuplicateRank)
    # All of them again, in the next epoch.
    assert run_ranks(
        SIZE, configuration, lambda c: c.allreduce(1, SUM, INT), comm_name=name, session=name,
        epoch=1,
    ) == [SIZE] * SIZE  # fmt: skip


@pytest.mark.parametrize("channel", ["Memory", "Direct", "Redis"])
def test_a_crashed_run_leaves_nothing_for_the_next_of_the_same_name(
    servers: Servers, channel: str
) -> None:
    configuration = servers.configuration(channel)
    name = uuid.uuid4().hex

    def crash(comm: fmi.Communicator) -> None:
        if comm.rank > 0:
            comm.gather(-1000, 0, INT)
        kill()

    run_ranks(SIZE, watched(configuration), crash, comm_name=name, raises=False)
    found = run_ranks(SIZE, configuration, lambda c: c.gather(c.rank, 0, INT), comm_name=name)
    assert found[0] == [0, 1, 2, 3]


@pytest.mark.parametrize("channel", ["Memory", "Direct", "Redis", "S3"])
def test_abort_reaches_all_at_once(servers: Servers, channel: str) -> None:
    waited: dict[int, float] = {}

    def body(comm: fmi.Communicator) -> None:
        comm.barrier()
        if comm.rank == 3:
            time.sleep(0.3)
            comm.abort("no memory left")
            return
        started = time.monotonic()
        try:
            comm.barrier()
        finally:
            waited[comm.rank] = time.monotonic() - started

    results = run_ranks(SIZE, servers.configuration(channel), body, timeout=20, raises=False)
    for error in results[:3]:
        assert isinstance(error, fmi.FmiAborted)
        assert error.ranks == (3,)
        assert "rank 3 aborted: no memory left" in str(error)
    assert max(waited.values()) < 3


def test_an_exception_in_the_with_block_aborts(servers: Servers) -> None:
    def body(comm: fmi.Communicator) -> None:
        if comm.rank == 0:
            raise KeyError("galaxy")
        comm.barrier()

    results = run_ranks(3, servers.configuration("Direct"), body, raises=False)
    assert isinstance(results[0], KeyError)
    assert "rank 0 aborted: KeyError: 'galaxy'" in str(results[1])


PROGRAM = textwrap.dedent("""
    import json, sys, time
    import fmilib as fmi
    rank, size, configuration, name, seconds = json.loads(sys.argv[1])
    comm = fmi.Communicator(rank, size, configuration, name, timeout=seconds)
    SUM, INT = fmi.func(fmi.op.sum), fmi.types(fmi.datatypes.int)
    comm.barrier()
    print("ready", flush=True)
    try:
        while True:
            assert comm.allreduce(1, SUM, INT) == size
            time.sleep(0.001)
    except fmi.FmiError as error:
        print(json.dumps([type(error).__name__, list(error.ranks), str(error)]), flush=True)
""")


def start_processes(
    configuration: dict[str, Any], size: int, seconds: float
) -> list[subprocess.Popen[str]]:
    name = uuid.uuid4().hex
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps([rank, size, configuration, name, seconds])],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "FMI_TOKEN": TOKEN},
        )
        for rank in range(size)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return processes


def errors_of(processes: list[subprocess.Popen[str]]) -> list[list[Any]]:
    found = []
    for process in processes:
        output, _ = process.communicate(timeout=20)
        found.append(json.loads(output.splitlines()[-1]) if output else [])
    return found


@pytest.mark.parametrize(("channel", "seconds"), [("Direct", 15.0), ("Redis", 5.0)])
def test_a_killed_process_is_named_by_all_others(
    servers: Servers, channel: str, seconds: float
) -> None:
    processes = start_processes(servers.configuration(channel), SIZE, seconds)
    time.sleep(0.2)
    processes[2].send_signal(signal.SIGKILL)
    for rank, error in enumerate(errors_of(processes)):
        if rank != 2:
            assert error[1] == [2], error


def test_the_rendezvous_server_restarts() -> None:
    """Ranks that are connected do not need it; ranks that wait join again."""
    port = free_port()
    configuration = {"backends": {"Direct": {"host": "127.0.0.1", "port": port}}}
    server = start_rendezvous(port)
    try:
        meeting = threading.Barrier(SIZE + 1)

        def body(comm: fmi.Communicator) -> Any:
            comm.barrier()
            meeting.wait(20)
            meeting.wait(20)
            return comm.allreduce(1, SUM, INT)

        results: list[Any] = []
        runner = threading.Thread(
            target=lambda: results.extend(run_ranks(SIZE, configuration, body))
        )
        runner.start()
        meeting.wait(20)
        stop(server)
        meeting.wait(20)
        runner.join(20)
        assert results == [SIZE] * SIZE

        waiting: list[Any] = []
        early = threading.Thread(
            target=lambda: waiting.append(
                fmi.Communicator(0, 2, configuration, "later", timeout=20, token=TOKEN)
            )
        )
        early.start()
        time.sleep(0.3)  # nobody listens yet
        server = start_rendezvous(port)
        time.sleep(0.3)
        stop(server)  # and gone again, with rank 0 waiting
        server = start_rendezvous(port)
        with fmi.Communicator(1, 2, configuration, "later", timeout=20, token=TOKEN) as comm:
            early.join(20)
            comm.send(5, 0, INT)
            with waiting[0] as other:
                assert other.recv(1, INT) == 5
    finally:
        stop(server)


def test_redis_restarts() -> None:
    port = free_port()
    configuration = {"backends": {"Redis": {"host": "127.0.0.1", "port": port}}}
    with temporary_folder() as folder:
        server = start_redis(port, str(folder))
        try:
            meeting, restarted = threading.Barrier(3), threading.Event()

            def body(comm: fmi.Communicator) -> None:
                comm.barrier()
                meeting.wait(20)
                if comm.rank == 1:
                    restarted.wait(20)
                comm.barrier()

            results: list[Any] = []
            runner = threading.Thread(
                target=lambda: results.extend(
                    run_ranks(2, configuration, body, timeout=5, raises=False)
                )
            )
            runner.start()
            meeting.wait(20)
            time.sleep(0.2)
            stop(server)
            server = start_redis(port, str(folder))
            restarted.set()
            runner.join(30)
            for error in results:
                assert isinstance(error, fmi.FmiError)
                assert f"127.0.0.1:{port}" in str(error) or error.ranks, error
            assert run_ranks(2, configuration, lambda c: c.allreduce(1, SUM, INT)) == [2, 2]
        finally:
            stop(server)


def test_the_deadline_follows_the_remaining_time_of_the_function(servers: Servers) -> None:
    end = time.monotonic() + 3.0

    def body(comm: fmi.Communicator) -> None:
        if comm.rank == 0:
            time.sleep(4)
            return
        comm.barrier()

    started = time.monotonic()
    results = run_ranks(2, servers.configuration("Direct"), body, timeout=60, raises=False,
                        remaining=lambda: end - time.monotonic())  # fmt: skip
    assert isinstance(results[1], fmi.FmiTimeout)
    assert results[1].ranks == (0,)
    assert time.monotonic() - started < 6


def test_what_a_crash_leaves_in_s3_is_tagged_and_never_read_again(servers: Servers) -> None:
    import boto3

    backend = {**servers.configuration("S3")["backends"]["S3"],
               "prefix": f"crash-{uuid.uuid4().hex}", "tag": "kept=no"}  # fmt: skip
    configuration = {"backends": {"S3": backend}}
    name = uuid.uuid4().hex

    def crash(comm: fmi.Communicator) -> None:
        if comm.rank > 0:
            comm.gather(-1000, 0, INT)
        kill()

    def gather(comm: fmi.Communicator) -> Any:
        return comm.gather(comm.rank, 0, INT)

    run_ranks(SIZE, watched(configuration), crash, comm_name=name, raises=False)
    leftovers = {k for k in left_behind(configuration) if k.startswith(backend["prefix"])}
    assert len(leftovers) == SIZE + SIZE - 1  # the claims of ranks, the contributions
    client = boto3.client("s3", endpoint_url=backend["endpoint_url"], region_name="us-east-1")
    for key in leftovers:
        tags = client.get_object_tagging(Bucket=backend["bucket_name"], Key=key)["TagSet"]
        assert tags == [{"Key": "kept", "Value": "no"}]
    again = run_ranks(SIZE, configuration, gather, comm_name=name, raises=False)
    assert all(isinstance(error, fmi.FmiDuplicateRank) for error in again)
    assert run_ranks(SIZE, configuration, gather, comm_name=name, epoch=1)[0] == [0, 1, 2, 3]


def test_a_late_leaf_of_the_tree_over_s3_is_named_by_all(servers: Servers) -> None:
    size, late = 23, 22  # below rank 5, which is below rank 1

    def body(comm: fmi.Communicator) -> Any:
        if comm.rank == late:
            time.sleep(8)
        return comm.allreduce(comm.rank, SUM, INT)

    results = run_ranks(size, servers.configuration("S3"), body, timeout=6.0, raises=False)
    for rank, error in enumerate(results[:late]):
        assert isinstance(error, fmi.FmiError), (rank, error)
        assert error.ranks == (late,), (rank, error)


@pytest.mark.parametrize("channel", ["Redis", "S3"])
def test_nothing_is_left_behind(servers: Servers, channel: str) -> None:
    configuration = servers.configuration(channel)

    def body(comm: fmi.Communicator) -> None:
        for run in OPERATIONS.values():
            run(comm)
        comm.send(3, (comm.rank + 1) % SIZE, INT)
        if comm.rank != 0:  # one message is never received
            comm.recv((comm.rank - 1) % SIZE, INT)

    # Sessions that crashed in earlier tests leave theirs to the expiry.
    before = left_behind(configuration)
    run_ranks(SIZE, configuration, body, timeout=30)
    assert left_behind(configuration) <= before


def left_behind(configuration: dict[str, Any]) -> set[Any]:
    backends = configuration["backends"]
    if "Redis" in backends:
        import redis

        return set(redis.Redis(port=backends["Redis"]["port"]).keys("*"))
    import boto3

    backend = backends["S3"]
    client = boto3.client("s3", endpoint_url=backend["endpoint_url"], region_name="us-east-1")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=backend["bucket_name"])
    return {item["Key"] for page in pages for item in page.get("Contents", [])}


def test_what_a_crash_leaves_in_redis_expires(servers: Servers) -> None:
    import redis

    configuration = servers.configuration("Redis")
    run_ranks(
        SIZE, watched(configuration),
        lambda c: c.rank and (c.gather([0] * LONG, 0, ints(LONG)), kill()),
        raises=False, timeout=1,
    )  # fmt: skip
    client = redis.Redis(port=configuration["backends"]["Redis"]["port"])
    assert all(client.pttl(key) > 0 for key in client.keys("*"))
