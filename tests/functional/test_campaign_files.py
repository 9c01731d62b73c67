"""The short part of the campaign over damaged files, and that its limits hold."""

import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from campaign import files
from campaign.campaign import Campaign, Outcome, Verdict
from cosmicai.errors import InvalidInput

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits memory")


@pytest.mark.parametrize("part", list(files.PARTS))
def test_damaged_files_give_the_right_data_or_a_named_error(part: str) -> None:
    campaign = Campaign(seed=random.SystemRandom().randrange(10**6))
    campaign.run(part, files.PARTS[part], range(25), end=time.monotonic() + 60)
    assert not campaign.failed(), "\n".join(map(str, campaign.problems()))


def connect() -> Verdict:
    socket.socket().close()
    return Outcome.SURVIVED, ""


def write_elsewhere() -> Verdict:
    with tempfile.TemporaryFile(), Path("/tmp/campaign-elsewhere").open("w"):
        return Outcome.SURVIVED, ""


def start_a_program() -> Verdict:
    os.system("true")
    return Outcome.SURVIVED, ""


def hang() -> Verdict:
    time.sleep(60)
    return Outcome.SURVIVED, ""


def die() -> Verdict:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return Outcome.SURVIVED, ""


def take_memory() -> Verdict:
    np.ones(2 * files.MEMORY_BYTES, np.uint8)
    return Outcome.SURVIVED, ""


def name_an_error() -> Verdict:
    raise InvalidInput("a number expected, found text")


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        (connect, Outcome.WRONG),
        (write_elsewhere, Outcome.WRONG),
        (start_a_program, Outcome.WRONG),
        (hang, Outcome.HUNG),
        (die, Outcome.WRONG),
        (take_memory, Outcome.UNCLEAR),
        (name_an_error, Outcome.HELD),
    ],
)
def test_the_judge_sees_what_a_reader_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: object, outcome: Outcome
) -> None:
    monkeypatch.setattr(files, "SECONDS", 2.0)
    assert callable(read)
    found, detail = files.isolated(tmp_path, read)
    assert found is outcome, detail
