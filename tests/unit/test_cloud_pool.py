"""How a pool uses its sandboxes, with sandboxes that only pretend."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cosmicai_workbench.cloud import pool as module
from cosmicai_workbench.cloud.pool import Pools
from cosmicai_workbench.cloud.records import Report
from cosmicai_workbench.cloud.sandbox import Outcome, SandboxNotStarted, emulator
from cosmicai_workbench.cloud.state import LocalCloudError
from cosmicai_workbench.cloud.template import Function


class FakeSandbox:
    """Answers with its number; ``b"break"`` makes it unusable, ``b"wait"`` waits for the others."""

    made: ClassVar[list["FakeSandbox"]] = []
    faults = 0
    together = threading.Barrier(1)

    def __init__(self, *_: Any) -> None:
        self.closed = False
        self.alive = True
        self.number = len(FakeSandbox.made)
        FakeSandbox.made.append(self)

    def invoke(self, payload: bytes) -> Outcome:
        if self.number < FakeSandbox.faults:
            raise SandboxNotStarted("its port is taken")
        if payload == b"wait":
            FakeSandbox.together.wait(10)
        report = Report("id", 1.0, 128, 50)
        return Outcome(str(self.number).encode(), report, usable=payload != b"break")

    def watch_memory(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pools:
    monkeypatch.setattr(module, "Sandbox", FakeSandbox)
    monkeypatch.setattr(FakeSandbox, "made", [])
    monkeypatch.setattr(FakeSandbox, "faults", 0)
    function = Function("f", "arn", tmp_path, "app.handler", 3, 128, {}, (), "/aws/lambda/f")
    return Pools((function,), lambda _: {}, 3, tmp_path / "logs")


def test_one_sandbox_serves_call_after_call(pools: Pools) -> None:
    assert [pools.invoke("f", b"").payload for _ in range(3)] == [b"0"] * 3


def test_a_sandbox_that_died_while_idle_is_closed_and_replaced(pools: Pools) -> None:
    assert pools.invoke("f", b"").payload == b"0"
    FakeSandbox.made[0].alive = False
    assert pools.invoke("f", b"").payload == b"1"
    assert FakeSandbox.made[0].closed


def test_calls_at_once_get_one_each_up_to_the_concurrency(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSandbox, "together", threading.Barrier(3))
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: pools.invoke("f", b"wait").payload, range(6)))
    assert sorted(set(answers)) == [b"0", b"1", b"2"]
    assert len(FakeSandbox.made) == 3


def test_a_sandbox_that_is_lost_is_closed_and_never_used_again(pools: Pools) -> None:
    assert not pools.invoke("f", b"break").usable
    assert FakeSandbox.made[0].closed
    assert pools.invoke("f", b"").payload == b"1"


@pytest.mark.parametrize(("faults", "serves"), [(2, True), (3, False)])
def test_a_sandbox_that_does_not_start_is_tried_again_twice(
    pools: Pools, monkeypatch: pytest.MonkeyPatch, faults: int, serves: bool
) -> None:
    monkeypatch.setattr(FakeSandbox, "faults", faults)
    if serves:
        assert pools.invoke("f", b"").payload == b"2"
    else:
        with pytest.raises(SandboxNotStarted, match="port is taken"):
            pools.invoke("f", b"")
    assert all(sandbox.closed for sandbox in FakeSandbox.made[:faults])


def test_after_closing_every_sandbox_is_closed_and_none_is_started(pools: Pools) -> None:
    pools.invoke("f", b"")
    pools.close()
    assert FakeSandbox.made[0].closed
    with pytest.raises(RuntimeError, match="shutting down"):
        pools.invoke("f", b"")


def test_the_emulator_is_aws_own_and_other_systems_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert emulator().is_file()
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(LocalCloudError, match="needs Linux"):
        emulator()
