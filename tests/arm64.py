"""The native engine's arm64 code on any machine: cross-compiled, run by QEMU."""

from __future__ import annotations

import runpy
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "packages/cosmicai/native"
BUILD = runpy.run_path(str(SOURCES / "build.py"))
SETS = tuple(BUILD["INSTRUCTION_SETS"]["aarch64"])
EMULATOR = shutil.which("qemu-aarch64-static") or ""
"""Empty if Debian's qemu-user-static is not installed."""
_ARGUMENTS = 11
_INTEGER, _NUMBER, _BUFFER = range(3)


def compiled(output: Path, *arguments: str, instruction_set: str | None = None) -> Path:
    """Compile with the engine's flags, for a static program: QEMU has no arm64 C library."""
    zig = [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]
    command = [*zig, "-target", "aarch64-linux-musl", *BUILD["FLAGS"], f"-I{SOURCES}"]
    if instruction_set:
        command += BUILD["kernel_flags"]("aarch64", instruction_set, is_zig=True)
        command.append(f"-DVARIANT={instruction_set}")
    subprocess.run([*command, *arguments, "-o", output], cwd=SOURCES, check=True, timeout=500)
    return output


def linked(output: Path, *parts: Path | str) -> Path:
    """Link a static program; zig compiles a C library for it once per cache."""
    return compiled(output, "-static", *map(str, parts))


class EmulatedKernels:
    """The functions of tests/native/kernels.c, called as a ctypes library's would be.

    Arrays are passed as they are, and have what the function wrote when it returns.
    """

    def __init__(self, instruction_set: str, folder: Path) -> None:
        source = str(ROOT / "tests/native/call.c")
        call = compiled(folder / "call.o", "-c", source, instruction_set=instruction_set)
        program = linked(folder / "call", call)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([EMULATOR, program], stdin=pipe, stdout=pipe)

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *arguments: self._call(name, arguments)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> int:
        to, answer = self._process.stdin, self._process.stdout
        assert to is not None
        assert answer is not None
        to.write(struct.pack("32s", name.encode()))
        for value in (*arguments, *(0,) * (_ARGUMENTS - len(arguments))):
            if isinstance(value, int):
                to.write(struct.pack("=qq", _INTEGER, value))
            elif isinstance(value, float):
                to.write(struct.pack("=qf", _NUMBER, value))
            else:
                content = b"" if value is None else value.tobytes()
                to.write(struct.pack("=qq", _BUFFER, len(content)) + content)
        to.flush()
        result: int = struct.unpack("=q", answer.read(8))[0]
        for value in arguments:
            if isinstance(value, np.ndarray):
                content = answer.read(value.nbytes)
                if value.flags.writeable:
                    value[...] = np.frombuffer(content, value.dtype).reshape(value.shape)
        return result

    def close(self) -> None:
        """End the emulator."""
        self._process.communicate(timeout=30)
