"""The main job with nothing prepared: real galaxies through the whole state machine."""

from __future__ import annotations

import fcntl
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.client.execution import check_input, new_name
from cosmicai_workbench.client.inputs import complete
from cosmicai_workbench.defaults import DEMO_GALAXIES, DEMO_PARTITIONS, RUNS
from cosmicai_workbench.performing import perform
from cosmicai_workbench.place import own_cloud

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cosmicai_workbench.bars import Bar
    from cosmicai_workbench.performing import Outcome
    from cosmicai_workbench.place import Place

CACHE = Path(".cosmicai") / "demo"
_SEED = 0


def demo(
    *,
    galaxies: int = DEMO_GALAXIES,
    partitions: int = DEMO_PARTITIONS,
    engine: str | None = None,
    place: Place | None = None,
    approve: Callable[[dict[str, Any], Path, Path], dict[str, Any]] | None = None,
    on_start: Callable[[str], None] | None = None,
    bar: Bar,
    runs: Path = RUNS,
    cache: Path = CACHE,
) -> Outcome:
    """Make a data set of real SDSS galaxies and run an execution over it.

    Parameters
    ----------
    galaxies, partitions
        Size of the data set, and into how many partitions it is split: one rank each.
    engine
        Inference engine, by default the template's.
    place
        Where to run it, by default in a local cloud of its own.
    approve
        Called with input, model and data before anything is uploaded; returns the input to run.
    on_start
        Called with the execution's ARN once it has started.
    bar
        Shows progress.
    runs
        Folder of the run folders.
    cache
        Where data sets are kept, to be used again.
    """
    data = dataset(galaxies, partitions, bar=bar, cache=cache)
    name = new_name()
    chosen = {} if engine is None else {"engine": engine}
    connection = place.connection if place else None
    content = complete(chosen, name=name, connection=connection, model=SMALL_MODEL, data=data)
    if approve is not None:
        content = approve(content, SMALL_MODEL, data)
    with nullcontext(place) if place else own_cloud(check_input(content), bar=bar) as where:
        return perform(
            where,
            content,
            bar=bar,
            model=SMALL_MODEL,
            data=data,
            name=name,
            runs=runs,
            on_start=on_start,
        )


def dataset(galaxies: int, partitions: int, *, bar: Bar, cache: Path) -> Path:
    """Return the folder of a data set of held-out galaxies, made unless it is there already."""
    from cosmicai_workbench.data.making import describe, make_dataset
    from cosmicai_workbench.data.splitting import split_dataset

    target = cache / f"{galaxies}-galaxies-{partitions}-partitions"
    marker = target / "made.json"
    made = repr(describe(galaxies, "test", _SEED))
    with _locked(cache / f".{target.name}.lock"):  # several demos may begin at once
        if marker.is_file() and marker.read_text() == made:
            return target / "partitions"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        survey = target / "survey.pt"
        with bar("painting", galaxies, "galaxies") as advance:
            make_dataset(survey, galaxies, "test", _SEED, overwrite=True, on_galaxies=advance)
        each = -(-galaxies // partitions)
        with bar("splitting", galaxies, "galaxies") as advance:
            split_dataset(survey, target / "partitions", each, overwrite=True, on_galaxies=advance)
        survey.unlink()  # its partitions hold the same galaxies
        marker.write_text(made)
    return target / "partitions"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be; wait while another process holds it.

    The kernel releases the lock of a process that ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
