"""From folders to a written page: what ``cosmicai report`` calls."""

from typing import TYPE_CHECKING

from cosmicai.errors import InvalidInput, load_json
from pydantic import ValidationError

from cosmicai_workbench.report.page import run_page, sweep_page, write_figures, write_page
from cosmicai_workbench.results.run_folder import load_run
from cosmicai_workbench.simulation.planning import Plan
from cosmicai_workbench.sweep.table import EXPERIMENT_FILE, read_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def write_report(
    folders: "Sequence[Path]",
    output: "Path",
    estimate: "Path | None" = None,
    figures: "Path | None" = None,
) -> str:
    """Write the page about run folders or one sweep's folder; return its title.

    Parameters
    ----------
    estimate
        What ``cosmicai plan --json`` printed before the run.
    figures
        Folder to write the page's figures to as well, an SVG file each.

    Raises
    ------
    InvalidInput
        If a folder is neither, runs and sweeps are mixed, the runs used different models, or the
        estimate is not a plan.
    """
    sweeps = [folder for folder in folders if (folder / EXPERIMENT_FILE).is_file()]
    if sweeps and len(folders) > 1:
        raise InvalidInput(f"{sweeps[0]}: a sweep is reported by itself; give one sweep, or runs")
    if sweeps:
        page = sweep_page(read_table(sweeps[0]))
    else:
        expected = _read_estimate(estimate) if estimate else None
        page = run_page([load_run(folder) for folder in folders], expected)
    write_page(page, output)
    if figures is not None:
        write_figures(page, figures)
    return page.title


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
