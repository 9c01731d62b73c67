"""The name of an execution, and the folder of its results, are checked before anything is done."""

from pathlib import Path

import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.cloud.state import state_folder
from cosmicai_workbench.performing import perform
from cosmicai_workbench.results.fetch import reserve

BAD_NAMES = ["2026/night-1", "../x", "..", "", ".hidden", "latest", "a b", "a*", "ü", "x" * 81]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_lie_elsewhere_or_is_refused_later_is_refused_now(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="name of an execution"):
        reserve(tmp_path / "runs", name)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "x" * 65])
def test_so_is_the_name_of_a_local_cloud(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="name of a local cloud"):
        state_folder(tmp_path, name)


def test_a_run_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    with pytest.raises(InvalidInput, match="exists already"):
        reserve(tmp_path, "again")
    assert reserve(tmp_path, "other") == tmp_path / "other"
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_latest_must_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(InvalidInput, match="latest is not a link"):
        reserve(tmp_path, "new")
    (tmp_path / "latest").rmdir()
    (tmp_path / "latest").symlink_to("gone")
    reserve(tmp_path, "new")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for runs in (tmp_path / "file", tmp_path / "file/runs", Path("/proc/runs")):
        with pytest.raises(InvalidInput, match="cannot hold run folders"):
            reserve(runs, "new")


def test_a_full_disk_is_named() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(InvalidInput, match="cannot hold run folders"):
        reserve(Path("/dev/full"), "new")


def test_a_run_checks_its_name_before_it_uploads(tmp_path: Path) -> None:
    nowhere: object = None  # a place that would fail at the first use
    with pytest.raises(InvalidInput, match="name of an execution"):
        perform(nowhere, {}, bar=no_bar, name="a/b", runs=tmp_path)  # type: ignore[arg-type]
