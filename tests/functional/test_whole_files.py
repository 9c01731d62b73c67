"""Files and folders that several processes write, or that a killed one was about to write."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cosmicai.errors import InvalidInput
from cosmicai.sharing import partition_files
from cosmicai.whole_files import whole_file, whole_folder
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.files import staging_folder
from cosmicai_workbench.results.export import WRITERS
from model_fill import SMALL, filled_bundle
from run_folders import make_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def killed(script: str, *arguments: Path) -> None:
    """Run a script in a process of its own that kills itself."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_of_two_writers_wins_and_both_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole_file(path) as first:
        with whole_file(path) as second:
            assert first != second
            first.write_text("first")
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    folder = tmp_path / "folder"
    with whole_folder(folder) as first:
        (first / "a").write_text("first")
        with whole_folder(folder) as second:
            (second / "b").write_text("second")
        assert names(folder) == ["b"]
    assert names(folder) == ["a"]
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_what_appears_meanwhile_is_not_replaced_unless_told(tmp_path: Path, whole: type) -> None:
    path = tmp_path / "target"

    def write() -> None:
        with whole(path, replace=False) as partial:
            if whole is whole_file:
                partial.write_text("mine")
                path.write_text("theirs")
            else:
                path.mkdir()
                (path / "theirs").touch()

    with pytest.raises(FileExistsError, match="another process wrote it meanwhile"):
        write()
    assert path.read_text() == "theirs" if path.is_file() else names(path) == ["theirs"]
    assert names(tmp_path) == ["target"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    for whole, name in ((whole_file, "file"), (whole_folder, "folder")):
        target, link = tmp_path / "elsewhere" / name, tmp_path / f"link-{name}"
        target.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
        for _ in range(2):
            with whole(link) as partial:
                (partial if whole is whole_file else partial / "inside").write_text("new")
        assert link.is_symlink()
        assert (target if whole is whole_file else target / "inside").read_text() == "new"


@pytest.mark.parametrize("name", ["c", "ü" * 120, "a\nb", "x" * 255])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    killed(
        """
        import os, signal, sys
        from pathlib import Path
        from cosmicai.whole_files import whole_file, whole_folder
        with whole_folder(Path(sys.argv[1])) as folder, whole_file(Path(sys.argv[2])) as file:
            (folder / "half").write_text("half")
            file.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "folder",
        path,
    )
    assert not path.exists()
    assert len(names(tmp_path)) == 2
    with whole_file(path) as partial:
        partial.write_text("whole")
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "whole").touch()
    assert names(tmp_path) == sorted([name, "folder"])
    assert names(tmp_path / "folder") == ["whole"]


@pytest.mark.parametrize("within", [lambda p: p.open("r"), lambda p: p.mkdir() or p.open("w")])
def test_an_error_names_the_file_that_was_asked_for(
    tmp_path: Path, within: Callable[[Path], object]
) -> None:
    wanted = tmp_path / "wanted"
    with pytest.raises(OSError, match=r"wanted'$") as caught, whole_file(wanted) as partial:
        within(partial)
    assert caught.value.filename == str(wanted)
    absent = tmp_path / "absent" / "wanted"
    with pytest.raises(FileNotFoundError, match=r"absent/wanted'$"), whole_file(absent):
        pytest.fail("there is no such folder")


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "survey.pt"
    assert main(["data", "make", "-n", "8", str(path)]) == 0
    return path


def split(survey: Path, folder: Path, galaxies: int, *options: str) -> int:
    return main(["data", "split", str(survey), str(folder), "--galaxies", str(galaxies), *options])


KILLED_SPLIT = """
    import os, signal, sys
    from cosmicai_workbench.cli.main import main
    survey, folder, last = sys.argv[1:]
    count, rename = 0, os.rename
    def until_killed(source, target, **options):
        global count
        if ".cosmicai-partitions-" in f"{source}{target}" and count == int(last):
            os.kill(os.getpid(), signal.SIGKILL)
        count += ".cosmicai-partitions-" in f"{source}{target}"
        rename(source, target, **options)
    os.rename = until_killed
    main(["data", "split", survey, folder, "--galaxies", "4", "--overwrite"])
    """


@pytest.mark.parametrize("moved", [0, 1, 4, 7, 8, 9, 11])
def test_a_split_killed_while_it_replaces_is_undone_or_completed(
    survey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], moved: int
) -> None:
    """Eight files go, four come: of four partitions and of two, with their catalogues."""
    folder = tmp_path / "parts"
    assert split(survey, folder, 2) == 0
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    assert len(before) == 8
    (folder / "mine.txt").write_text("mine")
    killed(KILLED_SPLIT, survey, folder, moved)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="partitions are being replaced, or were when that was"):
        partition_files(folder)
    capsys.readouterr()
    assert split(survey, folder, 8) == 2
    assert "already holds" in capsys.readouterr().err
    assert (folder / "mine.txt").read_text() == "mine"
    if moved < 8:
        after = {name: (folder / name).read_bytes() for name in names(folder) if name in before}
        assert after == before
    else:
        assert names(folder) == sorted(
            ["1.catalogue.csv", "1.pt", "2.catalogue.csv", "2.pt", "mine.txt"]
        )
        assert sum(path.stat().st_size for path in partition_files(folder)) < sum(
            len(content) for content in before.values()
        )
    assert not [name for name in names(folder) if name.startswith(".")]


def test_two_processes_do_not_mix_their_partitions(
    survey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "parts"
    with staging_folder(folder):
        assert split(survey, folder, 4) == 2
        assert "another process writes partitions into it" in capsys.readouterr().err
    assert split(survey, folder, 4) == 0
    with staging_folder(folder):
        assert split(survey, folder, 8, "--overwrite") == 2
    assert [path.name for path in partition_files(folder)] == ["1.pt", "2.pt"]


def test_an_export_does_not_replace_what_another_process_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "runs", ranks=1, samples=5)
    target = tmp_path / "out.csv"
    csv = WRITERS["csv"]

    def late(*arguments: Any) -> int:
        target.write_text("theirs")
        return csv.write(*arguments)

    monkeypatch.setitem(WRITERS, "csv", replace(csv, write=late))
    export = ["results", "export", str(run), "--to", "csv", "-o", str(target)]
    assert main(export) == 2
    assert "another process wrote it meanwhile" in capsys.readouterr().err
    assert target.read_text() == "theirs"


@pytest.mark.parametrize("command", ["import", "calibrate"])
def test_only_a_bundle_is_replaced_by_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    bundle = filled_bundle(SMALL, tmp_path / "model")
    out = tmp_path / "thesis"
    filled_bundle(SMALL, out)
    (out / "chapter.tex").write_text("two years")
    rest = [str(out)] if command == "import" else [str(tmp_path), "-o", str(out)]
    assert main(["model", command, str(bundle.path), *rest, "--overwrite"]) == 2
    assert "holds 'chapter.tex', which is not a file of a model bundle" in capsys.readouterr().err
    assert (out / "chapter.tex").read_text() == "two years"
