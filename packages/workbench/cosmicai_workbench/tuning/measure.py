"""Measure an engine on this machine as a Lambda function of some memory size would run it.

Lambda gives a function a share of the processors by its memory size: one whole vCPU per 1,769 MB.
A worker process computes with as many threads as it has whole or part vCPUs, and is stopped and
continued in turns so that it runs for the share of time that its memory size pays for, as the
kernel's CPU quota does it there. Sizes with more vCPUs than this machine has cores cannot be
measured here.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmicai.errors import CosmicAIError, InvalidInput
from cosmicai.facts import MEMORY_MB_PER_VCPU, threads, vcpus
from cosmicai.machine import available_cores

if TYPE_CHECKING:
    from pathlib import Path

PERIOD_SECONDS = 0.1
"""One turn of running and standing still; the kernel's default period of a CPU quota."""
TIMEOUT_SECONDS = 600


class Measurement(NamedTuple):
    """What one worker found."""

    start_seconds: float
    """Process start to the first batch, without the time a later batch takes."""
    galaxies_per_second: float
    peak_memory_mb: float


class MeasurementFailed(CosmicAIError):
    """A worker process ended with an error."""


def measure(
    bundle: Path, engine: str, *, memory_mb: int, batch_size: int, galaxies: int
) -> Measurement:
    """Run a worker with the share of the processors that ``memory_mb`` pays for.

    Raises
    ------
    InvalidInput
        This machine has fewer cores than the memory size has vCPUs.
    MeasurementFailed
        The worker failed; its error is in the message.
    """
    cores = available_cores()
    count = threads(memory_mb)
    if count > cores:
        raise InvalidInput(
            f"memory size {memory_mb} MB has {vcpus(memory_mb):.1f} vCPUs, this machine {cores} "
            f"cores; measure at most {cores * MEMORY_MB_PER_VCPU} MB here"
        )
    share = min(1.0, vcpus(memory_mb) / count)
    command = [
        sys.executable, "-m", "cosmicai_workbench.tuning.worker", str(bundle), engine,
        str(count), str(batch_size), str(galaxies), repr(time.time()),
    ]  # fmt: skip
    process = subprocess.Popen(  # noqa: S603 (our own module with the user's paths)
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        _duty_cycle(process, share)
        stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise MeasurementFailed(f"measuring {engine} at {memory_mb} MB: {stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(stdout)
    return Measurement(**found)


def _duty_cycle(process: subprocess.Popen[str], share: float) -> None:
    """Let the process run for ``share`` of the time until it ends."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if share >= 1:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=PERIOD_SECONDS)
            continue
        time.sleep(share * PERIOD_SECONDS)
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            time.sleep((1 - share) * PERIOD_SECONDS)
            process.send_signal(signal.SIGCONT)
