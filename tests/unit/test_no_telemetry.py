"""Nothing that CosmicAI imports calls home or leaves a file in the home folder."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
AUDITED = """
import sys
from pathlib import Path

home = str(Path.home())
report = sys.stderr.write

def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        report(f"{event} {arguments}\\n")
    if event == "open" and isinstance(arguments[0], str):
        path, mode, flags = arguments
        if path.startswith(home) and flags & 0o3:  # for writing
            report(f"write {path}\\n")

sys.addaudithook(hook)
"""
QUIET = {
    "openvino engine": "import cosmicai.engines.openvino_engine",
    "openvino's converter": """
import contextlib
from cosmicai.engines.quiet_openvino import ov
with contextlib.suppress(Exception):  # it reports failures, too
    ov.convert_model("no-such-model.onnx")
""",
    "command line": "import cosmicai_workbench.cli.main as m; m.main(['--help'])",
    "server of the local cloud": "import cosmicai_workbench.cloud.server",
}
AUDIT_FINDS = {
    "a socket": "import socket; socket.getaddrinfo('127.0.0.1', 1)",
    "a file": "from pathlib import Path; Path('~/left').expanduser().write_text('')",
}


def audit(program: str, home: Path) -> str:
    """Run a program in a home folder of its own; return what it did that calls for an answer."""
    done = subprocess.run(
        [sys.executable, "-c", AUDITED + program],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "MPLCONFIGDIR": str(home.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith(("socket", "write"))]
    return "\n".join([*told, *(str(path) for path in home.iterdir())])


@pytest.mark.parametrize("program", QUIET.values(), ids=QUIET)
def test_it_opens_no_socket_and_writes_nothing_at_home(program: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert audit(program, home) == ""


@pytest.mark.parametrize("program", AUDIT_FINDS.values(), ids=AUDIT_FINDS)
def test_the_audit_finds_what_it_looks_for(program: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert audit(program, home) != ""


def test_openvino_is_imported_through_the_quiet_module_only() -> None:
    for path in PACKAGES.rglob("*.py"):
        if path.name == "quiet_openvino.py":
            continue
        tree = ast.parse(path.read_text())
        typing_only = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            loud = [name for name in names if name.split(".")[0] == "openvino"]
            assert not loud or id(node) in typing_only, f"{path}:{getattr(node, 'lineno', '?')}"
