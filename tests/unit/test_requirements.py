"""The development environment: every file that is installed is known by its hash."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_requirement_is_pinned_by_hash():
    text = (ROOT / "requirements.txt").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) > 100
    bare = [line for line in lines if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)]
    assert not bare, "run `make lock`"


def test_the_redis_channel_needs_no_client_at_run_time():
    """fmilib speaks the protocol itself; redis-py is for tests and benchmarks alone."""
    layers = sorted((ROOT / "layers").glob("*/*.txt"))
    packages = sorted((ROOT / "packages").glob("*/pyproject.toml"))
    assert len(layers) > 5
    assert len(packages) == 3
    for file in (*layers, *packages):
        assert not re.search(r"^\W*redis\b", file.read_text(), re.MULTILINE), file
