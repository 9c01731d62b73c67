#!/usr/bin/env python3
"""Write the layers' requirements files: exact versions with the hashes of the wheels they allow.

Run `python layers/lock.py` after changing a version below. Build tools are locked for the machines
that build, everything else for Lambda's. torch for x86_64 is not locked here: its
CPU build is on the PyTorch index alone (see x86_64/pytorch_fmi.txt).
"""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from build import RUNTIME_PYTHON, WHEEL_MACHINES, WHEEL_TAGS

LAYERS = Path(__file__).parent
BOTH = tuple(WHEEL_MACHINES)
LOCKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cosmicai/requirements.txt": (
        BOTH,
        (
            "annotated-types==0.8.0",
            "aws-lambda-powertools==3.37.0",
            "aws-xray-sdk==2.15.0",
            "jmespath==1.1.0",
            "pydantic==2.13.5",
            "pydantic-core==2.46.5",
            "threadpoolctl==3.8.0",
            "typing-extensions==4.16.0",
            "typing-inspection==0.4.5",
            "wrapt==2.5.2",
        ),
    ),
    "pytorch_fmi/requirements.txt": (
        BOTH,
        (
            "numpy==2.4.6",
            "safetensors==0.8.0",
            "typing-extensions==4.16.0",
            "zstandard==0.25.0",
        ),
    ),
    # PyPI's arm64 wheels of 2.11 and later are CUDA builds; 2.9.1 is the CPU build.
    "arm64/pytorch_fmi.txt": (("arm64",), ("torch==2.9.1",)),
    "native/requirements.txt": (BOTH, ("numpy==2.4.6", "safetensors==0.8.0")),
    "openvino/requirements.txt": (BOTH, ("numpy==2.4.6", "safetensors==0.8.0")),
    # Later arm64 wheels need GLIBCXX_3.4.30, which AWS's runtime (GCC 11) does not have.
    "arm64/openvino.txt": (("arm64",), ("openvino==2025.2.0",)),
    "x86_64/openvino.txt": (("x86_64",), ("openvino==2026.4.1",)),
}


BUILD_TOOLS = {"zstandard.txt": "zstandard==0.25.0", "ziglang.txt": "ziglang==0.17.1"}
BUILD_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
BUILD_PLATFORMS = ("manylinux2014_x86_64", "manylinux2014_aarch64", "macosx_13_0_arm64")


def wheel_hash(requirement: str, python: str, platforms: Iterable[str]) -> str:
    """Download the wheel for a Python on a machine and give its SHA-256 digest."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, "--implementation", "cp"]
        command += ["--python-version", python, requirement]
        for platform in platforms:
            command += ["--platform", platform]
        subprocess.run(command, check=True)  # noqa: S603 the versions above
        (wheel,) = Path(folder).iterdir()
        return hashlib.sha256(wheel.read_bytes()).hexdigest()


def lambda_hashes(requirement: str, architectures: tuple[str, ...]) -> set[str]:
    """Give the digests of the wheels that Lambda's runtime loads."""
    machines = [WHEEL_MACHINES[architecture] for architecture in architectures]
    return {
        wheel_hash(requirement, RUNTIME_PYTHON, [f"{tag}_{machine}" for tag in WHEEL_TAGS])
        for machine in machines
    }


def build_hashes(requirement: str) -> set[str]:
    """Give the digests of the wheels that machines which build load."""
    return {
        wheel_hash(requirement, python, [platform])
        for python in BUILD_PYTHONS
        for platform in BUILD_PLATFORMS
    }


def write(name: str, hashes: dict[str, set[str]]) -> None:
    """Write one requirements file."""
    lines = ["# Written by layers/lock.py: versions are changed there."]
    for requirement, digests in hashes.items():
        locked = [requirement, *(f"--hash=sha256:{digest}" for digest in sorted(digests))]
        lines.append(" \\\n    ".join(locked))
    (LAYERS / name).write_text("\n".join(lines) + "\n")


def main() -> None:
    """Rewrite every locked file."""
    for name, (architectures, requirements) in LOCKS.items():
        write(name, {each: lambda_hashes(each, architectures) for each in requirements})
    for name, tool in BUILD_TOOLS.items():
        write(name, {tool: build_hashes(tool)})


if __name__ == "__main__":
    main()
