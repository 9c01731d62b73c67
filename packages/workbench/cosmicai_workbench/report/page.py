"""The report: one self-contained HTML page about a run, several runs, or a sweep."""

from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING

import cosmicai
from cosmicai.errors import InvalidInput

from cosmicai_workbench.data.files import whole_text_file
from cosmicai_workbench.report import run_sections, sweep_sections
from cosmicai_workbench.report.content import Alert, Section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cosmicai_workbench.results.run_folder import Run
    from cosmicai_workbench.sweep.table import SweepTable


@dataclass(frozen=True)
class Page:
    """What the template shows."""

    title: str
    subtitle: str
    alerts: list[Alert] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def run_page(runs: "Sequence[Run]", estimate: "Mapping[str, float] | None" = None) -> Page:
    """Lay out the page of one run, or of several side by side.

    Parameters
    ----------
    estimate
        Dollars by item expected before; for a page of one run.

    Raises
    ------
    InvalidInput
        If there is no run, or the runs used different models.
    """
    if not runs:
        raise InvalidInput("a report needs at least one run folder")
    digests = {run.summary.model_digest for run in runs}
    if len(digests) > 1:
        models = "; ".join(f"{run.name}: {str(run.summary.model_digest)[:12]}" for run in runs)
        raise InvalidInput(
            f"these runs predict with different models, so one page would mix them ({models}); "
            "report them apart, or set them side by side with `cosmicai compare`"
        )
    alerts = [alert for run in runs for alert in run_sections.alerts(run, named=len(runs) > 1)]
    if len(runs) == 1:
        (run,) = runs
        return Page(
            run.name,
            run_sections.subtitle(run),
            alerts,
            run_sections.sections(run, estimate=estimate),
        )
    sections = [run_sections.side_by_side(runs)]
    for position, run in enumerate(runs):
        sections += run_sections.sections(run, prefix=f"run{position + 1}")
    return Page(f"{len(runs)} runs", ", ".join(run.name for run in runs), alerts, sections)


def sweep_page(table: "SweepTable") -> Page:
    """Lay out the page of a sweep."""
    return Page(
        f"Sweep {table.name}",
        f"{len(table.rows)} of {table.planned} executions done",
        list(sweep_sections.alerts(table)),
        sweep_sections.sections(table),
    )


def render(page: Page) -> str:
    """Return the page as HTML: no script, nothing fetched, figures and style inside."""
    from jinja2 import Environment, StrictUndefined

    here = files(__package__)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(here.joinpath("page.html.j2").read_text(encoding="utf-8"))
    style = here.joinpath("page.css").read_text(encoding="utf-8")
    return template.render(page=page, style=style, version=cosmicai.__version__)


def write_page(page: Page, output: "Path") -> None:
    """Write the page; an interrupted write leaves no half page."""
    text = render(page)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_text_file(output) as file:
        file.write(text)


def write_figures(page: Page, folder: "Path") -> list["Path"]:
    """Write every figure of the page as an SVG file of its own, named for its section."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for section in page.sections:
        for number, picture in enumerate(section.pictures, start=1):
            written.append(folder / f"{section.key}-{number}.svg")
            written[-1].write_text(picture.svg, encoding="utf-8")
    return written
