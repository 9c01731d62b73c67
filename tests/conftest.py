"""What holds for every test, wherever the tests are started."""

import os
import re
import signal
from collections.abc import Iterator

import pytest

_PACKAGES = re.compile(r"\(Debian: ([^)]*)\)")


def pytest_configure() -> None:
    """Take SIGINT as usual, and go past any proxy to the servers of tests.

    Shells ignore SIGINT for what they start in the background; tests that send it to processes of
    theirs would wait for ever, for these inherit that.
    """
    os.environ |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say in one line, after all others, which packages of the system would let more tests run."""
    yield
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    named = [found[1].split(", ") for reason in reasons if (found := _PACKAGES.search(reason))]
    if named:
        packages = " ".join(sorted({package for names in named for package in names}))
        terminalreporter.write_line(
            f"{len(named)} tests were skipped for want of {packages}: `make system-packages` "
            "installs what they need",
            yellow=True,
        )
