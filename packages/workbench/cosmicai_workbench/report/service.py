"""From folders to a written page: what ``cosmicai report`` calls."""

from typing import TYPE_CHECKING

from cosmicai.errors import InvalidInput, load_json
from pydantic import ValidationError

from cosmicai_workbench.report import cutouts
from cosmicai_workbench.report.page import Page, run_page, sweep_page, write_figures, write_page
from cosmicai_workbench.results.failed import partitions_of
from cosmicai_workbench.results.run_folder import load_run
from cosmicai_workbench.simulation.planning import Plan
from cosmicai_workbench.sweep.table import EXPERIMENT_FILE, read_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cosmicai_workbench.report.cutouts import Find, Images
    from cosmicai_workbench.report.sample import Sample
    from cosmicai_workbench.results.run_folder import Run


def write_report(
    folders: "Sequence[Path]",
    output: "Path",
    estimate: "Path | None" = None,
    figures: "Path | None" = None,
    *,
    data: "Path | None" = None,
    published: bool = False,
) -> str:
    """Write the page about run folders or one sweep's folder; return its title.

    Parameters
    ----------
    estimate
        What ``cosmicai plan --json`` printed before the run.
    figures
        Folder to write the page's figures to as well, an SVG file each.
    data
        Folder with the run's partitions, for pictures of galaxies.
    published
        Whether the runs used the published checkpoint, and are set beside the published figures.

    Raises
    ------
    InvalidInput
        If a folder is neither, runs and sweeps are mixed, the runs used different models, or the
        estimate is not a plan.
    """
    if data is not None and not data.is_dir():
        raise InvalidInput(f"--data {data}: no such folder")
    sweeps = [folder for folder in folders if (folder / EXPERIMENT_FILE).is_file()]
    if sweeps and len(folders) > 1:
        raise InvalidInput(f"{sweeps[0]}: a sweep is reported by itself; give one sweep, or runs")
    if sweeps:
        page = sweep_page(read_table(sweeps[0]))
    else:
        runs = [load_run(folder) for folder in folders]
        finds = (cutouts.in_folder(data),) if data is not None else ()
        page = report_page(runs, _read_estimate(estimate) if estimate else None, finds, published)
    write_page(page, output)
    if figures is not None:
        write_figures(page, figures)
    return page.title


def report_page(
    runs: "Sequence[Run]",
    estimate: "dict[str, float] | None" = None,
    finds: "Sequence[Find]" = (),
    published: bool = False,
) -> Page:
    """Lay out the page of runs, with pictures of galaxies from wherever partitions are found."""

    def images(run: "Run", sample: "Sample") -> "Images":
        etags = dict(part for record in run.records for part in partitions_of(record))
        return cutouts.load(sample, (*finds, cutouts.as_named), etags)

    return run_page(runs, estimate, images, published=published)


def _read_estimate(source: "Path") -> dict[str, float]:
    try:
        document = load_json(source.read_text(encoding="utf-8"))
        cost = Plan.model_validate(document).cost
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise InvalidInput(
            f"{source}: not a plan; expected what `cosmicai plan … --json` prints ({error})"
        ) from None
    if cost is None:
        raise InvalidInput(f"{source}: a plan without a cost: its region has no prices")
    return cost.items
