"""The state folder of a local cloud: several at once, damaged files, folders that cannot be."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cosmicai_workbench.cloud.local import LocalCloud, stop
from cosmicai_workbench.cloud.state import LocalCloudError, Status, is_free

TEMPLATE = Path(__file__).parent / "small_stack/template.yaml"
CLI = [sys.executable, "-m", "cosmicai_workbench.cli.main"]
UP = ["local", "up", "--template", str(TEMPLATE), "--concurrency", "1"]


def cosmicai(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*CLI, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def at_once(
    folder: Path, commands: Sequence[Sequence[str]]
) -> list["subprocess.CompletedProcess[str]"]:
    """Run commands at the same time."""
    started = [
        subprocess.Popen(
            words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for words in commands
    ]
    ended = []
    for process in started:
        out, error = process.communicate(timeout=120)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, error))
    return ended


def servers(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command and b"cosmicai_workbench.cloud.server" in command:
            found.append(int(entry.parent.name))
    return found


def test_of_three_starts_at_once_one_serves_and_two_are_refused(tmp_path: Path) -> None:
    ended = at_once(tmp_path, [[*CLI, *UP]] * 3)
    try:
        assert sorted(each.returncode for each in ended) == [0, 2, 2], [e.stderr for e in ended]
        for each in ended:
            if each.returncode:
                assert "LocalCloudError: the local cloud of" in each.stderr
                assert "Traceback" not in each.stderr
        assert len(servers(tmp_path)) == 1
    finally:
        down = cosmicai(tmp_path, "local", "down")
    assert down.returncode == 0, down.stderr
    assert servers(tmp_path) == []


def test_three_data_sets_of_the_demo_at_once_are_made_once(tmp_path: Path) -> None:
    program = """
from pathlib import Path
from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.demo import dataset
print(dataset(22, 2, bar=no_bar, cache=Path("cache")))
"""
    ended = at_once(tmp_path, [[sys.executable, "-c", program]] * 3)
    assert [each.returncode for each in ended] == [0, 0, 0], [e.stderr for e in ended]
    (folder,) = {each.stdout for each in ended}
    assert len(list((tmp_path / folder.strip()).glob("*.pt"))) == 2


@pytest.mark.parametrize("damage", ["{", "\0\xff"])
def test_a_damaged_status_ends_in_a_named_error_and_can_be_ended(
    tmp_path: Path, damage: str
) -> None:
    LocalCloud(template=TEMPLATE, root=tmp_path / ".cosmicai", name="local", concurrency=1).start(
        detached=True
    )
    try:
        (tmp_path / ".cosmicai/local/cloud.json").write_text(damage, encoding="latin-1")
        shown = cosmicai(tmp_path, "local", "status")
        assert shown.returncode == 2
        assert "is damaged" in shown.stderr
        assert "Traceback" not in shown.stderr
    finally:
        ended = cosmicai(tmp_path, "local", "down")
    assert ended.returncode == 0, ended.stderr
    assert servers(tmp_path) == []


def test_a_damaged_status_of_a_cloud_that_is_gone_is_none_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / "cloud.json").write_text("{")
    assert Status.read(folder) is None
    assert not stop(folder)
    with LocalCloud(template=TEMPLATE, root=tmp_path, name="local", concurrency=1) as cloud:
        assert cloud.status.concurrency == 1


def test_a_process_that_took_the_number_of_a_killed_cloud_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "local"
    cloud = LocalCloud(template=TEMPLATE, root=tmp_path, name="local", concurrency=1)
    status = cloud.start(detached=True)
    os.kill(status.process_id, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not is_free(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    document = json.loads((folder / "cloud.json").read_text()) | {"process_id": os.getpid()}
    (folder / "cloud.json").write_text(json.dumps(document))
    (folder / "lock").write_text(str(os.getpid()))
    assert Status.read(folder) is None
    assert not stop(folder)  # or this test would end here


@pytest.mark.parametrize("root", ["file", "file/below", "/proc/state"])
def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalCloudError, match="cannot be written"):
        LocalCloud(template=TEMPLATE, root=tmp_path / root, name="local").start()


def test_logs_of_nothing_say_so(tmp_path: Path) -> None:
    with LocalCloud(template=TEMPLATE, root=tmp_path / ".cosmicai", name="local", concurrency=1):
        pass
    (tmp_path / ".cosmicai/local/logs/probe").mkdir(parents=True)
    (tmp_path / ".cosmicai/local/logs/probe/0.log").write_text("t\tline\n")
    found = cosmicai(tmp_path, "logs")
    assert (found.returncode, found.stdout) == (0, "t probe/0 line\n")
    (line,) = cosmicai(tmp_path, "logs", "--json").stdout.splitlines()
    assert json.loads(line) == {"timestamp": "t", "stream": "probe/0", "text": "line"}
    other = cosmicai(tmp_path, "logs", "--execution", "none")
    assert (other.returncode, other.stdout) == (1, "")
    assert "no lines of execution none in" in other.stderr
    both = cosmicai(tmp_path, "logs", "--execution", "none", "--follow")
    assert (both.returncode, both.stdout) == (2, "")
    nothing = cosmicai(tmp_path, "logs", "--rank", "99")
    assert nothing.returncode == 1
    assert "no lines of an invocation that served rank 99" in nothing.stderr
