"""What docs/architecture.md says of the packages holds: who imports whom, and which modules."""

import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import ROOTS, circles, graph, imports, modules, parts

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("late", [False, True], ids=["at import", "late imports as well"])
def test_nothing_imports_in_a_circle(late):
    assert circles(graph(late=late)) == []
    assert circles(parts(late=late)) == []


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("fmilib", {"cosmicai", "cosmicai_workbench"}),
        ("cosmicai", {"cosmicai_workbench"}),
        ("cosmicai_workbench", set()),
    ],
)
def test_dependencies_point_one_way(package, others):
    found = {
        (name, target)
        for name, path in modules().items()
        if name.split(".")[0] == package
        for target in imports(path)
        if target.split(".")[0] in others
    }
    assert not found
    assert package in ROOTS


@pytest.mark.parametrize("package", ["fmilib", "cosmicai", "cosmicai_workbench"])
def test_importing_a_package_loads_nothing_heavy(package):
    heavy = {"torch", "openvino", "boto3", "moto", "astropy", "pandas", "matplotlib", "samcli"}
    program = f"import sys, {package}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []


def test_the_tables_of_modules_are_current():
    script = ROOT / "scripts" / "module_tables.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
