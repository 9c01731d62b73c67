"""The rendezvous server: who may join, who is told what, and what it does not put up with."""

from __future__ import annotations

import json
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from typing import TYPE_CHECKING, Any

import fmilib as fmi
import pytest
from fmi_support import (
    SUM,
    TOKEN,
    free_port,
    own_channel,
    run_ranks,
    start_rendezvous,
    stop,
    watched,
)
from fmilib.rendezvous import protocol
from fmilib.rendezvous.client import Rendezvous

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    number = free_port()
    server = start_rendezvous(number, "--session-seconds", "5", "--max-clients", "60")
    yield number
    stop(server)


def client(port: int, rank: int, session: str, size: int = 2, token: str = TOKEN) -> Rendezvous:
    member = fmi.Member(session, epoch=0, rank=rank, size=size, timeout=5.0, token=token)
    return Rendezvous(("127.0.0.1", port), member)


def health(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def raw(port: int, line: bytes) -> dict[str, Any]:
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(line)
        answer: dict[str, Any] = json.loads(sock.makefile("rb").readline())
    return answer


def joining(port: int, rank: Rendezvous, wait: float) -> socket.socket:
    """Return the connection of a rank that has joined and waits for the others."""
    sock = socket.create_connection(("127.0.0.1", port), 5)
    rank.local = sock.getsockname()[:2]
    sock.sendall(protocol.encode({**rank.join_message("join"), "wait": wait}))
    return sock


def test_another_token_is_refused(port: int) -> None:
    with pytest.raises(fmi.FmiDenied):
        client(port, 0, "s", token="another").join(0, 2)


def test_a_recorded_join_is_refused_when_replayed(port: int) -> None:
    rank = client(port, 0, uuid.uuid4().hex)
    rank.local = ("127.0.0.1", 1)
    line = protocol.encode({**rank.join_message("join"), "wait": 0.01})
    assert raw(port, line) == {"type": "timeout", "absent": [1]}
    assert raw(port, line)["error"] == "FmiDenied"
    old = {**rank.join_message("join"), "time": int(time.time()) - 3600}
    old["mac"] = protocol.sign(TOKEN, old)
    assert "clocks" in raw(port, protocol.encode(old))["message"]


def test_absent_ranks_are_named(port: int) -> None:
    with pytest.raises(fmi.FmiTimeout, match="ranks 0, 2, 3 of 4") as found:
        client(port, 1, uuid.uuid4().hex, size=4).join(0, 0.2)
    assert found.value.ranks == (0, 2, 3)


def test_ranks_that_disagree_about_the_size_are_told(port: int) -> None:
    session = uuid.uuid4().hex
    first = joining(port, client(port, 0, session, size=3), 3)
    time.sleep(0.1)
    with pytest.raises(fmi.FmiMismatch, match="has 3 ranks; rank 1 says 2"):
        client(port, 1, session, size=2).join(0, 2)
    first.close()


def test_a_dead_client_frees_its_place(port: int) -> None:
    session = uuid.uuid4().hex
    dead = joining(port, client(port, 0, session), 5)
    time.sleep(0.1)
    assert health(port)["waiting"] == 1
    dead.close()
    time.sleep(0.2)
    assert health(port)["waiting"] == 0
    assert health(port)["sessions"] == 0


@pytest.mark.parametrize(
    "line",
    [
        b"x" * 5000,
        b"not json\n",
        b"[]\n",
        b'{"type":"join"}\n',
        (
            b'{"type":"join","v":1,"session":"s","epoch":0,"rank":5,"size":2,"strict":true,"wait":1,'
            b'"local":["h",1],"time":1,"nonce":"n"}\n'
        ),
        b'{"type":"nothing"}\n',
    ],
)
def test_rubbish_is_refused(port: int, line: bytes) -> None:
    assert raw(port, line)["type"] == "error"
    assert health(port)["status"] == "ok"


def test_the_number_of_clients_is_bounded_and_the_slowest_to_join_make_room(port: int) -> None:
    held = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(90)]
    try:
        time.sleep(0.3)
        found = health(port)
        assert found["status"] == "ok"
        assert found["clients"] <= 60
        assert held[0].recv(1) == b""  # the oldest was hung up on
        with pytest.raises(fmi.FmiTimeout, match="rank 1 of 2"):  # a rank gets in
            client(port, 0, uuid.uuid4().hex).join(0, 0.5)
    finally:
        for sock in held:
            sock.close()
    time.sleep(0.3)
    assert health(port)["clients"] == 1  # who asks


