"""The commands of docs/data.md, as they stand there."""

import re
import shlex
from pathlib import Path

import pytest
from cosmicai_workbench.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_first_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block
    for line in block[1].splitlines():
        program, *words = shlex.split(line)
        assert program == "cosmicai"
        assert main(words) == 0, line
    assert (tmp_path / "galaxies.png").exists()
    assert len([*(tmp_path / "partitions").glob("*.pt")]) == 4


@pytest.mark.parametrize(
    "command", ["make", "split", "inspect", "preview", "from-fits", "convert", "upload"]
)
def test_every_command_has_help_with_an_example_and_a_place_in_the_page(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", command, "--help"]) == 0
    assert "Example" in capsys.readouterr().out
    assert f"cosmicai data {command}" in PAGE.read_text()
