"""Progress bars of the command line: on stderr, so that stdout stays for results."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cosmicai_workbench.bars import bar_columns, no_bar


@contextmanager
def progress_bar(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yields a function that advances it by a number of units.

    Nothing is drawn where stderr is not a terminal.
    """
    if not sys.stderr.isatty():
        with no_bar(what, total, unit) as advance:
            yield advance
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*bar_columns(what, unit), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
