"""Compile the native engine into one shared library, with no more than pip brings.

The compiler is that of PyPI's ``ziglang``, which also cross-compiles, or else the machine's own.
The sources are compiled once per instruction set; ``dispatch.c`` chooses at load.
"""

import argparse
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
COMMON = ("threads.c", "dispatch.c")
FLAGS = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-fvisibility=hidden",
    # Products and sums are fused on every instruction set; rounding is IEEE's otherwise.
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Wno-unused-function",
    "-Wno-pragmas",
    "-Wno-psabi",
)
# Instruction set → the processor that zig and other compilers compile it for, and other flags.
INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {"avx2": ("x86_64_v3", "x86-64-v3"), "avx512": ("x86_64_v4", "x86-64-v4")},
    "aarch64": {  # Lambda's Graviton2
        "neon": ("neoverse_n1", "armv8-a"),
        "neon_half": ("neoverse_n1", "armv8.2-a+fp16", "-DHALF"),
    },
    "arm64": {  # macOS's name for it
        "neon": ("apple_m1", "armv8-a"),
        "neon_half": ("apple_m1", "armv8.2-a+fp16", "-DHALF"),
    },
}
LAMBDA_GLIBC = "2.34"
COMPILER_SECONDS = 300


class BuildError(Exception):
    """The library cannot be built; the message says what to do."""


def find_compiler() -> list[str] | None:
    """Return the command of a C compiler, or None if there is none here."""
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return [found] if found else None


def kernel_flags(machine: str, instruction_set: str, *, is_zig: bool) -> list[str]:
    """Return the compiler's flags for an instruction set."""
    zig_cpu, cpu, *others = INSTRUCTION_SETS[machine][instruction_set]
    return [f"-mcpu={zig_cpu}" if is_zig else f"-march={cpu}", *others]


def build(output: Path, machine: str | None = None) -> None:
    """Write the library to ``output``, whole or not at all.

    Parameters
    ----------
    machine
        ``x86_64`` or ``aarch64``: cross-compile for Lambda's processor and C library. By default,
        for this machine.

    Raises
    ------
    BuildError
        No compiler, an unknown machine, or the compiler failed.
    """
    compiler = find_compiler()
    target = machine or platform.machine()
    if target not in INSTRUCTION_SETS:
        raise BuildError(
            f"no kernels for {target!r}; there are some for {sorted(INSTRUCTION_SETS)}"
        )
    if compiler is None:
        raise BuildError("no C compiler: pip install ziglang, or install the system's (cc)")
    is_zig = "ziglang" in compiler
    if machine and not is_zig:
        raise BuildError("cross-compiling needs zig: pip install ziglang")
    if is_zig:
        # zig's own checks of undefined behaviour are for debugging.
        compiler = [*compiler, "-fno-sanitize=undefined"]
        if machine or platform.system() == "Linux":
            compiler += ["-target", f"{target}-linux-gnu.{LAMBDA_GLIBC}"]
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        objects = []
        for name in INSTRUCTION_SETS[target]:
            flags = kernel_flags(target, name, is_zig=is_zig)
            objects.append(Path(folder) / f"{name}.o")
            _run([*compiler, *FLAGS, *flags, f"-DVARIANT={name}", "-c", "model.c"], objects[-1])
        library = Path(folder) / "library"
        _run(
            [*compiler, *FLAGS, "-shared", *COMMON, *map(str, objects), "-lpthread", "-s"], library
        )
        library.replace(output)


def _run(command: list[str], output: Path) -> None:
    try:
        outcome = subprocess.run(  # noqa: S603 our own arguments
            [*command, "-o", str(output)],
            cwd=SOURCES,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMPILER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if outcome.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{outcome.stderr[-4000:]}")


def main() -> int:
    """Build the library from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--machine", choices=("x86_64", "aarch64"), help="cross-compile for Lambda")
    arguments = parser.parse_args()
    try:
        build(arguments.output, arguments.machine)
    except BuildError as error:
        sys.stderr.write(f"native/build.py: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
