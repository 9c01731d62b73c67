"""Headless Chromium for tests: screenshots, console messages, layout overflow."""

import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium = pytest.mark.skipif(
    EXECUTABLE is None,
    reason="Chromium is missing (Debian: chromium)",
)

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--enable-logging=stderr",
)


def _chromium(page: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run(
            [str(EXECUTABLE), *_FLAGS, f"--user-data-dir={profile}", *arguments, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )


def screenshot(page: Path, output: Path, *, width: int, height: int) -> list[str]:
    """Take a screenshot; return what the page wrote to the console."""
    framed = _framed(page, width, height)
    done = _chromium(
        framed,
        f"--window-size={width},{height}",
        f"--screenshot={output}",
        "--virtual-time-budget=20000",  # until its script has drawn everything
    )
    return re.findall(r"CONSOLE.*", done.stderr)


def printed_pages(page: Path, output: Path) -> int:
    """Print the page to a PDF; return on how many sheets."""
    _chromium(page, "--no-pdf-header-footer", f"--print-to-pdf={output}")
    return len(re.findall(rb"/Type /Page\b", output.read_bytes()))


def scroll_width(page: Path, *, width: int) -> int:
    """Return how wide the page lays itself out in a window of this width."""
    probe = page.with_name(f"probe-{page.name}")
    script = "<script>parent.postMessage(document.documentElement.scrollWidth, '*')</script>"
    # The page's policy would not let the probe's script run.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    probe.write_text(text.replace("</body>", f"{script}</body>"))
    dom = _chromium(_framed(probe, width, 2000), "--virtual-time-budget=5000", "--dump-dom").stdout
    found = re.search(r'data-scroll-width="(\d+)"', dom)
    assert found, "the page never told its width"
    return int(found[1])


def _framed(page: Path, width: int, height: int) -> Path:
    """Put the page into a frame: a headless window cannot be narrower than 500 pixels."""
    outer = page.with_name(f"frame-{page.name}")
    listen = "onmessage = e => document.body.setAttribute('data-scroll-width', e.data)"
    outer.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><title>frame</title><body style='margin:0'>"
        f"<script>{listen}</script><iframe src='{html.escape(page.as_uri())}' "
        f"style='border:0;width:{width}px;height:{height}px'></iframe>"
    )
    return outer
