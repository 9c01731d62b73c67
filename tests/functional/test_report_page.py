"""The report page says what happened, troubles first, and reads well in a real browser."""

import base64
import hashlib
import html
import json
import os
import re
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chromium import needs_chromium, printed_pages, screenshot, scroll_width
from cosmicai.errors import InvalidInput
from cosmicai.partition.catalogue import REASON, Catalogue, column_of
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.data.uploading import etag_of
from cosmicai_workbench.report.cutouts import in_folder
from cosmicai_workbench.report.interactive import plotly
from cosmicai_workbench.report.page import PLOTLY, render, source
from cosmicai_workbench.report.phases import phases, stragglers
from cosmicai_workbench.report.plot import Galaxies, Line
from cosmicai_workbench.report.service import report_page, write_report
from cosmicai_workbench.results.logs import write_logs
from cosmicai_workbench.results.run_folder import load_run
from run_folders import make_run
from s3_stack import make_galaxies
from skies import run_with, sky

COST = {
    "region": "us-east-1",
    "architecture": "arm64",
    "currency": "USD",
    "prices_date": "2026-11-22",
    "items": {
        "lambda model_inference": 0.00041,
        "lambda requests": 2e-6,
        "states express duration": 3.4e-5,
    },
    "total": 0.000446,
}
BASELINES = Path(__file__).parents[1] / "screenshots"


@pytest.fixture(scope="module")
def troubled_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = make_run(folder, cost=COST, failed=(2, 6), nan=17, name="troubled")
    page = folder / "report.html"
    write_report([run], page, published=True)
    return page


class _Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.images: list[str | None] = []
        self.tables = self.captions = self.scripts = 0
        self.language: str | None = None

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "svg":
            self.images.append(attributes.get("aria-label"))
        if tag == "html":
            self.language = attributes.get("lang")
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.scripts += tag == "script"
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or ""
            if not value.startswith(("#", "data:")) and value:
                self.fetched.append(value)


def outline(page: Path) -> _Outline:
    found = _Outline()
    found.feed(page.read_text())
    return found


OWN_SCRIPTS = 3
"""The data, Plotly, and the page's own."""


