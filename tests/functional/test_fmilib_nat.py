"""Hole punching across real NAT: ranks in network namespaces behind masquerading routers.

Two ranks have the same private address behind two routers that let nothing new in, as Lambda
functions do; a third has a public address. Needs root, iproute2 and iptables.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import uuid
from typing import TYPE_CHECKING

import pytest
from fmi_support import TOKEN, stop

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = textwrap.dedent("""
    import json, sys, time
    import fmilib as fmi
    rank, size, name, cut = json.loads(sys.argv[1])
    configuration = {"backends": {"Direct": {"host": "10.99.0.1", "port": 10000}}}
    INT, SUM = fmi.types(fmi.datatypes.int), fmi.func(fmi.op.sum)
    started = time.monotonic()
    with fmi.Communicator(rank, size, configuration, name, timeout=4 if cut else 20) as comm:
        comm.barrier()
        seconds = time.monotonic() - started
        total = comm.allreduce(rank + 1, SUM, INT)
        large = comm.allreduce([rank] * 50_000, SUM, fmi.types(fmi.datatypes.int_list, 50_000))
        print(json.dumps([total, large[-1], seconds]), flush=True)
        if cut:
            sys.stdin.readline()
            try:
                comm.barrier()
            except fmi.FmiError as error:
                print(json.dumps([type(error).__name__, list(error.ranks)]), flush=True)
""")


def ip(command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command.split(), check=check, capture_output=True, text=True, timeout=20)


class Net:
    """A public segment with a server, and private networks behind routers."""

    def __init__(self) -> None:
        self.tag = uuid.uuid4().hex[:4]
        self.spaces: list[str] = []

    def space(self, name: str) -> str:
        full = f"fmi{self.tag}{name}"
        ip(f"ip netns add {full}")
        self.spaces.append(full)
        ip(f"ip -n {full} link set lo up")
        return full

    def build(self) -> None:
        public = self.space("p")
        ip(f"ip -n {public} link add br0 type bridge")
        ip(f"ip -n {public} addr add 10.99.0.1/24 dev br0")
        ip(f"ip -n {public} link set br0 up")
        for number, name in enumerate("ab"):
            router, host = self.space(f"r{name}"), self.space(name)
            self.wire(public, f"p{name}", router, "out")
            ip(f"ip -n {public} link set p{name} master br0")
            ip(f"ip -n {router} addr add 10.99.0.{number + 2}/24 dev out")
            self.wire(router, "in", host, "eth0")
            ip(f"ip -n {router} addr add 192.168.1.1/24 dev in")
            ip(f"ip -n {host} addr add 192.168.1.2/24 dev eth0")
            ip(f"ip -n {host} route add default via 192.168.1.1")
            run = f"ip netns exec {router}"
            ip(f"{run} sysctl -qw net.ipv4.ip_forward=1")
            ip(f"{run} iptables -t nat -A POSTROUTING -o out -j MASQUERADE")
            # As NATs do, it lets nothing new in, and does not answer it either.
            ip(f"{run} iptables -A FORWARD -i out -m conntrack --ctstate NEW -j DROP")
            ip(f"{run} iptables -A INPUT -i out -m conntrack --ctstate NEW -j DROP")

    def wire(self, one: str, one_end: str, other: str, other_end: str) -> None:
        ip(f"ip -n {one} link add {one_end} type veth peer name {other_end} netns {other}")
        ip(f"ip -n {one} link set {one_end} up")
        ip(f"ip -n {other} link set {other_end} up")

    def start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", f"fmi{self.tag}{name}", sys.executable, *arguments],
            env={**os.environ, "FMI_TOKEN": TOKEN},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        for space in self.spaces:
            ip(f"ip netns del {space}", check=False)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    missing = [tool for tool in ("ip", "iptables", "sysctl") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing (Debian: iproute2, iptables, procps)")
    built = Net()
    try:
        built.build()
    except subprocess.CalledProcessError as error:
        built.close()
        pytest.skip(f"network namespaces do not work here: {error.stderr.strip()}")
    server = built.start("p", "-m", "fmilib.rendezvous", "--host", "10.99.0.1", "--port", "10000")
    yield built
    stop(server)  # type: ignore[arg-type]
    built.close()


def start_ranks(net: Net, places: str, *, cut: bool = False) -> list[subprocess.Popen[str]]:
    name = uuid.uuid4().hex
    return [
        net.start(place, "-c", PROGRAM, json.dumps([rank, len(places), name, cut]))
        for rank, place in enumerate(places)
    ]


@pytest.mark.parametrize("places", ["ab", "pab", "abp", "aabb"])
def test_ranks_behind_nat_reach_each_other(net: Net, places: str) -> None:
    processes = start_ranks(net, places)
    for process in processes:
        output, errors = process.communicate(timeout=40)
        assert process.returncode == 0, errors
        total, large, _seconds = json.loads(output)
        assert total == sum(range(1, len(places) + 1))
        assert large == sum(range(len(places)))


def test_a_cut_connection_is_named(net: Net) -> None:
    """The network falls silent: no reset, no goodbye. The deadline ends the wait."""
    processes = start_ranks(net, "ab", cut=True)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("[3, 1, ")
    try:
        ip(f"ip -n fmi{net.tag}ra link set out down")
        answers = [process.communicate("go\n", timeout=30) for process in processes]
    finally:
        ip(f"ip -n fmi{net.tag}ra link set out up", check=False)
    for rank, (output, errors) in enumerate(answers):
        assert output, errors
        name, ranks = json.loads(output)
        assert name in ("FmiTimeout", "FmiPeerLost")
        assert ranks == [1 - rank]
