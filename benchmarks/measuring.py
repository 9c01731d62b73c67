"""What benchmarks share: the spread of rounds, the machine, a command line with limits."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# The widest vectors first; x86_64's names, then arm64's.
_VECTORS = ("avx512f", "avx2", "avx", "sse4_2", "sve2", "sve", "asimd")


def spread(values: Sequence[float], digits: int | None = None) -> dict[str, float]:
    """Return median, smallest, largest and number of some values, rounded to ``digits``."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    if digits is not None:
        found = {name: round(value, digits) for name, value in found.items()}
    return {**found, "n": len(values)}


def main_with_limits(
    description: str | None,
    measure: Callable[[int], dict[str, Any]],
    missed: Callable[[dict[str, Any]], list[str]],
) -> int:
    """Parse the command line, measure, print; return how many limits were missed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="Write the figures there.")
    options = parser.parse_args()
    found = measure(options.rounds)
    found["missed"] = missed(found)
    text = json.dumps(found, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)
    return len(found["missed"])


def machine(*packages: str) -> dict[str, Any]:
    """Return what was measured on, with the versions of Python and of some packages.

    ``cores`` are those that this process may use; ``instruction_set`` is the widest vector
    extension, on which the speed of inference depends.
    """
    lines = [line.partition(":") for line in _cpuinfo().splitlines()]
    told = {key.strip(): value.strip() for key, _, value in lines}
    flags = told.get("flags", told.get("Features", "")).split()
    return {
        "cpu": told.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "instruction_set": next((name for name in _VECTORS if name in flags), "unknown"),
        "system": platform.platform(),
        "versions": {"python": platform.python_version()}
        | {name: found for name in packages if (found := _version(name))},
    }


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
