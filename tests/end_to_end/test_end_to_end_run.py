"""What a user types: the demo, and runs in a local cloud that stays up."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.demo import dataset
from cosmicai_workbench.results.run_folder import load_run

ROOT = Path(__file__).parents[2]
SEED = ROOT / "events/seed-100MB-1GB.json"
GALAXIES = 66


def cosmicai(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a folder, as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "cosmicai_workbench.cli.main", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def outcome(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Return what ``--json`` printed."""
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo was run on a small set."""
    folder = tmp_path_factory.mktemp("demo")
    done = cosmicai(folder, "demo", "--galaxies", str(GALAXIES))
    assert done.returncode == 0, done.stderr
    assert "11 of 11 received" in done.stdout
    assert "runs/run-" in done.stdout
    return folder


@pytest.fixture(scope="module")
def up(demo: Path) -> Iterator[Path]:
    """The same folder, with a local cloud up that already holds model and partitions."""
    done = cosmicai(demo, "local", "up", "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    yield demo
    assert cosmicai(demo, "local", "down").returncode == 0
    assert cosmicai(demo, "local", "status").returncode == 1


def partitions(folder: Path) -> str:
    return str(next(folder.glob(".cosmicai/demo/*/partitions")))


def run_seed(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return cosmicai(
        folder,
        *("run", "--local", "--json", "--input", str(SEED)),
        *("--model", str(ROOT / "models/astromae-small"), "--data", partitions(folder)),
        *words,
    )


def test_the_demo_leaves_a_whole_run_folder(demo: Path) -> None:
    run = load_run(min(demo.glob("runs/run-*")))
    assert run.summary.status == "SUCCEEDED"
    assert run.summary.ranks_received == run.summary.world_size == 11
    assert run.summary.num_samples == GALAXIES
    assert run.summary.cost is not None
    assert run.summary.quality is not None
    assert run.summary.quality.num_galaxies == GALAXIES
    # 66 galaxies make a noisy figure; the bar (0.85) is for the demo's 2,500.
    assert run.summary.quality.r2 is not None
    assert run.summary.quality.r2 > 0.5
    assert np.isfinite(run.predictions.redshift).all()
    functions = [each.function for each in run.invocations]
    assert functions.count("model_inference") == 11
    assert {"initialize", "summarize"} < set(functions)
    names = {path.name for path in run.path.iterdir()}
    assert {f"{rank}.json" for rank in range(11)} < names
    assert {"combined_data.json", "redshifts.png", "execution.json", "plan.json"} < names


def test_the_demos_data_set_is_used_again(demo: Path) -> None:
    made = next(demo.glob(".cosmicai/demo/*/partitions/1.pt"))
    before = made.stat().st_mtime_ns
    assert dataset(GALAXIES, 11, bar=no_bar, cache=demo / ".cosmicai/demo") == made.parent
    assert made.stat().st_mtime_ns == before


def test_logs_of_a_rank(demo: Path) -> None:
    shown = cosmicai(demo, "logs", "--rank", "3").stdout.splitlines()
    assert "START RequestId" in shown[0]
    assert "REPORT RequestId" in shown[-1]
    assert any('"rank":3' in line for line in shown)


def test_the_seeds_payload_runs_verbatim_and_holds_its_result_path(up: Path) -> None:
    first = run_seed(up)
    assert first.returncode == 0, first.stderr
    told = outcome(first)
    assert told["summary"]["input"] == json.loads(SEED.read_text())
    assert told["summary"]["ranks_received"] == 11

    # Afterwards: the second is refused, and the first one's results are as they were.
    second = run_seed(up)
    assert second.returncode == 2
    assert "ResultPathInUse" in second.stderr
    assert outcome(second)["folder"] is None

    # Told to, it takes the path over.
    third = run_seed(up, "--set", "overwrite=true", "--set", "file_limit=2")
    assert third.returncode == 0, third.stderr
    assert outcome(third)["summary"]["ranks_received"] == 2


def test_of_two_executions_at_once_with_one_result_path_the_second_is_refused(up: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(
            pool.map(
                lambda _: run_seed(up, "--set", "result_path=at/once", "--set", "file_limit=2"),
                range(2),
            )
        )
    assert sorted(done.returncode for done in both) == [0, 2], [done.stderr for done in both]
    refused = next(done for done in both if done.returncode == 2)
    assert "ResultPathInUse" in refused.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("batch_size=0", "batch_size"),
        ("scripd=x", "scripd"),
        ("script=evil.py", "evil.py"),
        ("data_prefix=nothing/here", "PartitionNotFound"),
        ("S3_object_name=no/model", "ModelNotFound"),
    ],
)
def test_bad_input_is_refused_by_name(up: Path, change: str, says: str) -> None:
    words = ["--set", change, "--set", f"result_path=bad/{change}"]
    done = cosmicai(up, "run", "--local", "--input", str(SEED), *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_local_run_without_data_says_what_to_give(tmp_path: Path) -> None:
    done = cosmicai(tmp_path, "run", "--local", "--input", str(SEED))
    assert done.returncode == 2
    assert "--data" in done.stderr


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_is_retried_with_the_same_result(
    demo: Path, tmp_path: Path
) -> None:
    undisturbed = min(demo.glob("runs/run-*"))
    # Predictions name the partitions that they are of.
    prefix = json.loads((undisturbed / "execution.json").read_text())["input"]["data_prefix"]
    words = ["run", "--local", "--input", str(SEED), "--data", partitions(demo)]
    words += ["--set", f"data_prefix={prefix}"]
    program = subprocess.Popen(
        [sys.executable, "-m", "cosmicai_workbench.cli.main", *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (victims := runtimes(tmp_path, "ModelInferenceFunction")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(victims[0], signal.SIGKILL)
    assert program.wait(120) == 0
    logs = cosmicai(tmp_path, "logs").stdout
    assert "Runtime.ExitError" in logs
    for path in (undisturbed / "predictions").iterdir():
        assert path.read_bytes() == (tmp_path / "runs/latest/predictions" / path.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["s3", "direct"])
def test_ranks_meet_through_fmi(demo: Path, tmp_path: Path, channel: str) -> None:
    done = cosmicai(
        tmp_path,
        *("run", "--local", "--json", "--input", str(ROOT / "events/execution-fmi.json")),
        *("--data", partitions(demo), "--set", f"fmi_channel={channel}"),
    )
    assert done.returncode == 0, done.stderr
    summary = outcome(done)["summary"]
    assert summary["ranks_received"] == summary["world_size"] == 4
    assert summary["fmi"]["sums"]["num_samples"] == GALAXIES


def test_ranks_that_could_never_meet_are_refused_before_any_starts(up: Path) -> None:
    words = ["--set", "world_size=4", "--set", "result_path=results/fmi/never"]
    event = str(ROOT / "events/execution-fmi.json")
    model = ["--model", str(ROOT / "models/astromae-small"), "--data", partitions(up)]
    done = cosmicai(up, "run", "--local", "--json", "--input", event, *model, *words)
    assert done.returncode == 2
    assert "world" in done.stderr
    assert outcome(done)["summary"] is None


@pytest.mark.slow
def test_the_commands_of_the_documentation(demo: Path, tmp_path: Path) -> None:
    block = (ROOT / "docs/local-cloud.md").read_text().split("```")[1]
    for name, target in {
        "events": ROOT / "events",
        "models": ROOT / "models",
        "partitions": Path(partitions(demo)),
    }.items():
        (tmp_path / name).symlink_to(target)
    command = f'cosmicai() {{ {sys.executable} -m cosmicai_workbench.cli.main "$@"; }}\n'
    check = 'test -n "$AWS_ENDPOINT_URL"\n'
    done = subprocess.run(
        ["bash", "-e", "-c", command + block + check],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "11 of 11 received" in done.stdout
    assert "is down" in done.stdout


def runtimes(folder: Path, function: str) -> list[int]:
    """Return the runtimes of a function that belong to the clouds of a folder."""
    found = []
    for status in folder.glob(".cosmicai/*/cloud.json"):
        endpoint = json.loads(status.read_text())["endpoint"].encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            is_runtime = b"awslambdaric" in command and b"rie" not in command
            if is_runtime and endpoint in environment and function.encode() in environment:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_ctrl_c_in_the_middle_leaves_nothing_behind(demo: Path, tmp_path: Path) -> None:
    words = ["run", "--local", "--input", str(SEED), "--data", partitions(demo)]
    program = subprocess.Popen(
        [sys.executable, "-m", "cosmicai_workbench.cli.main", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(".cosmicai/run-*/logs/model_inference/*.log")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert servers(tmp_path)
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 130, errors
    assert b"Traceback" not in errors
    assert not servers(tmp_path)


def servers(folder: Path) -> list[bytes]:
    """Return the local cloud's processes that know the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command and b"cosmicai_workbench.cloud.server" in command:
            found.append(command)
    return found


