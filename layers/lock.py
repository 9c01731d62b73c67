#!/usr/bin/env python3
"""Write the layers' requirements files: exact versions with the hashes of the wheels they allow.

Run `python layers/lock.py` after changing a version below. torch for x86_64 is not locked here: its
CPU build is on the PyTorch index alone (see pytorch_fmi/requirements-x86_64.txt).
"""

import hashlib
import subprocess
import sys
import tempfile
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
            "redis==8.1.0",
            "safetensors==0.8.0",
            "typing-extensions==4.16.0",
            "zstandard==0.25.0",
        ),
    ),
    # PyPI's arm64 wheels of 2.11 and later are CUDA builds; 2.9.1 is the CPU build.
    "pytorch_fmi/requirements-arm64.txt": (("arm64",), ("torch==2.9.1",)),
    "openvino/requirements.txt": (BOTH, ("numpy==2.4.6", "safetensors==0.8.0")),
    # Later arm64 wheels need GLIBCXX_3.4.30, which AWS's runtime (GCC 11) does not have.
    "openvino/requirements-arm64.txt": (("arm64",), ("openvino==2025.2.0",)),
    "openvino/requirements-x86_64.txt": (("x86_64",), ("openvino==2026.4.1",)),
}


def wheel_hashes(requirement: str, architectures: tuple[str, ...]) -> list[str]:
    """Download the wheel for each architecture and give the distinct SHA-256 digests."""
    digests = set()
    for architecture in architectures:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--only-binary=:all:", "--dest", folder, "--implementation", "cp"]
            command += ["--python-version", RUNTIME_PYTHON, requirement]
            for tag in WHEEL_TAGS:
                command += ["--platform", f"{tag}_{WHEEL_MACHINES[architecture]}"]
            subprocess.run(command, check=True)  # noqa: S603 the versions above
            (wheel,) = Path(folder).iterdir()
            digests.add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    return sorted(digests)


def main() -> None:
    """Rewrite every locked file."""
    for name, (architectures, requirements) in LOCKS.items():
        lines = ["# Written by layers/lock.py: versions are changed there."]
        for requirement in requirements:
            hashes = wheel_hashes(requirement, architectures)
            lines.append(" \\\n    ".join([requirement, *(f"--hash=sha256:{h}" for h in hashes)]))
        (LAYERS / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
