"""Log streams: REPORT lines, and the lines of one rank among many."""

import errno
import os
from pathlib import Path

import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.cloud.invocations import invocations, lines_by_rank
from cosmicai_workbench.cloud.pool import sandbox_threads
from cosmicai_workbench.cloud.records import (
    LogReader,
    LogStream,
    Report,
    latest_logs,
    peak_memory,
    start_line,
)
from cosmicai_workbench.results.invocations import parse_report
from cosmicai_workbench.results.logs import read_logs, write_logs

REPORT = Report("abc", 12.34, 512, 81, init_duration=250.4)


def serve(stream: LogStream, request: str, rank: int, execution: str = "e1") -> None:
    """Write the lines of one invocation."""
    stream.write(f"START RequestId: {request} Version: $LATEST")
    stream.write(f'{{"rank": {rank}, "execution": "{execution}"}}')
    stream.write(f"END RequestId: {request}")
    stream.write(Report(request, 1.0, 512, 80).line())


def test_a_report_reads_back_as_lambdas_own() -> None:
    read = parse_report(REPORT.line())
    assert (read.request_id, read.duration_ms, read.max_memory_mb) == ("abc", 12.34, 81)
    # AWS bills the init phase too, and whole milliseconds.
    assert read.billed_ms == 263
    assert "Init" not in Report("abc", 1.0, 512, 81).line()
    assert Report("abc", 1.0, 512, 81, status="timeout").line().endswith("\tStatus: timeout")


def test_lines_of_all_streams_in_the_order_of_time(tmp_path: Path) -> None:
    first, second = LogStream(tmp_path / "f/0.log"), LogStream(tmp_path / "f/1.log")
    for stream, text in ((first, "a"), (second, "b"), (first, "c")):
        stream.write(text)
    reader = LogReader(tmp_path)
    assert [entry.text for entry in reader.read()] == ["a", "b", "c"]
    second.write("d")
    assert [(entry.stream, entry.text) for entry in reader.read()] == [("f/1", "d")]


def test_only_the_invocations_of_a_rank(tmp_path: Path) -> None:
    stream = LogStream(tmp_path / "model_inference/0.log")
    serve(stream, "r-3", rank=3)
    serve(stream, "r-33", rank=33)
    shown = LogReader(tmp_path, rank=3).read()
    assert {entry.text.split("\t")[0] for entry in shown} >= {"REPORT RequestId: r-3"}
    assert not any("r-33" in entry.text for entry in shown)


def test_the_lines_of_every_rank_of_an_execution_are_kept_with_it(tmp_path: Path) -> None:
    first = LogStream(tmp_path / "logs/model_inference/0.log")
    second = LogStream(tmp_path / "logs/model_inference/1.log")
    serve(first, "r-0", rank=0)
    serve(second, "r-1", rank=1)
    serve(first, "r-2", rank=2)
    serve(second, "other", rank=0, execution="e2")
    serve(first, "again", rank=0)  # a retry
    found = lines_by_rank(tmp_path / "logs", "e1")
    assert sorted(found) == [0, 1, 2]
    assert [line.split("RequestId: ")[1].split()[0] for line in found[0] if "START" in line] == [
        "r-0",
        "again",
    ]
    write_logs(tmp_path, found)
    assert read_logs(tmp_path) == found
    assert read_logs(tmp_path / "logs") == {}
    write_logs(tmp_path, {7: [f"line {i} " + "x" * 1000 for i in range(100)]})
    (kept,) = read_logs(tmp_path).values()
    assert kept[-1].startswith("line 99 ")
    assert len(kept) == 60
    assert max(map(len, kept)) < 700
    (tmp_path / "logs.jsonl").write_text("{}\n")
    with pytest.raises(InvalidInput, match=r"logs\.jsonl, line 1"):
        read_logs(tmp_path)


def test_a_rank_that_is_still_at_work_is_shown_once_it_is_done(tmp_path: Path) -> None:
    stream = LogStream(tmp_path / "f/0.log")
    reader = LogReader(tmp_path, rank=1)
    stream.write("START RequestId: x Version: $LATEST")
    assert reader.read() == []
    stream.write('{"rank": 1}')
    stream.write(Report("x", 1.0, 512, 80).line())
    assert len(reader.read()) == 3


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "f/0.log"
    path.parent.mkdir()
    reader = LogReader(tmp_path)
    path.write_text("t\tfirst\nt\tsec")
    assert [entry.text for entry in reader.read()] == ["first"]
    with path.open("a") as file:
        file.write("ond\n")
    assert [entry.text for entry in reader.read()] == ["second"]


