"""The definition before AWS's own language service, which finds what linters of templates pass."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = Path(__file__).with_name("states-language")
DEFINITION = ROOT / "statemachine/inference.asl.json"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (SERVICE / "node_modules").is_dir(),
    reason="needs `make states-language` (Debian: nodejs, npm)",
)


def findings(path: Path) -> list[dict[str, Any]]:
    """Return what the service finds in a definition."""
    done = subprocess.run(
        ["node", str(SERVICE / "check.js"), str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return list(json.loads(done.stdout))


def test_awss_language_service_accepts_the_definition() -> None:
    assert findings(DEFINITION) == []


def _next_to_nowhere(definition: dict[str, Any]) -> None:
    definition["States"]["Initialize"]["Next"] = "Distributed inference"


def _unreachable_state(definition: dict[str, Any]) -> None:
    definition["States"]["Orphan"] = {"Type": "Pass", "End": True}


def _state_without_an_end(definition: dict[str, Any]) -> None:
    del definition["States"]["Summarize"]["Next"]


def _unknown_field(definition: dict[str, Any]) -> None:
    definition["States"]["Distributed Inference"]["MaxConcurency"] = 3


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (_next_to_nowhere, "must be the name of an existing state"),
        (_unreachable_state, "cannot be reached"),
        (_state_without_an_end, "Next"),
        (_unknown_field, "not supported"),
    ],
)
def test_the_service_finds_a_planted_error(
    plant: Callable[[dict[str, Any]], None], expected: str, tmp_path: Path
) -> None:
    definition = json.loads(DEFINITION.read_text())
    plant(definition)
    path = tmp_path / "planted.asl.json"
    path.write_text(json.dumps(definition, indent=2))
    assert expected in " ".join(each["message"] for each in findings(path))
