"""Folders that receive partitions: other file systems, links, full disks, errors half-way."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cosmicai.partition.catalogue import DEC, RA, Catalogue, ColumnInfo, column_of
from cosmicai_workbench import files
from cosmicai_workbench.cli.main import main
from model_fill import SMALL, filled_bundle
from run_folders import make_run

OTHER_FILE_SYSTEM = Path("/dev/shm")
SKY = Catalogue(
    (
        column_of(ColumnInfo("object_id", "str"), [f"object {number}" for number in range(200)]),
        column_of(RA, [number / 10 for number in range(200)]),
        column_of(DEC, [number / 10 for number in range(200)]),
    )
)
CARRIED = {0: {"catalogue": SKY}}


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "survey.pt"
    assert main(["data", "make", "-n", "12", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_run(tmp_path_factory.mktemp("runs"), ranks=1, samples=200, carried=CARRIED))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled_bundle(SMALL, tmp_path_factory.mktemp("model")).path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on another file system than ``tmp_path``."""
    if not OTHER_FILE_SYSTEM.is_dir():
        pytest.skip(f"{OTHER_FILE_SYSTEM} is absent")
    folder = Path(tempfile.mkdtemp(dir=OTHER_FILE_SYSTEM))
    try:
        if folder.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip(f"{OTHER_FILE_SYSTEM} is on the same file system as {tmp_path}")
        yield folder
    finally:
        shutil.rmtree(folder)


def split(survey: Path, folder: Path, galaxies: int, *options: str) -> int:
    return main(["data", "split", str(survey), str(folder), "--galaxies", str(galaxies), *options])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_partitions_replace_others_through_a_link_to_another_file_system(
    survey: Path, tmp_path: Path, elsewhere: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(elsewhere)
    assert split(survey, link, 3) == 0
    assert split(survey, link, 6, "--overwrite") == 0
    assert sorted(path.name for path in elsewhere.glob("*.pt")) == ["1.pt", "2.pt"]
    assert link.is_symlink()
    assert not [path for path in elsewhere.iterdir() if path.name.startswith(".")]


def test_a_folder_whose_parent_is_read_only_is_enough(survey: Path, tmp_path: Path) -> None:
    """A mounted volume can be written, but not what it is mounted in."""
    volume = tmp_path / "mounted" / "volume"
    volume.mkdir(parents=True)
    volume.parent.chmod(0o555)
    try:
        assert split(survey, volume, 6) == 0
        assert split(survey, volume, 12, "--overwrite") == 0
    finally:
        volume.parent.chmod(0o755)
    assert [path.name for path in volume.glob("*.pt")] == ["1.pt"]


@pytest.mark.parametrize("failing", [1, 3, 5])
def test_a_move_that_fails_keeps_every_old_partition(
    survey: Path, tmp_path: Path, failing: int
) -> None:
    folder = tmp_path / "parts"
    assert split(survey, folder, 6) == 0
    before = contents(folder)
    calls = 0

    class Disk(type(folder)):  # type: ignore[misc]
        """Paths whose moves fail once, as a disk does that turns read-only."""

        def rename(self, target: Path) -> Path:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(30, os.strerror(30), str(self))
            return Path(super().rename(target))

    staging = tmp_path / "staging"
    staging.mkdir()
    for name in ("1.pt", "2.pt"):
        (staging / name).write_bytes(b"new")
    with pytest.raises(OSError, match="Read-only"):
        files.replace_files(Disk(staging), Disk(folder), [Disk(p) for p in folder.iterdir()])
    assert contents(folder) == before


def test_an_empty_data_set_replaces_nothing(
    survey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.data import TensorDataset

    empty, folder = tmp_path / "empty.pt", tmp_path / "parts"
    torch.save(TensorDataset(torch.zeros(0, 5, 32, 32), torch.zeros(0, 5), torch.zeros(0)), empty)
    assert split(survey, folder, 6) == 0
    before = contents(folder)
    assert split(empty, folder, 6, "--overwrite") == 2
    assert "holds no galaxies" in capsys.readouterr().err
    assert contents(folder) == before


def test_a_file_or_a_dangling_link_is_no_folder(
    survey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for folder, reason in (
        (file, "found a file"),
        (link, "does not exist"),
        (file / "parts", "Not a directory"),
    ):
        assert split(survey, folder, 6, "--overwrite") == 2
        assert reason in capsys.readouterr().err
    assert file.read_text() == "mine"


FILLED = """
import os, sys
from pathlib import Path
from cosmicai_workbench.cli.main import main
disk, *words = sys.argv[1:]
os.chdir(disk)
code = main(words)
print("left:", sorted(os.listdir(disk)))
sys.exit(code)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="util-linux has unshare")
@pytest.mark.parametrize(
    "command",
    [
        "data make -n 60 new.pt",
        "data split {survey} parts --galaxies 6",
        "data preview {survey} sheet.png",
        "results export {run} --to csv -o out.csv",
        "results export {run} --to fits -o out.fits",
        "results export {run} --to hats -o sky",
        "report {run} -o report.html",
        "infer {model} {survey} --engine plain -o run",
    ],
)
def test_a_full_disk_is_named_and_leaves_nothing_unfinished(
    survey: Path, run: Path, model: Path, tmp_path: Path, command: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    words = command.format(survey=survey, run=run, model=model).split()
    script = f'mount -t tmpfs -o size=16k none {disk} && exec "$@"'
    python = [sys.executable, "-c", FILLED, str(disk), *words]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *python],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.stderr.startswith(("mount", "unshare")):
        pytest.skip(f"no small disk can be made here: {done.stderr}")
    assert done.returncode == 2, done
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "left: []" in done.stdout


def test_a_folder_that_cannot_be_written_is_named(
    survey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for command in (
        ["data", "make", "-n", "3", str(file / "new.pt")],
        ["data", "preview", str(survey), str(file / "sheet.png")],
        ["data", "split", str(survey), str(file / "parts"), "--galaxies", "6"],
    ):
        assert main(command) == 2
        assert str(file) in capsys.readouterr().err