def test_fetches_nothing_and_runs_its_own_scripts_only(troubled_page):
    text = troubled_page.read_text()
    found = outline(troubled_page)
    assert found.fetched == []
    assert found.scripts == OWN_SCRIPTS
    assert "@import" not in text
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1])
    for each in re.findall(r"<script>(.*?)</script>", text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_whole_page_is_below_five_megabytes_and_says_everything_in_tables(troubled_page):
    assert troubled_page.stat().st_size < 5_000_000
    text = troubled_page.read_text()
    for figure in ("nz", "density", "residuals", "ranks", "cost-bars"):
        assert f'aria-label="run-{figure}' not in text  # tables have names that people read
    assert text.count("<summary>Numbers of this figure</summary>") >= 9


def test_is_accessible(troubled_page):
    found = outline(troubled_page)
    assert found.language == "en"
    assert found.headings[0] == 1
    assert set(found.headings[1:]) == {2}
    assert all(label and len(label) > 30 for label in found.images)
    assert len(found.images) >= 9
    assert found.tables == found.captions > 0
    assert len(found.ids) == len(set(found.ids))


def test_troubles_come_first(troubled_page):
    text = troubled_page.read_text()
    failed, nan, headline = (
        text.index(s) for s in ("2 of 8 ranks failed", "17 galaxies have no", "In short</h2>")
    )
    assert failed < nan < headline
    assert "rank 2 (25MB/3.pt): CorruptPartition" in text


def test_distributions_flags_and_error_bars_are_shown_where_the_model_gives_them(tmp_path):
    run = make_run(tmp_path, ranks=3, samples=300, nan=2, distributions=True)
    page = report_page([load_run(run)])
    plots = {picture.plot.name: picture.plot for picture in page.pictures}
    assert {"run-nz", "run-pz", "run-pit", "run-coverage", "run-z-colour"} <= set(plots)
    assert all(plot.x.title and plot.y.title for plot in plots.values())

    (stacked,) = (each for each in plots["run-nz"].layers if each.label == "sum of p(z)")
    assert np.trapezoid(stacked.y, stacked.x) == pytest.approx(898, rel=0.05)

    known = load_run(run).predictions
    (bars,) = (each for each in plots["run-density"].layers if isinstance(each, Galaxies))
    widths = (known.stored["z_hi68"] - known.stored["z_lo68"])[np.isfinite(known.redshift)]
    assert np.median(bars.high - bars.low) == pytest.approx(np.median(widths), rel=0.1)

    (section,) = (each for each in page.sections if each.key == "run-flags")
    counts = {row[1]: row[3] for row in section.tables[0].rows}
    assert counts["no_prediction"] == "2"
    assert counts["magnitude"] == str(int((known.magnitude_r < 14.5).sum()))

    bare = report_page([load_run(make_run(tmp_path, ranks=3, samples=300, name="bare"))])
    names = {picture.plot.name for picture in bare.pictures}
    assert not names & {"run-pz", "run-pit", "run-coverage", "run-z-colour"}
    assert not any(section.key == "run-flags" for section in bare.sections)


def test_red_is_for_what_needs_action(tmp_path):
    folder = make_run(tmp_path, ranks=2, samples=20)
    summary = json.loads((folder / "summary.json").read_text())
    summary["warnings"] = ["file_limit is 11, found are 2 partitions: all are taken"]
    (folder / "summary.json").write_text(json.dumps(summary))
    run = load_run(folder)
    run.predictions.redshift[:] = np.abs(run.predictions.redshift)
    (note,) = report_page([run]).alerts
    assert not note.urgent
    assert note.items == tuple(summary["warnings"])

    run.predictions.redshift[3] = -0.2
    alert, note = report_page([run]).alerts
    assert alert.urgent
    assert alert.title == "1 galaxy has a negative predicted redshift"
    assert alert.items == ("1#3: z = -0.2000, rank 0",)


def test_one_rank_has_an_axis_that_fits_and_a_table_instead_of_distributions(tmp_path):
    page = report_page([load_run(make_run(tmp_path, ranks=1, samples=50))])
    (timeline,) = (p.plot for p in page.pictures if p.plot.name == "run-ranks")
    assert timeline.y.range == (-0.5, 0.5)
    assert plotly(timeline)["layout"]["yaxis"]["dtick"] == 1
    (resources,) = (s for s in page.sections if s.key == "run-resources")
    assert not resources.pictures
    assert len(resources.tables[0].rows) == 1


def test_unlabelled_galaxies_have_redshifts_but_no_quality(tmp_path):
    folder = make_run(tmp_path, ranks=2, samples=80)
    run = load_run(folder)
    run.predictions.true_redshift[:] = np.nan
    page = report_page([run])
    assert {"run-redshifts"} == {s.key for s in page.sections} & {"run-redshifts", "run-quality"}
    assert "true" not in {layer.label for p in page.pictures for layer in p.plot.layers}
    render(page)


def test_few_galaxies_have_no_median_and_those_left_out_are_counted(tmp_path):
    reasons = ["off every image", "masked pixels: 3 in g", "masked pixels: 1 in r"]
    rejected = Catalogue([*sky([7, 8, 9]).columns.values(), column_of(REASON, reasons)])
    run = load_run(make_run(tmp_path, ranks=1, samples=4, carried={0: {"rejected": rejected}}))
    page = report_page([run])
    (redshifts,) = (section for section in page.sections if section.key == "run-redshifts")
    assert (
        "4 galaxies with a prediction; 3 left out of the partitions (2 masked pixels, 1 off every "
        "image)."
    ) in redshifts.text
    assert not [picture for picture in redshifts.pictures if "median" in picture.caption]
    labels = {layer.label for picture in page.pictures for layer in picture.plot.layers}
    assert not labels & {"median", "16 to 84 %"}
    render(page)
    many = report_page([load_run(make_run(tmp_path, ranks=1, name="many"))])
    assert [picture for picture in many.pictures if "The line is the median" in picture.caption]


@pytest.mark.parametrize("kind", ["normal", "mixture", "quantiles"])
def test_distributions_are_shown_from_end_to_end(tmp_path, kind):
    run = run_with(tmp_path, kind=kind, samples=2, nan=0)
    (shown,) = (each.plot for each in report_page([run]).pictures if each.plot.name == "run-pz")
    for line in shown.layers:
        if isinstance(line, Line):
            assert np.trapezoid(line.y, line.x) == pytest.approx(1, abs=0.02)


def test_pictures_are_of_the_galaxies_that_were_predicted(tmp_path):
    run = load_run(make_run(tmp_path, ranks=2, samples=12, straggler=None))
    data = tmp_path / "data"
    data.mkdir()
    for number in (1, 2):
        rows = slice(12 * (number - 1), 12 * number)
        truth = run.predictions.true_redshift[rows] + np.float32(0 if number == 1 else 0.01)
        write_partition(data / f"{number}.pt", make_galaxies(12, redshift=truth), {})
    (section,) = (s for s in report_page([run], finds=[in_folder(data)]).sections if s.cutouts)
    shown = [cutout for row in section.cutouts for cutout in row.pictures]
    assert {cutout.alternative.split("#")[0] for cutout in shown} == {"Galaxy 1"}
    assert "2.pt holds other galaxies" in section.text
    png = base64.b64decode(shown[0].source.removeprefix("data:image/png;base64,"))
    assert png.startswith(b"\x89PNG")

    absent = report_page([run])
    (section,) = (s for s in absent.sections if s.key == "run-cutouts")
    assert "25MB/1.pt is not there" in section.text
    assert "--data" in section.text


def test_pictures_of_galaxies_without_known_redshifts_are_told_by_their_files(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number in (1, 2):
        galaxies = make_galaxies(12, redshift=np.full(12, np.nan, np.float32))
        write_partition(data / f"{number}.pt", galaxies, {})
    folder = make_run(tmp_path, ranks=2, samples=12, straggler=None)
    records = json.loads((folder / "combined_data.json").read_text())
    for rank, record in enumerate(records):
        record["data_etag"] = etag_of(data / "1.pt") if rank == 0 else "0" * 32
        path = folder / f"predictions/{rank}.npz"
        with np.load(path) as file:
            arrays = dict(file) | {"true_redshift": np.full(12, np.nan, np.float32)}
        np.savez(path, **arrays)
    (folder / "combined_data.json").write_text(json.dumps(records))

    page = report_page([load_run(folder)], finds=[in_folder(data)])

    (section,) = (s for s in page.sections if s.cutouts)
    shown = [cutout for row in section.cutouts for cutout in row.pictures]
    assert {cutout.alternative.split("#")[0] for cutout in shown} == {"Galaxy 1"}
    assert "2.pt holds other galaxies" in section.text


def test_the_published_system_is_compared_with_only_when_asked_for(tmp_path):
    run = load_run(make_run(tmp_path, ranks=2, samples=20, cost=COST))
    assert not any("published" in s.key for s in report_page([run]).sections)
    (section,) = (s for s in report_page([run], published=True).sections if "published" in s.key)
    assert not any("per rank" in row[0] for row in section.tables[0].rows)


def test_logs_of_failed_and_slow_ranks_go_first_where_there_is_little_room(tmp_path):
    folder = make_run(tmp_path, ranks=30, samples=5, failed=(3,))
    write_logs(folder, {rank: ["x" * 500] * 60 for rank in range(30)})
    logs = report_page([load_run(folder)]).data["ranks"]["logs"]
    assert {"3", "5", "0"} <= set(logs)
    assert "29" not in logs
    assert logs["3"] == ["x" * 500] * 60


def test_the_straggler_is_named(troubled_page):
    assert "Stragglers: 5." in troubled_page.read_text()


def test_a_barrier_is_shown_where_the_ranks_met(tmp_path):
    run = make_run(tmp_path, ranks=3, samples=50, fmi=True)
    write_report([run], tmp_path / "page.html", figures=tmp_path / "figures")
    text = (tmp_path / "page.html").read_text()
    assert "write, barrier" in text
    assert "all met over FMI (s3): the first to come waited 1.5 s" in text
    drawn = (tmp_path / "figures" / "run-timeline-1.svg").read_text()
    assert drawn.startswith("<svg")
    assert "barrier" in drawn


def test_cost_before_and_after_stand_side_by_side(tmp_path, capsys):
    assert main(["plan", "--galaxies", "1e5", "--simulations", "1", "--json"]) == 0
    (tmp_path / "plan.json").write_text(capsys.readouterr().out)
    run = make_run(tmp_path, ranks=3, samples=50, cost=COST)
    write_report([run], tmp_path / "page.html", tmp_path / "plan.json")
    text = (tmp_path / "page.html").read_text()
    for column in ("estimated before", "recorded by the ranks", "billed (REPORT lines)"):
        assert f'<th scope="col">{column}</th>' in text
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(InvalidInput, match="not a plan"):
        write_report([run], tmp_path / "page.html", tmp_path / "plan.json")


def test_published_figures_are_marked_as_theirs(troubled_page):
    text = troubled_page.read_text()
    assert "Staylor et al." in text
    assert '<th scope="col" class="theirs">theirs</th>' in text


def test_same_run_same_page(tmp_path):
    run = make_run(tmp_path, cost=COST)
    for name in ("a.html", "b.html"):
        write_report([run], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_names_are_escaped(tmp_path):
    run = make_run(tmp_path, name="a<script>b")
    write_report([run], tmp_path / "page.html")
    assert outline(tmp_path / "page.html").scripts == OWN_SCRIPTS


def test_many_ranks_stay_a_small_page(tmp_path):
    run = make_run(tmp_path, ranks=1000, samples=5, slots=200, straggler=None)
    write_report([run], tmp_path / "page.html")
    own = (tmp_path / "page.html").stat().st_size - len(source(PLOTLY))
    assert own < 1_500_000


def test_runs_of_one_model_side_by_side_of_two_refused(tmp_path):
    one, two = (make_run(tmp_path, name=n, seed=s) for n, s in (("one", 0), ("two", 1)))
    assert write_report([one, two], tmp_path / "page.html") == "2 runs"
    other = make_run(tmp_path, name="other", digest="aa" * 32)
    with pytest.raises(InvalidInput, match="different models") as error:
        write_report([one, other], tmp_path / "mixed.html")
    assert "cosmicai compare" in str(error.value)
    assert not (tmp_path / "mixed.html").exists()


def test_folder_without_summary_is_refused(tmp_path):
    run = make_run(tmp_path)
    (run / "summary.json").unlink()
    with pytest.raises(InvalidInput, match=r"holds no summary\.json"):
        write_report([run], tmp_path / "page.html")
    with pytest.raises(InvalidInput, match="no such run folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "page.html")


def test_broken_files_are_named(tmp_path):
    run = make_run(tmp_path)
    (run / "predictions" / "3.npz").write_bytes(b"not a zip")
    with pytest.raises(InvalidInput, match=r"3\.npz"):
        write_report([run], tmp_path / "page.html")
    (run / "summary.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"summary\.json: not JSON"):
        write_report([run], tmp_path / "page.html")


def test_a_run_without_any_rank_still_has_a_page(tmp_path):
    run = make_run(tmp_path, ranks=2, failed=(0, 1))
    write_report([run], tmp_path / "page.html")
    assert "2 of 2 ranks failed" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(
    ("name", "width", "height"), [("desktop", 1280, 4300), ("phone", 390, 7600)]
)
def test_looks_as_it_did_and_writes_nothing_to_the_console(
    troubled_page, tmp_path, name, width, height
):
    shot = tmp_path / f"{name}.png"
    assert screenshot(troubled_page, shot, width=width, height=height) == []
    seen = _thumbnail(shot)
    baseline = BASELINES / f"report-{name}.png"
    if os.environ.get("UPDATE_SCREENSHOTS"):
        from PIL import Image

        Image.fromarray(seen).save(baseline, optimize=True)
    kept = _load(baseline)
    assert seen.shape == kept.shape
    difference = np.abs(seen.astype(float) - kept).mean()
    assert difference < 6, f"differs by {difference:.1f} of 255 on average; look at {shot}"


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [1280, 700, 390, 320])
def test_nothing_sticks_out_sideways(troubled_page, width):
    assert scroll_width(troubled_page, width=width) <= width


@needs_chromium
def test_prints_two_figures_beside_each_other(troubled_page, tmp_path):
    # One below the other they took eight sheets.
    assert 2 <= printed_pages(troubled_page, tmp_path / "page.pdf") <= 5


def test_imports_of_a_first_rank_are_no_writing_and_make_no_straggler(tmp_path):
    folder = make_run(tmp_path, ranks=8, straggler=None)
    combined = folder / "combined_data.json"
    rows = json.loads(combined.read_text())
    for row in rows:
        if row["cold_start"]:
            finished = datetime.fromisoformat(row["finished_at"]) + timedelta(seconds=4)
            row["finished_at"] = finished.isoformat()
    combined.write_text(json.dumps(rows))
    run = load_run(folder)
    found = phases(run.records, run.summary.execution.start_time, run.init_seconds)
    writing = found["write"][1] - found["write"][0]
    assert writing.max() < 0.1
    assert stragglers(found["write"][1] - found["read"][0]) == []


def _thumbnail(shot: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(shot) as image:
        return np.asarray(image.convert("L").resize((image.width // 5, image.height // 5)))


def _load(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)
