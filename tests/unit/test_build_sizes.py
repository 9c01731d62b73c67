"""Every set of layers that a parameter can give a function is held against Lambda's limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cosmicai_workbench.deployment import build_check

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = """
Globals: {Function: {Layers: [!Ref Domain]}}
Resources:
  Step:
    Type: AWS::Serverless::Function
    Properties:
      Layers: [!If [A, !Ref One, !If [B, !Ref Two, !Ref Three]]]
"""


@pytest.mark.parametrize("large", ["One", "Two", "Three", "Domain"])
def test_a_layer_that_is_too_large_is_found_behind_every_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: str
) -> None:
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    for part in ("Step", "Domain", "One", "Two", "Three"):
        (tmp_path / part / "python").mkdir(parents=True)
        (tmp_path / part / "python/file").write_bytes(b"x" * (200 if part == large else 1))
    monkeypatch.setattr(build_check, "LIMIT", 100)
    problems = build_check.check_sizes(tmp_path)
    assert problems
    assert all("bytes too large" in problem for problem in problems)
    assert len(problems) == (3 if large == "Domain" else 1)
