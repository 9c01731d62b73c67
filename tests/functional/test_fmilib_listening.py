"""Where the ranks of the direct channel listen."""

import socket
from pathlib import Path

import fmilib as fmi
import pytest
from fmi_support import INT, SUM, free_port, run_ranks, start_rendezvous, stop


def listening() -> dict[str, str]:
    """Return the IPv4 address of each socket on which this process listens, by its inode."""
    inodes = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:  # LISTEN
            address = bytes.fromhex(fields[1].split(":")[0])[::-1]
            found[fields[9]] = socket.inet_ntoa(address)
    return found


def meet(comm: fmi.Communicator) -> tuple[int, dict[str, str]]:
    """Reduce, and look while all ranks listen."""
    total = comm.allreduce(1, SUM, INT)
    found = listening()
    comm.barrier()
    return int(total), found


@pytest.mark.parametrize(
    ("server", "expected"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("", "0.0.0.0")],
)
def test_ranks_listen_as_widely_as_their_rendezvous_server_is_reached(
    server: str, expected: str
) -> None:
    host = server or own_address()
    port = free_port()
    rendezvous = start_rendezvous(port, host="127.0.0.1" if server else host)
    try:
        configuration = {"backends": {"Direct": {"host": host, "port": port}}}
        inherited = listening()  # ranks are forked from this process
        results = run_ranks(2, configuration, meet)
    finally:
        stop(rendezvous)
    assert [total for total, _ in results] == [2, 2]
    for _, found in results:
        own = {address for inode, address in found.items() if inode not in inherited}
        assert own == {expected}


def own_address() -> str:
    """Return an address of this machine that is not the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has the loopback interface only")
        return str(probe.getsockname()[0])
