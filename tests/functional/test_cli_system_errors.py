"""What the operating system refuses: one clear line, an exit code, and no unfinished file."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from cosmicai_workbench.application import SMALL_MODEL
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.partition_writer import write_partition
from run_folders import make_run
from s3_stack import make_galaxies

MODEL = str(SMALL_MODEL)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_partition(folder / "1.pt", make_galaxies(60, seed=1), {"from": "test"})
    make_run(folder, ranks=1, name="run")
    (folder / "latin1.toml").write_bytes(b'name = "gal\xe1xia"\n')
    (folder / "latin1.json").write_bytes(b'{"name": "gal\xe1xia"}')
    (folder / "file").write_text("not a folder")
    return folder


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 2,000 bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS = [
    "predict {i}/1.pt -o run",
    "results export {i}/run --to fits -o c.fits",
    "results export {i}/run --to parquet -o c.parquet",
    "results export {i}/run --to csv -o c.csv",
    "report {i}/run -o r.html",
    "data make -n 60 made.pt",
    "data split {i}/1.pt parts --galaxies 30",
    "data preview {i}/1.pt p.png",
    f"model prepare {MODEL} prepared",
]


def run(command: str, inputs: Path) -> int:
    return main(command.format(i=inputs).split())


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk(
    command: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    full_disk: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(command, inputs) in (1, 2)
    told = [line for line in capsys.readouterr().err.splitlines() if "no --model" not in line]
    assert len(told) == 1
    assert "File too large" in told[0]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("command", WRITERS)
def test_an_output_that_cannot_be(
    command: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    *words, output = command.split(" ")
    if words[:2] == ["data", "split"]:
        words, output = ["data", "split", "{i}/1.pt", "--galaxies", "30"], "parts"
    monkeypatch.chdir(tmp_path)
    assert run(" ".join([*words, f"{inputs}/file/{output}"]), inputs) == 2
    told = capsys.readouterr().err.splitlines()
    assert any("irectory" in line or " file" in line for line in told)
    assert not any("Traceback" in line for line in told)


@pytest.mark.parametrize(
    "command",
    [
        "results export {i}/run --to fits --overwrite -o pipe",
        "results export {i}/run --to csv --overwrite -o pipe",
        "report {i}/run -o pipe",
        "data preview {i}/1.pt pipe.png",
    ],
)
def test_no_file_takes_the_place_of_a_pipe_or_a_device(
    command: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipe = tmp_path / command.split()[-1]
    os.mkfifo(pipe)
    monkeypatch.chdir(tmp_path)
    assert run(command, inputs) == 2
    assert "pipe" in (told := capsys.readouterr().err)
    assert "a regular file expected" in told
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    "command",
    [
        "predict {i}/1.pt --model {i}/1.pt",
        "run --data {i} --model {i}/1.pt",
        "model evaluate {i}/1.pt",
        "model prepare {i}/1.pt",
        "tune {i}/1.pt",
        "sweep {i}/latin1.toml",
        "run -i {i}/latin1.json",
        "model train here --config {i}/latin1.json",
        "report {i}/run --estimate {i}/latin1.json",
        "local invoke initialize -e {i}/latin1.json",
    ],
)
def test_what_is_no_model_or_no_text_is_named(
    command: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(command, inputs) == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "no --model" not in line]
    assert str(inputs) in told
    assert not (tmp_path / ".cosmicai").exists()  # no cloud was started


def test_a_name_that_is_no_utf8_is_shown_or_refused(
    inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = os.fsdecode(os.fsencode(tmp_path / "m") + b"\xff.pt")
    Path(source).write_bytes((inputs / "1.pt").read_bytes())
    assert main(["data", "inspect", source]) == 0
    assert "m\\udcff.pt" in capfd.readouterr().out.replace("\n", "")
    assert main(["predict", source, "-o", f"{source}.run"]) == 2
    assert "a name in UTF-8 expected" in capfd.readouterr().err
