"""The report: one self-contained HTML page about a run, several runs, or a sweep."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import cosmicai
from cosmicai.errors import InvalidInput

from cosmicai_workbench.files import whole_text_file
from cosmicai_workbench.report import palette, rank_sections, run_sections, sweep_sections
from cosmicai_workbench.report.content import Alert, Section
from cosmicai_workbench.report.drawing import svg
from cosmicai_workbench.report.interactive import plotly
from cosmicai_workbench.report.plot import tabulated
from cosmicai_workbench.report.sample import choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from jinja2 import Template

    from cosmicai_workbench.report.content import Picture
    from cosmicai_workbench.report.cutouts import Images
    from cosmicai_workbench.report.sample import Sample
    from cosmicai_workbench.results.run_folder import Run
    from cosmicai_workbench.sweep.table import SweepTable

PLOTLY = "vendor/plotly-cartesian.min.js"


@dataclass(frozen=True)
class Page:
    """What the template shows.

    ``data`` is what the page's script reads beside the figures: the sample of galaxies, the ranks.
    """

    title: str
    subtitle: str
    alerts: list[Alert] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def drawings(self) -> dict[str, str]:
        """Name of each figure → its SVG."""
        return {picture.plot.name: svg(picture.plot) for picture in self.pictures}

    @property
    def pictures(self) -> "Iterator[Picture]":
        """All figures of the page."""
        for section in self.sections:
            yield from section.pictures


def run_page(
    runs: "Sequence[Run]",
    estimate: "Mapping[str, float] | None" = None,
    images: "Callable[[Run, Sample], Images] | None" = None,
    *,
    published: bool = False,
) -> Page:
    """Lay out the page of one run, or of several side by side.

    Parameters
    ----------
    estimate
        Dollars by item expected before; for a page of one run.
    images
        Reads cutouts of a run's sample; for a page of one run.
    published
        Whether the runs used the published checkpoint, and are set beside the published figures.

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
    alerts.sort(key=lambda alert: not alert.urgent)
    if len(runs) == 1:
        (run,) = runs
        sample = choose(run.predictions) if run.records else None
        pictures = images(run, sample) if images and sample else None
        found = run_sections.sections(
            run, sample, estimate=estimate, images=pictures, published=published
        )
        return Page(run.name, run_sections.subtitle(run), alerts, found, _data(run, sample))
    sections = [run_sections.side_by_side(runs)]
    for position, run in enumerate(runs):
        sample = choose(run.predictions) if run.records else None
        sections += run_sections.sections(run, sample, f"run{position + 1}", published=published)
    return Page(f"{len(runs)} runs", ", ".join(run.name for run in runs), alerts, sections)


def _data(run: "Run", sample: "Sample | None") -> dict[str, Any]:
    """Return what can be looked into on a page of one run."""
    found: dict[str, Any] = {"ranks": rank_sections.document(run)}
    if sample is not None:
        found["galaxies"] = sample.document()
    return found


def sweep_page(table: "SweepTable") -> Page:
    """Lay out the page of a sweep."""
    return Page(
        f"Sweep {table.name}",
        f"{len(table.rows)} of {table.planned} executions done",
        list(sweep_sections.alerts(table)),
        sweep_sections.sections(table),
    )


def data_of(page: Page) -> dict[str, Any]:
    """Return what the page's script reads: the figures as Plotly draws them, and the data."""
    figures = {picture.plot.name: plotly(picture.plot) for picture in page.pictures}
    return {"figures": figures, **page.data}


def render(page: Page, *, live: bool = False) -> str:
    """Return the page as HTML: style, scripts and figures inside, nothing is fetched.

    Parameters
    ----------
    live
        Whether it is served during a run, and asks its server for news.
    """
    scripts = [source(PLOTLY), source("page.js")]
    return _template("page.html.j2").render(
        page=page,
        main=main(page, static=not live),
        style=_style(),
        scripts=scripts,
        policy=policy(live=live),
        data=_json(data_of(page)),
        live=live,
        version=cosmicai.__version__,
    )


def main(page: Page, *, static: bool = True) -> str:
    """Return only the content, which changes during a run; ``static`` with drawings."""
    return _template("main.html.j2").render(
        page=page, tabulated=tabulated, drawings=page.drawings if static else {}
    )


def policy(*, live: bool = False) -> str:
    """Return the content security policy: the page's own scripts run, and nothing is fetched."""
    hashes = " ".join(f"'sha256-{_sha256(source(name))}'" for name in (PLOTLY, "page.js"))
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(document: object) -> str:
    """Return JSON that a page can contain: nothing in it ends the element that holds it."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _style() -> str:
    light, dark = palette.variables(palette.LIGHT), palette.variables(palette.DARK)
    return (
        f":root {{ color-scheme: light; {light} }}\n"
        f"@media screen {{\n"
        f":root[data-theme=dark] {{ color-scheme: dark; {dark} }}\n"
        f"@media (prefers-color-scheme: dark) {{\n"
        f":root:not([data-theme=light]) {{ color-scheme: dark; {dark} }}\n}}\n}}\n"
        + source("page.css")
    )


@cache
def source(name: str) -> str:
    """Return the text of one of the files that a page is made of."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> "Template":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(source),
    )
    return environment.get_template(name)


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
            with whole_text_file(written[-1]) as file:
                file.write(page.drawings[picture.plot.name])
    return written