def test_a_server_full_of_ranks_refuses_more(port: int) -> None:
    session = uuid.uuid4().hex
    held = [joining(port, client(port, rank, session, size=60), 5) for rank in range(59)]
    held.append(joining(port, client(port, 0, uuid.uuid4().hex), 5))
    try:
        time.sleep(0.3)
        assert "full" in raw(port, b"\n")["message"]
    finally:
        for sock in held:
            sock.close()
    time.sleep(0.3)
    assert health(port)["clients"] == 1


def trickle(port: int, connections: int, stopped: threading.Event) -> None:
    """Keep connections open that send a byte of a join message now and then."""
    poll, open_ = select.epoll(), {}
    while not stopped.is_set():
        for _ in range(min(200, connections - len(open_))):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            open_[sock.fileno()] = sock
            poll.register(sock, select.EPOLLOUT | select.EPOLLHUP)
        stopped.wait(0.1)
        for number, _ in poll.poll(0, connections):
            sock = open_[number]
            try:
                sock.send(b"{")
            except OSError:
                del open_[number]
                sock.close()
    for sock in open_.values():
        sock.close()


@pytest.mark.parametrize("connections", [400, 800, pytest.param(3000, marks=pytest.mark.slow)])
def test_ranks_meet_while_strangers_trickle(connections: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    number = free_port()
    server = start_rendezvous(number, "--max-joining", "64", "--max-clients", "300")
    stopped = threading.Event()
    stranger = threading.Thread(target=trickle, args=(number, connections, stopped))
    try:
        stranger.start()
        time.sleep(0.5)
        configuration = {"backends": {"Direct": {"host": "127.0.0.1", "port": number}}}
        assert run_ranks(4, configuration, lambda c: c.allreduce(1, SUM), timeout=15) == [4] * 4
        assert health(number)["clients"] <= 300
    finally:
        stopped.set()
        stranger.join(20)
        stop(server)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_servers_own_limit_ends_a_wait() -> None:
    number = free_port()
    server = start_rendezvous(number, "--session-seconds", "0.3")
    try:
        started = time.monotonic()
        with pytest.raises(fmi.FmiTimeout):
            client(number, 0, "s").join(0, 60)
        assert time.monotonic() - started < 3
    finally:
        stop(server)


def test_it_logs_json_and_shuts_down_cleanly() -> None:
    number = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "fmilib.rendezvous", "--no-auth", "--host", "127.0.0.1", "--port",
         str(number)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stderr is not None
    first = json.loads(server.stderr.readline())
    assert (first["event"], first["port"]) == ("listening", number)
    checked = subprocess.run(
        [sys.executable, "-m", "fmilib.rendezvous", "--health", "--host", "127.0.0.1", "--port",
         str(number)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert checked.returncode == 0
    assert json.loads(checked.stdout)["status"] == "ok"
    server.send_signal(signal.SIGTERM)
    _, rest = server.communicate(timeout=10)
    assert server.returncode == 0
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["stopped"]


def test_without_a_token_it_does_not_start() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "fmilib.rendezvous"], capture_output=True, text=True, env={}
    )
    assert answer.returncode == 2
    assert "FMI_TOKEN" in answer.stderr


def test_a_stranger_at_a_ranks_port_is_turned_away(port: int) -> None:
    configuration = watched({"backends": {"Direct": {"host": "127.0.0.1", "port": port}}})
    name = uuid.uuid4().hex
    results: list[Any] = []

    def run(rank: int) -> None:
        with fmi.Communicator(rank, 2, configuration, name, timeout=10, token=TOKEN) as comm:
            comm.barrier()
            with socket.create_connection(("127.0.0.1", own_channel().port), 5) as stranger:
                stranger.sendall(b"A" * 200)
                comm.barrier()
                time.sleep(0.05)
                results.append(comm.allreduce(1, fmi.func(fmi.op.sum)))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [2, 2]
