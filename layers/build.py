#!/usr/bin/env python3
"""Build one Lambda layer: locked wheels and our own packages, trimmed, packed, reproducible.

`sam build` runs this through each layer's Makefile. It needs no Docker and no Python 3.13: wheels
of the target are fetched by tag and never executed. What a layer holds, drops and packs is said in
its `layer.toml`; the same inputs give the same bytes.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RUNTIME_PYTHON = "3.13"
VERSION_PAIR = RUNTIME_PYTHON.replace(".", ", ")
WHEEL_MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
# Every tag that AWS's python3.13 runtime (Amazon Linux 2023, glibc 2.34) can load. pip takes the
# tags it is given literally, so each must be named.
WHEEL_TAGS = (
    *(f"manylinux_2_{minor}" for minor in range(34, 4, -1)),
    "manylinux2014",
    "manylinux2010",
    "manylinux1",
)
# Zip archives cannot hold an earlier time, and `sam deploy` names a layer by its zip's digest.
FIXED_TIME = 315_532_800  # 1980-01-01T00:00:00Z
LICENCE_NAMES = ("LICEN", "COPYING", "NOTICE", "AUTHORS")


class BuildError(Exception):
    """The layer cannot be built; the message says what to do."""


def main() -> int:
    """Build the layer in the folder given, into the folder given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layer", type=Path, help="the layer's folder, with its layer.toml")
    parser.add_argument("output", type=Path, help="where the layer goes ($(ARTIFACTS_DIR))")
    parser.add_argument(
        "--architecture", choices=sorted(WHEEL_MACHINES), default="arm64", help="Lambda's name"
    )
    arguments = parser.parse_args()
    try:
        build(arguments.layer, arguments.output, arguments.architecture)
    except BuildError as error:
        sys.stderr.write(f"layers/build.py: {error}\n")
        return 1
    return 0


def build(layer: Path, output: Path, architecture: str) -> None:
    """Write the layer's content under `output`/python."""
    if sys.version_info < (3, 11):  # noqa: UP036 `sam build` runs whatever python3 is on PATH
        raise BuildError(f"needs Python 3.11 or newer; python3 on PATH is {sys.version}")
    import tomllib

    settings = tomllib.loads((layer / "layer.toml").read_text())
    python = output / "python"
    python.mkdir(parents=True, exist_ok=True)
    for requirements in settings["requirements"]:
        install(layer / requirements.format(architecture=architecture), python, architecture)
    for package in settings.get("packages", []):
        shutil.copytree(
            layer / package,
            python / Path(package).name,
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),  # a library is this machine's
        )
    if "native" in settings:
        compile_native(layer / settings["native"], python / settings["library"], architecture)
    if "mark" in settings:
        (python / settings["mark"]).write_text(f"{architecture}\n")
    check_licences(python)
    drop(python, settings.get("drop", {}) | settings.get(f"drop-{architecture}", {}))
    compile_bytecode(python)
    if "pack" in settings:
        pack(layer, python, settings["pack"])
    normalise(output)


def install(requirements: Path, target: Path, architecture: str) -> None:
    """Install the locked wheels of a requirements file for the target machine."""
    options = ["--no-compile", "--implementation", "cp", "--python-version", RUNTIME_PYTHON]
    for tag in WHEEL_TAGS:
        options += ["--platform", f"{tag}_{WHEEL_MACHINES[architecture]}"]
    pip_install(requirements, target, *options)
    for leftover in ("bin", "share"):  # console scripts name this machine's interpreter
        shutil.rmtree(target / leftover, ignore_errors=True)
    # pip's notes of how it installed differ from machine to machine; nothing reads them.
    for note in ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD"):
        for path in target.glob(f"*.dist-info/{note}"):
            path.unlink()


def pip_install(requirements: Path, target: Path, *options: str) -> None:
    """Install wheels into a folder, without what they depend on."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Without --no-deps pip reads the markers as of this machine, and pulls CUDA for torch.
    command += ["--no-deps", "--only-binary=:all:", "--upgrade", *options]
    command += ["--target", str(target), "--requirement", str(requirements)]
    if subprocess.run(command, check=False).returncode != 0:  # noqa: S603 our own arguments
        raise BuildError(
            f"{sys.executable} -m pip could not install {requirements}; its message is above. "
            "Layers are built from package registries: is there a network, and does this Python "
            "have pip?"
        )


@contextmanager
def build_tool(name: str) -> Iterator[Path]:
    """Make a locked build tool importable: `sam build` runs a Python that need not have it.

    It is installed into a folder of its own, which is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip_install(Path(__file__).with_name(f"{name}.txt"), Path(folder))
        sys.path.insert(0, folder)
        try:
            yield Path(folder)
        finally:
            sys.path.remove(folder)