def test_a_run_with_a_corrupt_partition_is_resumed_when_it_is_mended(up: Path) -> None:
    """Only the rank that failed runs again; the others' predictions stay as they are."""
    data = up / "some"
    data.mkdir()
    for number in range(1, 4):
        (data / f"{number}.pt").write_bytes(Path(partitions(up), f"{number}.pt").read_bytes())
    whole = (data / "2.pt").read_bytes()
    (data / "2.pt").write_bytes(whole[:-2000])
    # Tolerated, so that the Map does not stop at the first failure.
    where = ["--set", "data_prefix=some", "--set", "tolerated_failure_percentage=40", "--json"]
    failed = cosmicai(up, "run", "--data", "some", "--name", "broken", *where)
    assert failed.returncode == 3, failed.stderr
    (rank,) = outcome(failed)["summary"]["failed_ranks"]
    assert (rank["rank"], rank["error"]) == (1, "CorruptPartition")
    before = load_run(up / "runs/broken")

    # One of three ranks is tolerated, though the one that runs again is all that runs.
    still = cosmicai(up, "resume", "broken", "--name", "still")
    assert still.returncode == 3, still.stderr

    (data / "2.pt").write_bytes(whole)
    environment = cosmicai(up, "local", "status", "--env").stdout
    variables = dict(re.findall(r"export (\w+)=([^\s;]+)", environment))
    s3 = boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_REGION"],
    )
    s3.upload_file(
        str(data / "2.pt"), outcome(failed)["summary"]["input"]["data_bucket"], "some/2.pt"
    )

    done = cosmicai(up, "resume", "still", "--name", "mended", "--json")
    assert done.returncode == 0, done.stderr
    summary = outcome(done)["summary"]
    assert (summary["status"], summary["ranks_received"], summary["ranks_kept"]) == (
        "SUCCEEDED",
        3,
        2,
    )
    after = load_run(up / "runs/mended")
    assert [record.execution.rsplit(":", 1)[-1] for record in after.records] == [
        "broken",
        "mended",
        "broken",
    ]
    kept = after.predictions.rank != 1
    np.testing.assert_array_equal(before.predictions.redshift, after.predictions.redshift[kept])
    again = cosmicai(up, "resume", "mended")
    assert again.returncode == 2
    assert "nothing left to run" in again.stderr


def test_a_run_is_attached_to_after_it_ended(up: Path) -> None:
    started = cosmicai(up, "run", "--data", partitions(up), "--name", "left", "--no-watch")
    assert started.returncode == 0, started.stderr
    done = cosmicai(up, "run", "--attach", "left", "--json", "--report")
    assert done.returncode == 0, done.stderr
    assert outcome(done)["summary"]["status"] == "SUCCEEDED"
    assert "live report, until this command ends: http://127.0.0.1:" in done.stderr
    report = (up / "runs/left/report.html").read_text()
    assert "START RequestId" in report  # the ranks' logs

    watched = cosmicai(up, "watch", "left", "--no-browser", "--output", "watched.html")
    assert watched.returncode == 0, watched.stderr
    assert "http://127.0.0.1:" in watched.stderr
    assert "11 of 11" in (up / "watched.html").read_text()
