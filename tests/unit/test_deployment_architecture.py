"""One architecture from the build to the function: a mismatch is refused, or named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cosmicai.built_for import check_processor
from cosmicai_workbench.deployment.build_check import built_architecture, pin_architecture
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).parents[2]
BUILT = """
Parameters:
  Architecture:
    Type: String
    Default: arm64
    AllowedValues: [arm64, x86_64]
    Description: Processor.
Resources:
  Layer:
    Type: AWS::Serverless::LayerVersion
    Metadata: {BuildArchitecture: x86_64}
    Properties:
      CompatibleArchitectures: [!Ref Architecture]
"""


@pytest.mark.parametrize(
    ("built_for", "machine"), [("arm64", "aarch64"), ("arm64", "arm64"), ("x86_64", "x86_64")]
)
def test_a_layer_loads_on_the_processor_it_was_built_for(
    tmp_path: Path, built_for: str, machine: str
) -> None:
    mark = tmp_path / "BUILT_FOR"
    mark.write_text(f"{built_for}\n")
    check_processor(mark, machine)


@pytest.mark.parametrize(
    ("built_for", "machine", "found"),
    [("arm64", "x86_64", "x86_64"), ("x86_64", "aarch64", "arm64")],
)
def test_a_layer_for_another_processor_says_so_at_import(
    tmp_path: Path, built_for: str, machine: str, found: str
) -> None:
    mark = tmp_path / "BUILT_FOR"
    mark.write_text(f"{built_for}\n")
    with pytest.raises(ImportError, match=f"built for {built_for}.*ARCHITECTURE={found}"):
        check_processor(mark, machine)


def test_the_package_in_a_layer_for_another_processor_does_not_import(tmp_path: Path) -> None:
    package = tmp_path / "cosmicai"
    shutil.copytree(ROOT / "packages/cosmicai/cosmicai", package)
    (package / "BUILT_FOR").write_text("another\n")
    command = [sys.executable, "-c", "import cosmicai"]
    outcome = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert outcome.returncode == 1
    assert "ImportError: the layers were built for another" in outcome.stderr


def test_an_installed_package_has_no_architecture(tmp_path: Path) -> None:
    check_processor(tmp_path / "BUILT_FOR", "riscv64")


def test_the_built_template_accepts_only_the_architecture_that_was_built(tmp_path: Path) -> None:
    (tmp_path / "template.yaml").write_text(BUILT)
    pin_architecture(tmp_path, built_architecture(tmp_path))
    template = yaml_parse((tmp_path / "template.yaml").read_text())
    assert template["Parameters"]["Architecture"] == {
        "Type": "String",
        "Default": "x86_64",
        "AllowedValues": ["x86_64"],
        "Description": "Processor.",
    }
    properties = template["Resources"]["Layer"]["Properties"]
    assert properties["CompatibleArchitectures"] == [{"Ref": "Architecture"}]
