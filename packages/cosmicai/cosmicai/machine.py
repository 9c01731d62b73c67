"""What this process has and uses of the machine: cores, memory, architecture."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

from cosmicai.facts import MB


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def architecture() -> str:
    """Return the processor's architecture as AWS names it: ``arm64`` or ``x86_64``."""
    machine = platform.machine()
    return "arm64" if machine == "aarch64" else machine


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process so far, in MB of 2^20 bytes."""
    if sys.platform == "linux":  # where ru_maxrss may be the parent's, whatever this one uses
        peak = peak_memory_mb_of(os.getpid())
        if peak is not None:
            return peak
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_bytes * (1 if sys.platform == "darwin" else 1024) / MB


def peak_memory_mb_of(process: int) -> float | None:
    """Return the peak resident memory of a Linux process in MB; None if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) * 1024 / MB if found else None  # a zombie has no memory left


def processor_features() -> frozenset[str] | None:
    """Return the processor's features as Linux names them; None where it does not name them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):  # on x86_64, on arm64
            return frozenset(value.split())
    return None


def multiplies_bfloat16(features: frozenset[str] | None) -> bool:
    """Say whether a processor of these features multiplies bfloat16 itself; unknown counts as yes.

    One that does not computes in bfloat16 by converting back and forth, far slower than in float32.
    """
    return features is None or not features.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
