"""The campaign's own bookkeeping: what fails it, and that a trial repeats alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from campaign.campaign import Campaign, Outcome, Verdict, main

if TYPE_CHECKING:
    import random


def draw(generator: random.Random) -> Verdict:
    return Outcome.SURVIVED, str(generator.random())


def test_a_trial_repeats_by_seed_and_number_alone() -> None:
    whole, alone = Campaign(3), Campaign(3)
    whole.run("part", draw, range(5))
    alone.run("part", draw, [4])
    assert alone.trials[0].detail == whole.trials[4].detail
    assert len({trial.detail for trial in whole.trials}) == 5


def raises(_: random.Random) -> Verdict:
    raise KeyError("galaxy")


@pytest.mark.parametrize(
    ("trial", "code"),
    [
        (draw, 0),
        (lambda _: (Outcome.HELD, ""), 0),
        (lambda _: (Outcome.WRONG, "7 is not 8"), 1),
        (lambda _: (Outcome.HUNG, ""), 1),
        (raises, 1),
    ],
)
def test_wrong_hung_and_many_unclear_trials_fail_a_campaign(trial, code, capsys) -> None:
    assert main({"good": draw, "other": trial}, ["--trials", "3"]) == code
    head, *_, last = capsys.readouterr().out.splitlines()[-4:]
    assert head.split() == ["part", "trials", *(outcome.value for outcome in Outcome), "seconds"]
    assert last.split()[:2] == ["all", "6"]
