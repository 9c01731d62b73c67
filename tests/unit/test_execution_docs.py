"""docs/execution.md says of every key, field and error what the code says."""

import inspect
import re
from pathlib import Path

import pytest
from cosmicai import errors
from cosmicai.schema import Contract, ExecutionInput, RankRecord

DOCS = Path(__file__).parents[2] / "docs/execution.md"


def rows(model: type[Contract]) -> list[str]:
    return [
        f"| `{field.alias or name}` | {field.description} |"
        for name, field in model.model_fields.items()
    ]


def error_rows() -> list[str]:
    found = []
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.CosmicAIError):
            summary = " ".join(str(value.__doc__).split("\n\n")[0].split())
            found.append(f"| `{name}` | {summary.replace('``', '`')} |")
    return found[1:]


@pytest.mark.parametrize("row", [*rows(ExecutionInput), *rows(RankRecord), *error_rows()])
def test_a_row_of_the_tables_is_what_the_code_says(row: str) -> None:
    assert row in DOCS.read_text().splitlines()


def test_the_tables_hold_nothing_else() -> None:
    documented = set(re.findall(r"^\| `([^`]+)` \|", DOCS.read_text(), re.MULTILINE))
    files = {"claim.json", "plan.json", "manifest.json", "<rank>.json", "predictions/<rank>.npz"}
    files |= {
        "failures/<rank>.json",
        "map/",
        "fmi.json",
        "combined_data.json",
        "summary.json",
        "resumed/manifest.json",
    }
    known = {row.split("`")[1] for row in [*rows(ExecutionInput), *rows(RankRecord), *error_rows()]}
    assert documented == known | files
