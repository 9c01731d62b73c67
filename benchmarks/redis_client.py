"""fmilib's own Redis client against redis-py: importing, small commands, values of 1 MB.

    pip install hiredis                               # optional: redis-py with its C parser
    python benchmarks/redis_client.py                 # results/redis_client.json
    python benchmarks/redis_client.py --json --rounds 3

Against a redis-server of its own on this machine; the clients take turns, round by round. These
figures decide why fmilib does not use redis-py (docs/fmilib.md).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmi import missing, servers
from fmilib.channels.resp import Resp
from measuring import machine, spread

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent / "results" / "redis_client.json"
VALUE = bytes(1_000_000)
OURS = "fmilib"
IMPORTS = {OURS: "fmilib.channels.resp", "redis-py": "redis.connection"}
REPETITIONS = 50
TIMEOUT = 5.0  # seconds

Operations = dict[str, "Callable[[], object]"]


def ours(port: int) -> Operations:
    """Return what is measured, over fmilib's client."""
    client = Resp(f"redis://127.0.0.1:{port}", TIMEOUT)

    def pings() -> None:
        client.send([("PING",)] * 3)
        for _ in range(3):
            client.read(TIMEOUT)

    return {
        "set_1mb": lambda: client.call(TIMEOUT, "SET", "value", VALUE),
        "get_1mb": lambda: client.call(TIMEOUT, "GET", "value"),
        "three_pings": pings,
    }


def theirs(port: int, parser: Any) -> Operations:
    """Return the same over redis-py, at the level of its connections: without pool and commands."""
    from redis.connection import Connection

    connection = Connection(
        host="127.0.0.1", port=port, socket_timeout=TIMEOUT, protocol=2, parser_class=parser
    )
    connection.connect()

    def call(*command: object) -> object:
        connection.send_command(*command)
        return connection.read_response(disable_decoding=True)

    def pings() -> None:
        connection.send_packed_command(connection.pack_commands([("PING",)] * 3))
        for _ in range(3):
            connection.read_response(disable_decoding=True)

    return {
        "set_1mb": lambda: call("SET", "value", VALUE),
        "get_1mb": lambda: call("GET", "value"),
        "three_pings": pings,
    }


def clients(port: int) -> dict[str, Operations]:
    """Return what is measured, by client."""
    from redis._parsers import _HiredisParser, _RESP2Parser  # the choice has no public name

    found = {OURS: ours(port), "redis-py": theirs(port, _RESP2Parser)}
    if importlib.util.find_spec("hiredis") is not None:
        found["redis-py with hiredis"] = theirs(port, _HiredisParser)
    return found


def median_ms(run: Callable[[], object]) -> float:
    """Return the median of some repetitions."""
    taken = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def import_ms(module: str) -> float:
    """Return how long a new process imports ``module``, beside what fmilib imports anyway."""
    code = (
        "import fmilib, time; t = time.perf_counter(); "
        f"import {module}; print(1000 * (time.perf_counter() - t))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    return float(done.stdout)


def measure(port: int, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return every figure in milliseconds, by operation and client."""
    found: dict[str, dict[str, list[float]]] = {}
    measured = clients(port)
    for _ in range(rounds):
        for client, module in IMPORTS.items():
            found.setdefault("import", {}).setdefault(client, []).append(import_ms(module))
        for client, operations in measured.items():
            for name, run in operations.items():
                found.setdefault(name, {}).setdefault(client, []).append(median_ms(run))
    return {
        name: {client: spread(values, 3) for client, values in row.items()}
        for name, row in found.items()
    }


def main() -> None:
    """Measure, write the results, print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if "redis" in missing():
        sys.exit("redis-server is not installed (Debian: apt-get install redis-server)")
    with servers(["redis"]) as backends:
        milliseconds = measure(backends["redis"]["Redis"]["port"], options.rounds)
    results = {
        "machine": machine("redis", "hiredis"),
        "milliseconds": milliseconds,
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for name, row in milliseconds.items():
        for client, figure in row.items():
            print(
                f"{name:12} {client:22} {figure['median']:8.3f} ms "
                f"({figure['min']:.3f}–{figure['max']:.3f}, n = {figure['n']})"
            )


if __name__ == "__main__":
    main()
