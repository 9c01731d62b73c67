"""What a project shows to the world says the same version everywhere."""

import importlib
import re
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


def test_the_workflow_calls_what_every_change_must_pass() -> None:
    workflow = yaml_parse((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert {"run": ".ci/run"} in job["steps"]
    assert job["timeout-minutes"] == 60
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml_parse(form.read_text())
