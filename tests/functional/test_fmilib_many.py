"""A thousand ranks over Redis and S3, with the documented number of requests; lazy meshes."""

from __future__ import annotations

import math
import threading
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fmi_support import INT, SUM, Servers, run_ranks
from fmilib.channels.direct import DirectChannel
from fmilib.channels.s3 import S3Channel

if TYPE_CHECKING:
    from collections.abc import Iterator

    import fmilib as fmi

MANY = 1000
MANY_S3 = 200
"""Fewer over S3: one process holds the server and all ranks, and each rank reads every other's
object; 1,000 of them did not end within four minutes on two busy cores."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


def meet(comm: fmi.Communicator) -> Any:
    comm.barrier()
    return comm.allreduce(comm.rank, SUM, INT)


def redis_calls(client: Any) -> Counter[str]:
    return Counter(
        {name.removeprefix("cmdstat_"): row["calls"]
         for name, row in client.info("commandstats").items()}
    )  # fmt: skip


@pytest.mark.parametrize("size", [7, pytest.param(MANY, marks=pytest.mark.slow)])
def test_ranks_over_redis_with_the_documented_commands(servers: Servers, size: int) -> None:
    import redis

    configuration = servers.configuration("Redis")
    client = redis.Redis(port=configuration["backends"]["Redis"]["port"])
    client.config_resetstat()
    found = run_ranks(size, configuration, meet, timeout=120)
    assert found == [size * (size - 1) // 2] * size
    calls = redis_calls(client)
    assert calls["blpop"] == 3 * size  # join, barrier, allreduce
    # Two operations: a contribution and a farewell each; a join and a leave are plain EVAL.
    assert calls["evalsha"] == 4 * size
    assert calls["eval"] == 2 * size
    assert client.dbsize() == 0


class CountingClient:
    """An S3 client that counts the requests that are answered."""

    def __init__(self, client: Any, counts: Counter[str], lock: threading.Lock) -> None:
        self._client, self._counts, self._lock = client, counts, lock

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(**arguments: Any) -> Any:
            answer = method(**arguments)
            with self._lock:
                self._counts[name] += 1
            return answer

        return call


@pytest.mark.parametrize("size", [7, 40, pytest.param(MANY_S3, marks=pytest.mark.slow)])
def test_ranks_over_s3_with_the_documented_requests(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    import boto3
    from botocore.config import Config

    configuration = servers.configuration("S3")
    backend = {**configuration["backends"]["S3"], "prefix": f"many-{uuid.uuid4().hex}"}
    if size == MANY_S3:  # threads of one process: looking often would take all its time
        backend["timeout"] = 2000
    client = boto3.client(
        "s3", endpoint_url=backend["endpoint_url"], region_name="us-east-1",
        config=Config(max_pool_connections=64, read_timeout=100, retries={"max_attempts": 10}),
    )  # fmt: skip
    counts: Counter[str] = Counter()
    counting = CountingClient(client, counts, threading.Lock())
    monkeypatch.setattr("fmilib.channels.s3._client", lambda *_: counting)
    monkeypatch.setattr("fmilib.channels.s3.LONGEST_PAUSE", 0.5 if size < MANY_S3 else 10.0)
    monkeypatch.setattr("fmilib.channels.s3.ABORT_SECONDS", 1000.0)
    monkeypatch.setattr("fmilib.channels.s3.CLOSE_SECONDS", 120.0)
    found = run_ranks(size, {"backends": {"S3": backend}}, meet, timeout=250)
    assert found == [size * (size - 1) // 2] * size
    others = size - 1
    assert counts["put_object"] == size + size + size + others  # join, barrier, allreduce, close
    assert counts["get_object"] == 2 * others + 2 * others + others
    assert counts["delete_objects"] == math.ceil(counts["put_object"] / 1000)
    assert counts["list_objects_v2"] == 0
    left = client.list_objects_v2(Bucket=backend["bucket_name"], Prefix=backend["prefix"])
    assert left["KeyCount"] == 0
    assert S3Channel.name == "S3"


@pytest.mark.parametrize("size", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_ranks_beyond_the_mesh_connect_when_they_need_to(servers: Servers, size: int) -> None:
    direct = {**servers.configuration("Direct")["backends"]["Direct"], "mesh_ranks": 2}

    def body(comm: fmi.Communicator) -> Any:
        comm.barrier()
        (channel,) = comm._world.channels.values()
        connected = len(channel.connections)
        comm.barrier()  # all have counted before one connects to its neighbour
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        comm.send(comm.rank, right, INT)
        assert comm.recv(left, INT) == left
        return comm.allreduce(comm.rank, SUM, INT), connected

    found = run_ranks(size, {"backends": {"Direct": direct}}, body, timeout=60)
    assert {total for total, _ in found} == {size * (size - 1) // 2}
    # The barrier's tree has size - 1 edges.
    assert sum(connected for _, connected in found) == 2 * (size - 1)


def chain_messages(operation: str, size: int) -> int:
    """Return what `fmilib.collectives.chain` documents, of groups of eight and nine."""
    groups = max(1, size // 8)
    least = size // groups
    members = [size * (i + 1) // groups - size * i // groups for i in range(groups)]
    within = sum(n * (n - 1) for n in members)
    along = least * (groups - 1)
    return {
        "reduce": within + along + least - (groups == 1),  # the root is rank 0
        "allreduce": 2 * within + 2 * along,
        "scan": 2 * within + along,
    }[operation]


SEGMENTS = 4  # of a large value of 1 MB


@pytest.mark.parametrize(
    ("operation", "size", "documented"),
    [("barrier", n, 2 * (n - 1)) for n in (2, 5, 40)]
    + [("bcast", n, n - 1) for n in (2, 5, 40)]
    + [("bcast large", n, (n - 1) * (1 + SEGMENTS)) for n in (2, 5)]
    + [("gather", n, n - 1) for n in (2, 5, 40)]
    + [("scatter", n, n - 1) for n in (2, 5)]
    + [("allgather", n, 2 * (n - 1)) for n in (2, 5, 40)]
    + [("reduce", n, n - 1) for n in (2, 5, 40)]
    + [("allreduce", n, 2 * (n - 1)) for n in (2, 5, 40)]
    + [("scan", n, 2 * (n - 1)) for n in (2, 5, 40)]
    + [(f"{o} large", n, chain_messages(o, n))
       for o in ("reduce", "allreduce", "scan") for n in (5, 16)],
)  # fmt: skip
def test_direct_sends_the_documented_messages(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, operation: str, size: int, documented: int
) -> None:
    sent: list[int] = []
    original = DirectChannel._begin_send

    def counting(channel: DirectChannel, *arguments: Any) -> bool:
        sent.append(channel.rank)
        return original(channel, *arguments)

    value = np.ones(131_072) if operation.endswith("large") else np.ones(1)
    run: dict[str, Any] = {
        "barrier": lambda c: c.barrier(),
        "bcast": lambda c: c.bcast(value, 0, out=value.copy()),
        "gather": lambda c: c.gather(value, 0),
        "scatter": lambda c: c.scatter([value] * size if c.rank == 0 else None, 0),
        "allgather": lambda c: c.allgather(value),
        "reduce": lambda c: c.reduce(value, 0, SUM),
        "allreduce": lambda c: c.allreduce(value, SUM),
        "scan": lambda c: c.scan(value, SUM),
    }

    monkeypatch.setattr(DirectChannel, "_begin_send", counting)
    run_ranks(size, servers.configuration("Direct"), run[operation.removesuffix(" large")])
    assert len(sent) == documented
