"""How the tests themselves behave where they are started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import os, signal, pytest

@pytest.mark.skipif(True, reason="Chromium is missing (Debian: chromium)")
def test_browser():
    pass

@pytest.mark.skipif(True, reason="a Redis server is missing (Debian: redis-server, openssl)")
def test_redis():
    pass

def test_started_processes_take_sigint_and_go_past_a_proxy():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "127.0.0.1" in os.environ["NO_PROXY"]
"""


def test_one_last_line_names_what_is_missing_wherever_tests_are_started(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_some.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "-p", "no:valkey"],
        cwd=tmp_path,
        env=os.environ | {"HTTP_PROXY": "http://127.0.0.1:9"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    told, total = done.stdout.splitlines()[-2:]
    assert told == (
        "2 tests were skipped for want of chromium openssl redis-server: `make system-packages` "
        "installs what they need"
    )
    assert "1 passed, 2 skipped" in total