def compile_native(sources: Path, library: Path, architecture: str) -> None:
    """Compile the native engine for the target machine, whatever this one is."""
    with build_tool("ziglang") as folder:
        command = [sys.executable, str(sources / "build.py"), str(library)]
        command += ["--machine", WHEEL_MACHINES[architecture]]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        if subprocess.run(command, check=False, env=environment).returncode != 0:  # noqa: S603 our own arguments
            raise BuildError("the native engine could not be compiled; its message is above")


def check_licences(python: Path) -> None:
    """Fail when a distribution would ship without its licence."""
    bare = [
        info.name
        for info in sorted(python.glob("*.dist-info"))
        if not any(path.name.upper().startswith(LICENCE_NAMES) for path in info.rglob("*"))
    ]
    if bare:
        raise BuildError(f"no licence file in: {', '.join(bare)}. Add it to the layer's folder.")


def drop(python: Path, patterns: dict[str, str]) -> None:
    """Remove what inference never loads: glob patterns, each with the reason it may go."""
    for pattern in patterns:
        matches = sorted(python.glob(pattern))
        if not matches:
            raise BuildError(f"nothing matches the drop pattern {pattern!r}: is it out of date?")
        for path in matches:
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():  # not removed with its folder
                path.unlink()


def compile_bytecode(python: Path) -> None:
    """Compile for the runtime's Python where one is at hand: /opt is read-only on Lambda.

    Without it every cold start compiles what it imports. `PYTHON313` may be any command that runs
    a Python 3.13 and sees the output folder, one in a container included.
    """
    given = os.environ.get("PYTHON313")
    command = shlex.split(given or f"python{RUNTIME_PYTHON}")
    # A pyenv shim runs the version that this names, where it has it.
    environment = {"PYENV_VERSION": RUNTIME_PYTHON, **os.environ}
    probe = [*command, "-c", f"import sys; sys.exit(sys.version_info[:2] != ({VERSION_PAIR}))"]
    try:
        outcome = subprocess.run(probe, check=False, env=environment, stderr=subprocess.DEVNULL)  # noqa: S603 our own arguments
        found = outcome.returncode == 0
    except OSError:
        found = False
    if not found and given:
        raise BuildError(f"PYTHON313={given} runs no Python {RUNTIME_PYTHON}")
    if not found:
        sys.stderr.write(
            f"No python{RUNTIME_PYTHON} on PATH, so no bytecode in the layer: slower cold starts. "
            "PYTHON313 may name one, or a command that runs one in a container.\n"
        )
        return
    # Unchecked: the files cannot change, and a time stamp would change the bytes.
    command += ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(python), "-p", "/opt/python", str(python)]
    if subprocess.run(command, check=False, env=environment).returncode != 0:  # noqa: S603 our own arguments
        raise BuildError("compileall failed; its message is above")


def pack(layer: Path, python: Path, settings: dict[str, Any]) -> None:
    """Pack folders into one zstd archive that `unpack.py` unfolds at their first import."""
    archive = python / settings["archive"]
    with tempfile.TemporaryDirectory() as scratch:
        tar_path = Path(scratch) / "packed.tar"
        with tarfile.open(tar_path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(settings["folders"]):
                for path in sorted((python / name, *(python / name).rglob("*"))):
                    tar.add(path, path.relative_to(python), recursive=False, filter=_anonymous)
                shutil.rmtree(python / name)
        with build_tool("zstandard"), tar_path.open("rb") as source, archive.open("wb") as target:
            import zstandard

            # Any number of threads from 1 gives the same bytes.
            compressor = zstandard.ZstdCompressor(
                level=settings["level"], threads=-1, write_checksum=True
            )
            compressor.copy_stream(source, target, size=tar_path.stat().st_size)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.with_name(f"{archive.name}.sha256").write_text(f"{digest}\n")
    shutil.copytree(layer / settings["stubs"], python, dirs_exist_ok=True)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Forget who built it, and when."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = FIXED_TIME
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def normalise(output: Path) -> None:
    """Give every file the same time and the plainest mode, so that the zip has the same bytes."""
    for path in sorted(output.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (FIXED_TIME, FIXED_TIME))


if __name__ == "__main__":
    sys.exit(main())
