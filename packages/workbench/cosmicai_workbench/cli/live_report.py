"""The report in the browser while a command follows a run."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cosmicai_workbench.performing import Outcome
    from cosmicai_workbench.place import Place


@contextmanager
def reported(
    place: "Place", arn: str, data: str | None = None, *, asked: bool, browser: bool = True
) -> "Iterator[Callable[[Outcome], None]]":
    """Show the report of a run in the browser while the block follows it, if that was asked for.

    Yields a function that shows and writes the final report, given how the run ended.
    """
    if not asked:
        yield lambda _: None
        return
    from cosmicai_workbench.report.live import REPORT, last_page, shown_live

    def conclude(outcome: "Outcome") -> None:
        folder = Path(data) if data and Path(data).is_dir() else None
        last(last_page(outcome, folder))
        if outcome.run is not None and outcome.folder is not None:
            typer.echo(f"Report: {outcome.folder / REPORT}", err=True)

    with shown_live(place, arn, tell_address, browser=browser) as last:
        yield conclude


def tell_address(url: str) -> None:
    """Say where the report is shown; the address lets in who knows it, on this machine."""
    typer.echo(f"cosmicai: live report, until this command ends: {url}", err=True)
