"""Links, anchors and paths in README and docs lead somewhere; the site builds without a doubt."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "packages").glob("*/README.md")),
    *sorted((ROOT / "models").glob("*/README.md")),
]
FOLDERS = (
    "benchmarks", "docs", "events", "experiments", "functions", "infrastructure", "layers",
    "models", "packages", "scripts", "statemachine", "tests",
)  # fmt: skip
"""Where paths in backticks begin, if they mean a file of the checkout."""


def text_of(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading).lower()
        found.add(re.sub(r" +", "-", re.sub(r"[^\w\- ]", "", plain).strip()))
    return found


def links(page: Path) -> Iterator[str]:
    """Yield the links of a page that stay in the checkout."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not re.match(r"[a-z]+:", target):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_anchors_and_paths_lead_somewhere(page: Path) -> None:
    lost = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)
    for path in re.findall(r"`([\w.-]+/[\w./-]*)`", text_of(page)):
        if path.split("/")[0] in FOLDERS and not (ROOT / path).exists():
            # A package's own page names its files from there.
            lost += [] if (page.parent / path).exists() else [path]
    assert lost == []


@pytest.mark.slow
def test_the_site_builds_with_no_page_forgotten_and_fetches_nothing() -> None:
    # make's own variables would tell this make what the outer one was asked for.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    built = subprocess.run(
        ["make", "docs"], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-3000:]
    html = ROOT / "build/site/html"
    assert (html / "reference/commands.html").exists()
    outside = re.compile(r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?://(?!\S*cosmicai)""")
    fetching = {
        page.name: match[0]
        for page in html.rglob("*.html")
        if (match := outside.search(page.read_text()))
    }
    assert fetching == {}
