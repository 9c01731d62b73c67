"""The root command: help, version, and what an error looks like to a script."""

import sys
from types import ModuleType

import pytest
import typer
from cosmicai.errors import CosmicAIError, IncompleteResults, InvalidInput
from cosmicai_workbench.cli import main as cli


@pytest.fixture
def failing_group(monkeypatch: pytest.MonkeyPatch):
    """Register a group whose command raises what it is given."""

    def register(error: BaseException) -> None:
        group = ModuleType("cosmicai_workbench.cli.fails_so")
        group.app = typer.Typer()

        @group.app.command()
        def fail() -> None:
            """Fail."""
            raise error

        monkeypatch.setitem(sys.modules, group.__name__, group)
        monkeypatch.setattr(cli, "GROUPS", ("fails_so",))

    return register


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cosmicai 0.")


def test_help_lists_every_registered_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name.replace("_", "-") in shown for name in cli.GROUPS)


def test_an_unknown_command_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["no-such-command"]) == 2
    assert "no-such-command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("'batch_size' must be at least 1, found 0"), 2),
        (IncompleteResults("3 of 11 ranks failed"), 1),
    ],
)
def test_a_named_error_is_one_line_and_an_exit_code(
    failing_group, capsys: pytest.CaptureFixture[str], error: CosmicAIError, code: int
) -> None:
    failing_group(error)
    assert cli.main(["fails-so"]) == code
    shown = capsys.readouterr().err
    assert shown == f"cosmicai: {type(error).__name__}: {error}\n"


def test_a_defect_of_ours_keeps_its_traceback(failing_group) -> None:
    failing_group(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["fails-so"])
