"""Each defect reproduced in the C++ library, and its absence here; and the published program."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import fmilib as fmi
import numpy as np
import pytest
from fmi_support import (
    DOUBLE,
    INT,
    MAX,
    MIN,
    SUM,
    TOKEN,
    Servers,
    free_port,
    ints,
    own_channel,
    run_ranks,
    watched,
)
from fmilib.call import Call
from fmilib.codec import BYTES
from fmilib.communicator import communicator_number
from fmilib.frame import Kind, Packet

if TYPE_CHECKING:
    from collections.abc import Iterator

CHANNELS = ["Memory", "Direct", "Redis", "S3"]
FAST = ["Memory", "Direct", "Redis"]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


def test_the_published_program_runs_as_it_stands(servers: Servers) -> None:
    program = textwrap.dedent("""
        import sys
        world_size, rank, total_time = sys.argv[1], sys.argv[2], float(sys.argv[2]) + 0.5
        from fmilib.fmi_operations import fmi_communicator
        import fmilib as fmi
        comm = fmi_communicator(world_size, rank)
        comm.hint(fmi.hints.fast)
        comm.barrier()
        total = comm.reduce(total_time, 0, fmi.func(fmi.op.sum), fmi.types(fmi.datatypes.double))
        print(total)
    """)
    environment = {
        **os.environ,
        "FMI_CONFIG": json.dumps(servers.configuration("Direct")),
        "FMI_TOKEN": TOKEN,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, "3", str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    assert [p.communicate(timeout=30)[0].strip() for p in processes] == ["4.5", "None", "None"]


def test_a_program_for_the_cpp_binding_runs_with_another_import(
    servers: Servers, tmp_path: Any
) -> None:
    path = tmp_path / "fmi.json"
    path.write_text(json.dumps(servers.configuration("Direct")))
    name = uuid.uuid4().hex
    found: dict[int, list[Any]] = {}

    def program(node_id: int) -> None:
        comm = fmi.Communicator(node_id, 2, str(path), name, 512, token=TOKEN)
        comm.hint(fmi.hints.fast)
        comm.barrier()
        out: list[Any] = []
        custom = fmi.func(fmi.op.custom, lambda a, b: 2 * a + 2 * b, True, True)
        if node_id == 0:
            comm.send(42, 1, fmi.types(fmi.datatypes.int))
            comm.send([1.32, 2.34], 1, fmi.types(fmi.datatypes.double_list, 2))
        else:
            out.append(comm.recv(0, fmi.types(fmi.datatypes.int)))
            out.append(comm.recv(0, fmi.types(fmi.datatypes.double_list, 2)))
        value = [1, 2] if node_id == 0 else None
        out.append(comm.bcast(value, 0, fmi.types(fmi.datatypes.int_list, 2)))
        out.append(comm.gather([node_id, 4], 0, fmi.types(fmi.datatypes.int_list, 2)))
        parts = [1.3, 2.3, 3.3, 4.3] if node_id == 0 else None
        out.append(comm.scatter(parts, 0, fmi.types(fmi.datatypes.double_list, 4)))
        out.append(comm.reduce([42, 14], 0, custom, fmi.types(fmi.datatypes.int_list, 2)))
        out.append(comm.allreduce(42 + node_id, fmi.func(fmi.op.max), INT))
        out.append(comm.scan([42, 14], fmi.func(fmi.op.sum),
                             fmi.types(fmi.datatypes.int_list, 2)))  # fmt: skip
        comm.close()
        found[node_id] = out

    threads = [threading.Thread(target=program, args=(node_id,)) for node_id in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found[0] == [[1, 2], [0, 4, 1, 4], [1.3, 2.3], [168, 56], 43, [42, 14]]
    assert found[1] == [42, [1.32, 2.34], [1, 2], [], [3.3, 4.3], None, 43, [84, 28]]


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_barrier_of_another_communicator_does_not_release_this_one(
    servers: Servers, channel: str
) -> None:
    def body(comm: fmi.Communicator) -> Any:
        other = comm.split(comm.rank // 2)
        assert other is not None
        assert (other.size, other.rank) == (2, comm.rank % 2)
        comm.barrier()
        if comm.rank == 3:
            time.sleep(0.5)
        if comm.rank >= 2:
            other.barrier()  # of ranks 2 and 3
        else:
            other.barrier()
            started = time.monotonic()
            comm_sum = comm.allreduce(1, SUM, INT)
            return comm_sum, time.monotonic() - started > 0.2
        return comm.allreduce(1, SUM, INT), True

    results = run_ranks(4, servers.configuration(channel), body, timeout=30)
    assert results == [(4, True)] * 4


@pytest.mark.parametrize("channel", FAST)
def test_a_sub_communicator_reduces_its_own_ranks_in_its_own_order(
    servers: Servers, channel: str
) -> None:
    def body(comm: fmi.Communicator) -> Any:
        half = comm.split(comm.rank % 2 if comm.rank < 4 else None, key=-comm.rank)
        if half is None:
            return None
        order = fmi.func(fmi.op.custom, lambda a, b: 10 * a + b, False, False)
        half.send(comm.rank, (half.rank + 1) % half.size, INT)
        received = half.recv((half.rank - 1) % half.size, INT)
        return half.allreduce(comm.rank, order, INT), received

    found = run_ranks(5, servers.configuration(channel), body)
    assert found == [(20, 2), (31, 3), (20, 0), (31, 1), None]


@pytest.mark.parametrize("channel", FAST)
def test_both_ranks_send_megabytes_first(servers: Servers, channel: str) -> None:
    def body(comm: fmi.Communicator) -> Any:
        mine = np.full(4_000_000, float(comm.rank))
        for other in range(comm.size):
            if other != comm.rank:
                comm.send(mine, other)
        return [float(comm.recv(o).sum()) for o in range(comm.size) if o != comm.rank]

    found = run_ranks(3, servers.configuration(channel), body, timeout=30)
    assert found == [[4e6, 8e6], [0.0, 8e6], [0.0, 4e6]]


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_size_that_does_not_fit_is_an_error_and_leaks_into_nothing(
    servers: Servers, channel: str
) -> None:
    def body(comm: fmi.Communicator) -> Any:
        if comm.rank == 0:
            comm.send([1, 2, 3, 4], 1, ints(4))
            comm.send([5, 6], 1, ints(2))
            return None
        with pytest.raises(fmi.FmiMismatch, match="sent 4 elements, this rank expects 2"):
            comm.recv(0, ints(2))
        return comm.recv(0, ints(2))

    assert run_ranks(2, servers.configuration(channel), body)[1] == [5, 6]


@pytest.mark.parametrize("channel", CHANNELS)
def test_ranks_in_different_operations_are_told(servers: Servers, channel: str) -> None:
    def body(comm: fmi.Communicator) -> None:
        if comm.rank == 0:
            comm.allreduce(1, SUM, INT)
        else:
            comm.reduce(1, 0, SUM, INT)
            comm.barrier()

    results = run_ranks(2, servers.configuration(channel), body, timeout=3, raises=False)
    assert isinstance(results[0], fmi.FmiMismatch), results
    assert "reduce" in str(results[0])


@pytest.mark.parametrize("channel", FAST)
def test_sums_over_int32_and_int64(servers: Servers, channel: str) -> None:
    def body(comm: fmi.Communicator) -> Any:
        total = comm.allreduce(2**31, SUM, INT)
        for root in (0, 3):
            if comm.rank == root:
                with pytest.raises(fmi.FmiOverflow):
                    comm.reduce(2**62, root, SUM, INT)
            else:
                comm.reduce(2**62, root, SUM, INT)
        with pytest.raises(fmi.FmiOverflow):
            comm.allreduce(2**62, SUM, INT)
        with pytest.raises(fmi.FmiOverflow):
            comm.allreduce([2**62] * 20_000, SUM, ints(20_000))
        return total, comm.allreduce(1, SUM, INT)  # all ranks are in step after an overflow

    assert run_ranks(5, servers.configuration(channel), body) == [(5 * 2**31, 5)] * 5


@pytest.mark.parametrize("channel", FAST)
def test_a_nan_gives_all_ranks_the_same(servers: Servers, channel: str) -> None:
    def body(comm: fmi.Communicator) -> Any:
        value = math.nan if comm.rank == 1 else float(comm.rank)
        return [comm.allreduce(value, f, DOUBLE) for f in (MAX, MIN, SUM)] + [
            comm.scan(value, MAX, DOUBLE)
        ]

    found = run_ranks(3, servers.configuration(channel), body)
    assert all(math.isnan(v) for row in found for v in row[:3])
    assert found[0][3] == 0.0
    assert math.isnan(found[2][3])


def test_a_server_that_is_down_is_an_error_not_a_crash() -> None:
    port = free_port()
    for backend in (
        {"Direct": {"host": "127.0.0.1", "port": port}},
        {"Redis": {"host": "127.0.0.1", "port": port}},
    ):
        started = time.monotonic()
        with pytest.raises(fmi.FmiChannelError, match=f"127.0.0.1:{port}"):
            fmi.Communicator(0, 2, {"backends": backend}, "x", timeout=0.5)
        assert time.monotonic() - started < 3
    s3 = {"S3": {"bucket_name": "b", "endpoint_url": f"http://127.0.0.1:{port}",
                 "s3_region": "us-east-1"}}  # fmt: skip
    with pytest.raises(fmi.FmiChannelError, match="S3 does not answer"):
        fmi.Communicator(0, 2, {"backends": s3}, "x", timeout=1)


def test_other_threads_run_while_a_rank_waits(servers: Servers) -> None:
    counted = 0

    def body(comm: fmi.Communicator) -> None:
        nonlocal counted
        if comm.rank == 0:
            comm.recv(1, INT)
        else:
            deadline = time.monotonic() + 0.3
            while time.monotonic() < deadline:
                counted += 1
            comm.send(1, 0, INT)

    run_ranks(2, servers.configuration("Direct"), body)
    assert counted > 10_000


def test_redis_is_never_asked_to_scan_its_keys(servers: Servers) -> None:
    import redis

    configuration = servers.configuration("Redis")
    client = redis.Redis(port=configuration["backends"]["Redis"]["port"])
    client.config_resetstat()
    run_ranks(4, configuration, lambda c: [c.barrier() for _ in range(10)])
    used = {name.removeprefix("cmdstat_"): row["calls"]
            for name, row in client.info("commandstats").items()}  # fmt: skip
    assert not {"keys", "scan"} & used.keys()
    # 10 barriers of 4 ranks: one wait each, besides one at the start.
    assert used["blpop"] == 44


def test_a_roots_value_that_cannot_be_sent_fails_all_ranks(servers: Servers) -> None:
    def body(comm: fmi.Communicator) -> None:
        comm.bcast({1, 2} if comm.rank == 0 else None, 0, codec=fmi.codecs.json)

    results = run_ranks(3, servers.configuration("Direct"), body, raises=False)
    assert isinstance(results[0], TypeError)
    for error in results[1:]:
        assert isinstance(error, fmi.FmiError)
        assert error.ranks == (0,)


def test_objects_need_a_codec_and_arrays_none(servers: Servers) -> None:
    def body(comm: fmi.Communicator) -> Any:
        with pytest.raises(TypeError, match=r"codec=fmi\.codecs\.json"):
            comm.gather({"a": 1}, 0)
        told = comm.allgather({"rank": comm.rank}, codec=fmi.codecs.json)
        image = np.zeros((3, 4), "float16")
        image[1, 2] = comm.rank
        received = comm.bcast(image, 1)
        out = np.empty((3, 4), "float16")
        if comm.rank == 0:
            comm.send(image + 7, 1)
        elif comm.rank == 1:
            assert comm.recv(0, out=out) is out
            assert out[0, 0] == 7
        return told[2]["rank"], float(received[1, 2])

    assert run_ranks(3, servers.configuration("Direct"), body) == [(2, 1.0)] * 3


def test_use_after_close_and_bad_ranks_are_named(servers: Servers) -> None:
    def body(comm: fmi.Communicator) -> None:
        with pytest.raises(ValueError, match="dst=2 is not one of 2 ranks"):
            comm.send(1, 2, INT)
        with pytest.raises(ValueError, match="5 elements do not divide among 2 ranks"):
            comm.scatter([1] * 5, 0, ints(5))
        comm.barrier()
        comm.close()
        comm.close()
        with pytest.raises(fmi.FmiClosed):
            comm.barrier()

    run_ranks(2, servers.configuration("Direct"), body)


def test_explain_shows_choice_and_estimate_and_every_rank_chooses_alike(servers: Servers) -> None:
    backends = {
        **servers.configuration("Direct")["backends"],
        **servers.configuration("Redis")["backends"],
    }

    def body(comm: fmi.Communicator) -> Any:
        total = comm.allreduce(1, SUM, INT)
        fast = comm.explain()
        comm.hint(fmi.hints.cheap)
        cheap = comm.explain("barrier")
        total += comm.allreduce(1, SUM, INT)
        return total, [e.channel for e in fast], [e.channel for e in cheap]

    found = run_ranks(3, {"backends": backends}, body)
    assert found == [(6, ["Direct", "Redis"], found[0][2])] * 3


def test_a_message_that_came_early_keeps_its_place_from_the_one_behind_it(
    servers: Servers,
) -> None:
    """Rank 2's first message arrives before rank 0 exchanges, its second while it still does."""
    size = 64 * 1024

    def body(comm: fmi.Communicator) -> Any:
        channel = own_channel()
        number = communicator_number("early")
        call = Call(Kind.ALLREDUCE, 9, number, (0, 1, 2), comm.rank, 10.0)

        def packet(value: int) -> Packet:
            return Packet(BYTES, bytes([value]) * size, size)

        if comm.rank == 0:
            assert comm.recv(1) == b"rank 2 has sent"  # waits long enough to hear all ranks
            places = [memoryview(bytearray(size)) for _ in range(3)]
            received = channel.exchange(call, [packet(0)] * 3, 0, places)
            second = channel.take(call, 2, 1)
            return [bytes(part.data[:1]) for part in (*received, second)]
        if comm.rank == 2:
            channel.post(call, 0, 0, packet(20))
        time.sleep(0.2)
        if comm.rank == 1:
            comm.send(b"rank 2 has sent", 0)
            time.sleep(0.4)
            channel.post(call, 0, 0, packet(10))
        else:
            time.sleep(0.2)
            channel.post(call, 0, 1, packet(21))
        channel.take(call, 0, 0)
        return None

    configuration = watched(servers.configuration("Direct"))
    found = run_ranks(3, configuration, body, comm_name="early")
    assert found[0] == [b"\0", b"\x0a", b"\x14", b"\x15"]
