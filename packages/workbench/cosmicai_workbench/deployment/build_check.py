"""Check what `sam build` made against Lambda's limits, and fail with the breakdown.

Sizes: a function with its layers, unzipped. Machine code: every ELF file is of the architecture
built for, and needs no symbol that AWS's python3.13 runtime lacks; a machine with newer libraries
would run it all the same.

Then the built template is made to accept no other architecture, so that `sam deploy` cannot create
functions that its layers do not fit.
"""

import argparse
import itertools
import re
import sys
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from samcli.yamlhelper import yaml_dump, yaml_parse

LIMIT = 262_144_000
"""Unzipped bytes of a function with all its layers."""
MACHINES = {"arm64": "EM_AARCH64", "x86_64": "EM_X86_64"}
# Amazon Linux 2023: glibc 2.34, GCC 11.
NEWEST = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13), "GCC": (11, 0, 0)}


def built_architecture(build: Path) -> str:
    """Return the architecture of the build, which `sam build` writes beside every layer."""
    template = yaml_parse((build / "template.yaml").read_text())
    (architecture,) = {
        resource["Metadata"]["BuildArchitecture"]
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::Serverless::LayerVersion"
    }
    return str(architecture)


def pin_architecture(build: Path, architecture: str) -> None:
    """Make the built template's parameter Architecture accept what was built, and nothing else."""
    path = build / "template.yaml"
    template = yaml_parse(path.read_text())
    template["Parameters"]["Architecture"] |= {
        "Default": architecture,
        "AllowedValues": [architecture],
    }
    path.write_text(yaml_dump(template))


def folder_size(folder: Path) -> int:
    """Return the bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def alternatives(reference: Any) -> list[str]:
    """Return every layer that an entry of Layers may mean, whatever the stack's engine."""
    if isinstance(reference, dict) and "Fn::If" in reference:
        _, then, otherwise = reference["Fn::If"]
        return alternatives(then) + alternatives(otherwise)
    return [reference["Ref"]]


def check_sizes(build: Path) -> list[str]:
    """Print the size of every function with its layers; return what is over the limit."""
    template = yaml_parse((build / "template.yaml").read_text())
    shared = template["Globals"]["Function"].get("Layers", [])
    problems = []
    for name, resource in template["Resources"].items():
        if resource["Type"] != "AWS::Serverless::Function":
            continue
        own = resource["Properties"].get("Layers", [])
        sets = set(itertools.product(*map(alternatives, [*shared, *own])))
        for layers in sorted(sets):
            sizes = {part: folder_size(build / part) for part in (name, *layers)}
            total = sum(sizes.values())
            parts = " + ".join(f"{part} {size:,}" for part, size in sizes.items())
            sys.stdout.write(f"{total:>11,} of {LIMIT:,} bytes: {parts}\n")
            if total > LIMIT:
                largest = sorted(
                    (path for part in sizes for path in (build / part).glob("python/*")),
                    key=lambda path: -(folder_size(path) or path.stat().st_size),
                )[:8]
                worst = ", ".join(f"{path.name} {folder_size(path):,}" for path in largest)
                problems.append(f"{name} is {total - LIMIT:,} bytes too large; largest: {worst}")
    return problems


def check_machine_code(build: Path, architecture: str) -> list[str]:
    """Return every shared library that the runtime could not load."""
    problems = []
    for path in sorted(build.rglob("*.so*")):
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                continue
            elf = ELFFile(file)
            where = path.relative_to(build)
            if elf["e_machine"] != MACHINES[architecture]:
                problems.append(f"{where} is {elf['e_machine']}, not {MACHINES[architecture]}")
            needed = elf.get_section_by_name(".gnu.version_r")
            if isinstance(needed, GNUVerNeedSection):
                problems += [f"{where} needs {name}" for name in sorted(too_new(needed))]
    return problems


def too_new(needed: GNUVerNeedSection) -> set[str]:
    """Return the version names of a library that the runtime does not have."""
    names = {version.name for _, versions in needed.iter_versions() for version in versions}
    found = set()
    for name in names:
        match = re.fullmatch(r"(GLIBC|GLIBCXX|CXXABI|GCC)_([0-9.]+)", name)
        if match and tuple(map(int, match[2].split("."))) > NEWEST[match[1]]:
            found.add(name)
    return found


def main() -> int:
    """Check a build folder; exit code 1 when Lambda would refuse it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path, nargs="?", default=Path(".aws-sam/build"))
    arguments = parser.parse_args()
    architecture = built_architecture(arguments.build)
    problems = check_sizes(arguments.build)
    problems += check_machine_code(arguments.build, architecture)
    pin_architecture(arguments.build, architecture)
    for problem in problems:
        sys.stderr.write(f"make build: {problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
