"""What a project shows to the world says the same version everywhere."""

import importlib
import re
import tomllib
from pathlib import Path

import cosmicai
import pytest
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("package", ["cosmicai", "cosmicai_workbench", "fmilib"])
def test_the_packages_are_released_together(package: str) -> None:
    assert importlib.import_module(package).__version__ == cosmicai.__version__


def test_changelog_and_citation_name_the_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == cosmicai.__version__
    assert yaml_parse((ROOT / "CITATION.cff").read_text())["version"] == cosmicai.__version__


@pytest.mark.parametrize("package", ["cosmicai", "fmilib", "workbench"])
def test_the_readme_of_a_package_names_every_extra(package: str) -> None:
    folder = ROOT / "packages" / package
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    readme = (folder / "README.md").read_text()
    shown = set(re.findall(r"^\| `([a-z0-9]+)` \|", readme, re.MULTILINE))
    shown |= set(re.findall(r"pip install fmilib\[(\w+)\]", readme))
    assert shown == set(project["optional-dependencies"])


def test_the_workflow_calls_what_every_change_must_pass() -> None:
    workflow = yaml_parse((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert {"run": ".ci/run"} in job["steps"]
    assert job["timeout-minutes"] == 60
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml_parse(form.read_text())
