"""A thousand ranks over Redis and S3, with the documented number of requests; lazy meshes."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fmi_support import INT, SUM, Servers, own_channel, run_ranks, watched
from fmilib.channels.memory import Network
from fmilib.channels.s3 import ABORT_SECONDS, FIRST_PAUSE, looks, pauses

if TYPE_CHECKING:
    from collections.abc import Iterator

    import fmilib as fmi

MANY = 1000


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
    """An S3 client that counts the requests that are answered, and the reads that find nothing."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(**arguments: Any) -> Any:
            try:
                answer = method(**arguments)
            except self._client.exceptions.NoSuchKey:
                self._count("abort" if arguments["Key"].endswith("/abort") else "missing")
                raise
            self._count(name)
            return answer

        return call

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1


@pytest.mark.parametrize("size", [7, 40, pytest.param(MANY, marks=pytest.mark.slow)])
def test_ranks_over_s3_with_the_documented_requests(servers: Servers, size: int) -> None:
    import boto3
    from botocore.config import Config

    configuration = servers.configuration("S3")
    # The store that stands in for S3 answers some hundred requests per second.
    backend = {
        **configuration["backends"]["S3"],
        "prefix": f"many-{uuid.uuid4().hex}",
        "requests_per_second": 100,
        "close_seconds": 120,
    }
    client = boto3.client(
        "s3", endpoint_url=backend["endpoint_url"], region_name="us-east-1",
        config=Config(
            max_pool_connections=64, read_timeout=100, retries={"max_attempts": 10},
            parameter_validation=False,
        ),
    )  # fmt: skip
    counting = CountingClient(client)
    counts = counting.counts
    backend["client"] = counting
    began = time.monotonic()
    found = run_ranks(size, {"backends": {"S3": backend}}, meet, timeout=300)
    seconds = time.monotonic() - began
    assert found == [size * (size - 1) // 2] * size
    others = size - 1
    assert counts["put_object"] == size + size + size + others  # join, barrier, allreduce, close
    assert counts["get_object"] == 2 * others + 2 * others + others
    assert counts["delete_objects"] == math.ceil(counts["put_object"] / 1000)
    # Every fetch may have waited all the time.
    first, longest = pauses(size, FIRST_PAUSE, backend["requests_per_second"])
    assert counts["missing"] <= counts["get_object"] * looks(seconds, first, longest)
    assert counts["abort"] <= size * (1 + seconds / max(ABORT_SECONDS, 2 * longest))
    assert set(counts) <= {"put_object", "get_object", "delete_objects", "missing", "abort"}
    left = client.list_objects_v2(Bucket=backend["bucket_name"], Prefix=backend["prefix"])
    assert left["KeyCount"] == 0


@pytest.mark.parametrize("size", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_ranks_beyond_the_mesh_connect_when_they_need_to(servers: Servers, size: int) -> None:
    direct = {**servers.configuration("Direct")["backends"]["Direct"], "mesh_ranks": 2}

    def body(comm: fmi.Communicator) -> Any:
        comm.barrier()
        connected = len(own_channel().connections)
        comm.barrier()  # all have counted before one connects to its neighbour
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        comm.send(comm.rank, right, INT)
        assert comm.recv(left, INT) == left
        return comm.allreduce(comm.rank, SUM, INT), connected

    found = run_ranks(size, watched({"backends": {"Direct": direct}}), body, timeout=60)
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
@pytest.mark.parametrize("channel", ["Memory", "Direct"])
def test_direct_sends_the_documented_messages(
    servers: Servers, channel: str, operation: str, size: int, documented: int
) -> None:
    sent: list[int] = []
    network = Network(lambda _, receiver: sent.append(receiver))
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

    body = run[operation.removesuffix(" large")]
    if channel == "Memory":
        run_ranks(size, {"backends": {"Memory": {"network": network}}}, body)
        assert len(sent) == documented
        return
    everybody = threading.Barrier(size)

    def counted(comm: fmi.Communicator) -> int:
        body(comm)
        everybody.wait(20)
        return int(own_channel().delivered)

    assert sum(run_ranks(size, watched(servers.configuration("Direct")), counted)) == documented
