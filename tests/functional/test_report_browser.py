"""The report in a real browser: both themes, phone and desktop, its links, its accessibility."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import EXECUTABLE
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.report.cutouts import in_folder
from cosmicai_workbench.report.page import PLOTLY, render, source
from cosmicai_workbench.report.server import serving
from cosmicai_workbench.report.service import report_page, write_report
from cosmicai_workbench.results.run_folder import load_run
from run_folders import make_run
from s3_stack import make_galaxies

BROWSER = Path(__file__).parents[1] / "browser"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        EXECUTABLE is None
        or shutil.which("node") is None
        or not (BROWSER / "node_modules").is_dir(),
        reason="needs Chromium, node and `make browser`",
    ),
]

WIDTHS = (390, 1400)


def look(url: str, *actions: str, widths: tuple[int, ...] = WIDTHS) -> list[dict[str, Any]]:
    request = {"url": url, "chromium": EXECUTABLE, "widths": widths, "actions": actions}
    done = subprocess.run(
        ["node", str(BROWSER / "look.js"), json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything there can be on one."""
    folder = tmp_path_factory.mktemp("browser")
    run = make_run(folder, ranks=6, samples=600, failed=(2,), nan=3, distributions=True)
    truth = load_run(run).predictions.true_redshift
    write_partition(folder / "1.pt", make_galaxies(600, redshift=truth[:600]), {})
    write_report([run], folder / "report.html", data=folder)
    return folder / "report.html"


def test_draws_everything_says_nothing_and_is_accessible(page: Path) -> None:
    for seen in look(page.as_uri()):
        where = f"{seen['theme']}, {seen['width']}"
        assert seen["heard"] == [], where
        assert seen["violations"] == [], where
        assert seen["scrollWidth"] <= seen["width"], where
        assert len(seen["plots"]) >= 12
        for plot in seen["plots"]:
            assert plot["drawn"], plot["name"]
            assert len(plot["titles"]) == 2, plot["name"]
            assert all(plot["titles"]), plot["name"]


CHOOSE_RANK = """(async () => {
  const choice = document.querySelector('[data-part=choice]');
  const order = [...choice.options].map((option) => option.textContent);
  choice.value = '0';
  choice.dispatchEvent(new Event('change'));
  await new Promise((done) => setTimeout(done, 300));
  const plots = [...document.querySelectorAll('.js-plotly-plot')];
  const selected = plots.flatMap((plot) => plot.data.filter((trace) => trace.meta === 'galaxies'))
    .map((trace) => trace.selectedpoints.length);
  const details = document.querySelector('[data-explorer=ranks] .details').textContent;
  choice.value = '2';
  choice.dispatchEvent(new Event('change'));
  const failed = document.querySelector('[data-explorer=ranks] .why').textContent;
  return {order, selected, details, failed};
})()"""

CHOOSE_GALAXY = """(async () => {
  document.querySelector('[data-part=clear]').click();
  const button = document.querySelector('.cutouts button');
  button.click();
  await new Promise((done) => setTimeout(done, 300));
  const details = document.querySelector('[data-explorer=galaxies] .details').textContent;
  return {details, name: button.querySelector('img').alt,
    chosen: document.querySelectorAll('.cutouts .chosen').length};
})()"""

SELECT = """(async () => {
  const plot = document.querySelector('[data-plot=run-z-magnitude]');
  const trace = plot.data.find((each) => each.meta === 'galaxies');
  const points = [0, 1, 2].map((i) => ({data: trace, customdata: trace.customdata[i]}));
  plot.emit('plotly_selected', {points});
  await new Promise((done) => setTimeout(done, 300));
  const other = document.querySelector('[data-plot=run-by-redshift]');
  const linked = other.data.find((each) => each.meta === 'galaxies');
  return {linked: linked.selectedpoints.map((i) => linked.customdata[i]),
    chosen: trace.customdata.slice(0, 3),
    status: document.querySelector('[data-part=status]').textContent,
    rows: document.querySelectorAll('[data-explorer=galaxies] tbody tr').length};
})()"""

CHANGE_THEME = """(() => {
  const ground = () => getComputedStyle(document.body).backgroundColor;
  const ink = () => document.querySelector('.js-plotly-plot')._fullLayout.font.color;
  const before = [ground(), ink()];
  document.getElementById('theme').click();
  return [before, [ground(), ink()]];
})()"""


def test_ranks_galaxies_and_figures_are_linked(page: Path) -> None:
    light, dark = look(page.as_uri(), CHOOSE_RANK, CHOOSE_GALAXY, SELECT, widths=(1400,))
    for seen in (light, dark):
        rank, galaxy, selection = seen["acted"]
        assert rank["order"][:2] == ["choose", "2 (failed)"]
        assert len(set(rank["selected"])) >= 1
        assert min(rank["selected"]) > 0
        assert "Rank 0: " in rank["details"]
        assert "peak memory" in rank["details"]
        assert rank["failed"] == "CorruptPartition: the file ends early"
        assert galaxy["chosen"] >= 1
        assert galaxy["details"].startswith(galaxy["name"].split(":")[0])
        assert set(selection["linked"]) == set(selection["chosen"])
        assert selection["status"].startswith("3 of ")
        assert selection["rows"] == 3


def test_the_theme_follows_the_system_until_it_is_chosen(page: Path) -> None:
    light, dark = look(page.as_uri(), CHANGE_THEME, widths=(1400,))
    assert light["acted"][0] == dark["acted"][0][::-1]
    assert light["acted"][0][0] != light["acted"][0][1]


def test_the_live_page_is_as_quiet_and_accessible(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path, ranks=2, samples=60))
    with serving(report_page([run]), "1 of 2 ranks done") as live:
        for seen in look(live.url, "document.getElementById('live').textContent", widths=(390,)):
            assert seen["heard"] == []
            assert seen["violations"] == []
            assert seen["acted"] == ["Live: 1 of 2 ranks done"]
            assert all(plot["drawn"] for plot in seen["plots"])


def test_a_name_with_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    name = "<img src=x onerror=document.title='taken'>"
    folder = make_run(tmp_path, ranks=2, samples=30)
    summary = json.loads((folder / "summary.json").read_text())
    summary["execution"]["name"] = name
    (folder / "summary.json").write_text(json.dumps(summary))
    run = load_run(folder)
    values = run.predictions.catalogue.columns["object_id"].values
    values[:] = np.array([f"<b onclick=x>{i}" for i in range(len(values))], values.dtype)
    (tmp_path / "page.html").write_text(render(report_page([run], finds=[in_folder(tmp_path)])))
    script = "[document.title, document.querySelectorAll('b[onclick], img[onerror]').length]"
    for seen in look((tmp_path / "page.html").as_uri(), SELECT, script, widths=(1400,)):
        assert seen["acted"][-1] == [f"{name} · CosmicAI", 0]


def test_plotly_is_the_one_of_npm() -> None:
    published = BROWSER / "node_modules/plotly.js-cartesian-dist-min/plotly-cartesian.min.js"
    assert published.read_text() == source(PLOTLY)