def test_invocations_of_one_execution_with_their_function(tmp_path: Path) -> None:
    serve(LogStream(tmp_path / "initialize/0.log"), "a", rank=0, execution="e1")
    stream = LogStream(tmp_path / "model_inference/0.log")
    serve(stream, "b", rank=0, execution="arn:aws:states:r:1:execution:m:e1")
    serve(stream, "c", rank=0, execution="e2")
    found = list(invocations(tmp_path, "e1"))
    assert [each["function"] for each in found] == ["initialize", "model_inference"]
    assert [parse_report(each["report"]).request_id for each in found] == ["a", "b"]


def test_the_cloud_that_wrote_last(tmp_path: Path) -> None:
    assert latest_logs(tmp_path) is None
    for name in ("one", "two"):
        LogStream(tmp_path / name / "logs/f/0.log").write("x")
    os.utime(tmp_path / "two/logs/f/0.log", (1, 1))
    assert latest_logs(tmp_path) == tmp_path / "one/logs"


def test_peak_memory_is_this_processs_and_none_for_one_that_is_gone() -> None:
    used = peak_memory(os.getpid())
    assert used is not None
    assert 5 < used < 100_000
    assert peak_memory(2**22 + 1) is None


@pytest.mark.parametrize(
    ("memory", "concurrency", "cores", "expected"),
    [(512, 1, 8, 1), (3538, 1, 8, 2), (3538, 8, 8, 1), (10_240, 1, 2, 2), (3538, 4, 2, 1)],
)
def test_a_sandbox_has_the_threads_of_its_memory_and_its_share_of_the_machine(
    memory: int, concurrency: int, cores: int, expected: int
) -> None:
    assert sandbox_threads(memory, concurrency, cores) == expected


TRACE = "[ERROR] KeyError: 'x'\rTraceback (most recent call last):\r  File a\r\nKeyError: 'x'"


def test_a_stack_trace_stays_one_record_and_is_shown_in_order(tmp_path: Path) -> None:
    stream = LogStream(tmp_path / "f/0.log")
    for text in ("before", TRACE, "after"):
        stream.write(text)
    entries = LogReader(tmp_path).read()
    assert [entry.text for entry in entries] == ["before", TRACE.replace("\r\n", "\r"), "after"]
    shown = entries[1].shown().splitlines()
    assert shown[0].endswith("f/0 [ERROR] KeyError: 'x'")
    expected = ["Traceback (most recent call last):", "  File a", "KeyError: 'x'"]
    assert shown[1:] == [f"    {line}" for line in expected]


@pytest.mark.parametrize("control", ["\x1b[2J", "\x07", "\x9b1m", "\x7f"])
def test_no_line_controls_the_terminal(tmp_path: Path, control: str) -> None:
    LogStream(tmp_path / "f/0.log").write(f"a{control}b\tc")
    (entry,) = LogReader(tmp_path).read()
    assert control[0] not in entry.shown()
    assert entry.shown().endswith("b\tc")


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b'{"RANK": 3}', True),
        (b'{"RANK": 33}', False),
        (b"[3]", False),
        (b"\xff not JSON", False),
        (b"{}", False),
    ],
)
def test_a_rank_that_failed_before_its_first_line_is_found(
    tmp_path: Path, payload: bytes, found: bool
) -> None:
    stream = LogStream(tmp_path / "f/0.log")
    stream.write(start_line("r-1", payload))
    stream.write("[ERROR] Runtime.OutOfMemory")
    stream.write(Report("r-1", 1.0, 512, 80, status="error").line())
    assert len(LogReader(tmp_path, rank=3).read()) == (3 if found else 0)
    assert len(LogReader(tmp_path).read()) == 3


def test_a_full_disk_is_kept_as_the_streams_fault_and_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "0.log").symlink_to("/dev/full")
    stream = LogStream(tmp_path / "0.log")
    for _ in range(3):
        stream.write("line")
    stream.close()
    assert stream.fault is not None
    assert stream.fault.errno == errno.ENOSPC
