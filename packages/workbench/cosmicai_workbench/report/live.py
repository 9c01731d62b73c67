"""Shows a run in the browser while it runs: ``cosmicai watch`` and ``run --report``."""

import os
import sys
import tempfile
import threading
import time
import webbrowser
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cosmicai.errors import CosmicAIError

from cosmicai_workbench.report.content import Alert
from cosmicai_workbench.report.cutouts import in_folder
from cosmicai_workbench.report.following import Following
from cosmicai_workbench.report.page import Page, write_page
from cosmicai_workbench.report.server import serving
from cosmicai_workbench.report.service import report_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cosmicai_workbench.performing import Outcome
    from cosmicai_workbench.place import Place

REPORT = "report.html"
"""The final report, in the run folder."""

_INTERVAL = 1.5
"""Seconds between two looks; more where a look takes long."""
_REST = 4
"""The pause after a look is at least this many times as long as the look."""
_LAST_LOOK = 5.0
"""Seconds that a browser has to fetch the last page."""
_AT_ONCE = 0.5
"""Seconds that Ctrl-C may take; a look that takes longer ends with the process."""


@contextmanager
def shown_live(
    place: "Place",
    arn: str,
    tell: "Callable[[str], None]",
    *,
    browser: bool = True,
) -> "Iterator[Callable[[Page], None]]":
    """Serve the report of an execution while the block runs, and open it in a browser.

    Parameters
    ----------
    tell
        Called with the page's address.
    browser
        Whether to open it where there is a display.

    Yields
    ------
    Callable
        Shows the last page, and waits a moment until a browser has it.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    with tempfile.TemporaryDirectory(prefix="cosmicai-watch-") as scratch:
        following = Following(place.connection, arn, Path(scratch) / "run")
        ending = threading.Event()
        with serving(following.page(), following.status) as live:
            tell(live.url)
            if browser:
                open_privately(live.url, Path(scratch))

            def follow() -> None:
                while not ending.is_set():
                    began = time.monotonic()
                    try:
                        following.look()
                        live.show(following.page(), following.status)
                    except (CosmicAIError, BotoCoreError, ClientError, OSError) as error:
                        live.tell(f"no news: {error}")
                    spent = time.monotonic() - began
                    ending.wait(max(_INTERVAL, _REST * spent))

            thread = threading.Thread(target=follow, name="live report", daemon=True)
            thread.start()

            def last(page: "Page") -> None:
                ending.set()
                thread.join(_LAST_LOOK)
                live.show(page, "done", done=True)
                live.wait_until_seen(_LAST_LOOK)

            try:
                yield last
            finally:
                ending.set()
                thread.join(_AT_ONCE)


def last_page(outcome: "Outcome", data: Path | None = None) -> "Page":
    """Return the final report of an execution, whatever became of it; write it to its run folder.

    Parameters
    ----------
    data
        Folder of the partitions, for pictures of galaxies.
    """
    if outcome.run is None:
        execution = outcome.execution
        reason = outcome.trouble or execution.reason or "it left no summary"
        alert = Alert(f"the execution ended {execution.status}: {execution.error}", reason)
        return Page(execution.name, f"ended {execution.status}", [alert])
    page = report_page([outcome.run], finds=[in_folder(data)] if data else [])
    if outcome.folder is not None:
        write_page(page, outcome.folder / REPORT)
    return page


def open_privately(url: str, scratch: Path) -> None:
    """Open an address in the browser, if there is a display, without its token in any process list.

    The browser is given a file that only this user can read, which leads to the address.
    """
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return
    door = scratch / "open.html"
    door.touch(mode=0o600)
    door.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={url}">')
    with suppress(webbrowser.Error):
        webbrowser.open(door.as_uri())
