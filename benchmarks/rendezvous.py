"""The rendezvous server with 10,000 waiting ranks on this machine.

    python benchmarks/rendezvous.py [--clients 10000] [--json]

One session of all clients: how long they take to register, what the server then holds, how fast
it answers its health check meanwhile, and how long until the last client has all addresses once
the last rank has come. Writes ``benchmarks/results/rendezvous.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fmilib.rendezvous import protocol
from measuring import machine

RESULTS = Path(__file__).parent / "results" / "rendezvous.json"
TOKEN = "benchmark"


def join_line(rank: int, size: int) -> bytes:
    """Return a signed join."""
    message: dict[str, Any] = {
        "v": protocol.VERSION,
        "type": "join",
        "session": "benchmark",
        "epoch": 0,
        "rank": rank,
        "size": size,
        "strict": True,
        "wait": 600.0,
        "local": ["10.0.0.1", 40000],
        "time": int(time.time()),
        "nonce": secrets.token_hex(12),
    }
    message["mac"] = protocol.sign(TOKEN, message)
    return protocol.encode(message)


def resident_mb(process: int) -> float:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    return 0.0


async def health(port: int) -> float:
    """Return the seconds that a health check takes."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b'{"type":"health"}\n')
    answer = json.loads(await reader.readline())
    writer.close()
    if answer["status"] != "ok":
        raise RuntimeError(f"not well: {answer}")
    return time.perf_counter() - started


async def measure(port: int, server: int, clients: int) -> dict[str, Any]:
    """Register all but one, look at the server, register the last, and await all answers."""
    empty = resident_mb(server)
    connections = []

    async def register(rank: int) -> None:
        # From several loopback addresses, since one has 28,000 ports.
        source = (f"127.0.{1 + rank // 5000}.1", 0)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=source, limit=1 << 22
        )
        writer.write(join_line(rank, clients))
        connections.append((reader, writer))

    started = time.perf_counter()
    for first in range(0, clients - 1, 200):
        ranks = range(first, min(first + 200, clients - 1))
        await asyncio.gather(*(register(rank) for rank in ranks))
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'{"type":"health"}\n')
        waiting = json.loads(await reader.readline())["waiting"]
        writer.close()
        if waiting == clients - 1:
            break
        await asyncio.sleep(0.05)
    registered = time.perf_counter() - started
    full = resident_mb(server)
    checks = sorted([await health(port) for _ in range(50)])

    async def answer(reader: asyncio.StreamReader) -> int:
        return len(await reader.readline())

    started = time.perf_counter()
    await register(clients - 1)
    sizes = await asyncio.gather(*(answer(reader) for reader, _ in connections))
    answered = time.perf_counter() - started
    peak = resident_mb(server)
    for _, writer in connections:
        writer.close()
    return {
        "clients": clients,
        "register_seconds": round(registered, 2),
        "registrations_per_second": round(clients / registered),
        "server_empty_mb": round(empty, 1),
        "server_waiting_mb": round(full, 1),
        "server_kb_per_waiting_client": round((full - empty) * 1000 / clients, 2),
        "health_ms_median": round(1000 * checks[25], 2),
        "health_ms_longest": round(1000 * checks[-1], 2),
        "last_join_to_all_answered_seconds": round(answered, 2),
        "answer_bytes": sizes[0],
        "server_after_mb": round(peak, 1),
    }


def main() -> None:
    """Start a server, measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    needed = options.clients + 200
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        sys.exit(f"this needs {needed} open files; the limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder, "port")
        server = subprocess.Popen(
            [sys.executable, "-m", "fmilib.rendezvous", "--host", "127.0.0.1", "--port", "0",
             "--port-file", str(port_file)],
            env={**os.environ, "FMI_TOKEN": TOKEN}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not port_file.exists():
                time.sleep(0.02)
            port = int(port_file.read_text())
            result = asyncio.run(measure(port, server.pid, options.clients))
        finally:
            server.terminate()
            server.wait()
    result = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        **result,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:>36} {value}")


if __name__ == "__main__":
    main()
