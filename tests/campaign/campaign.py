"""Campaigns of random trials: what a trial may end in, and the table of how all ended.

A part of a campaign draws trials from a seed, runs each, and judges it. A trial that came out
wrong or hung fails the campaign; its seed repeats it alone:

    PYTHONPATH=tests python -m campaign --seed 1 --seed 2 --trials 100
    PYTHONPATH=tests python -m campaign.collectives --seed 1 --trials 200
    PYTHONPATH=tests python -m campaign --only 'collectives over memory' --first 17 --trials 1
"""

from __future__ import annotations

import argparse
import enum
import random
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Outcome(enum.StrEnum):
    """How a trial ended."""

    SURVIVED = "survived"  # the right result, whatever was done to it
    HELD = "held"  # a named error that says what happened, and nothing wrong or lost
    UNCLEAR = "unclear"  # an error that names nothing: a bare traceback, or an empty message
    WRONG = "wrong"  # another result than the right one, or lost data
    HUNG = "hung"  # it did not end by its deadline


FAILURES = (Outcome.WRONG, Outcome.HUNG)
MOST_UNCLEAR = 0.01  # of all trials of a part

Verdict = tuple[Outcome, str]


@dataclass(frozen=True)
class Trial:
    """One trial: which it was, how it ended, and what there is to say about it."""

    part: str
    number: int
    seed: int
    outcome: Outcome
    detail: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.part} {self.number} (--seed {self.seed}): {self.outcome}: {self.detail}"


@dataclass
class Campaign:
    """The trials that have been run."""

    seed: int
    trials: list[Trial] = field(default_factory=list)

    def run(
        self,
        part: str,
        trial: Callable[[random.Random], Verdict],
        numbers: Sequence[int],
        end: float = float("inf"),
    ) -> None:
        """Run trials of one part until ``end``, a value of `time.monotonic`.

        Parameters
        ----------
        part : str
        trial : callable
            Draws one trial from the generator that it is given, runs and judges it. What it
            raises is an unclear end.
        numbers : sequence of int
            Each trial depends on seed, part and its number alone.
        """
        for number in numbers:
            if time.monotonic() > end:
                return
            began = time.monotonic()
            try:
                outcome, detail = trial(random.Random(f"{self.seed}/{part}/{number}"))
            except Exception:  # noqa: BLE001 - a trial may end in anything, and the next shall run
                outcome, detail = Outcome.UNCLEAR, traceback.format_exc(limit=-3)
            seconds = time.monotonic() - began
            self.trials.append(Trial(part, number, self.seed, outcome, detail, seconds))

    def count(self, part: str, outcome: Outcome) -> int:
        """Return how many trials of a part ended so."""
        return sum(t.part == part and t.outcome is outcome for t in self.trials)

    def problems(self) -> list[Trial]:
        """Return the trials that were wrong or hung, and those with an unclear error."""
        return [t for t in self.trials if t.outcome in (*FAILURES, Outcome.UNCLEAR)]

    def failed(self) -> bool:
        """Whether any trial was wrong or hung, or more than a hundredth of a part unclear."""
        parts = dict.fromkeys(trial.part for trial in self.trials)
        return any(trial.outcome in FAILURES for trial in self.trials) or any(
            self.count(part, Outcome.UNCLEAR)
            > MOST_UNCLEAR * sum(trial.part == part for trial in self.trials)
            for part in parts
        )

    def table(self) -> str:
        """Return the table of parts and outcomes."""
        parts = list(dict.fromkeys(trial.part for trial in self.trials))
        head = ["part", "trials", *(outcome.value for outcome in Outcome), "seconds"]
        rows = [head]
        for part in parts:
            own = [trial for trial in self.trials if trial.part == part]
            counts = [str(self.count(part, outcome)) for outcome in Outcome]
            rows.append([part, str(len(own)), *counts, f"{sum(t.seconds for t in own):.0f}"])
        totals = [str(sum(t.outcome is o for t in self.trials)) for o in Outcome]
        seconds = f"{sum(t.seconds for t in self.trials):.0f}"
        rows.append(["all", str(len(self.trials)), *totals, seconds])
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if not i else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )


def main(
    parts: Mapping[str, Callable[[random.Random], Verdict]],
    arguments: Sequence[str] | None = None,
    *,
    trials: int = 100,
) -> int:
    """Run a campaign from the command line; return 1 if it failed.

    Parameters
    ----------
    parts : mapping
        The trials by the name of their part.
    arguments : sequence of str, optional
    trials : int
        Trials of each part, unless the command line says otherwise.
    """
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="one or more; default 1")
    parser.add_argument("--trials", type=int, default=trials, help="of each part")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each part")
    parser.add_argument("--only", action="append", choices=list(parts), help="parts to run")
    options = parser.parse_args(arguments)
    seeds = options.seed or [1]
    campaign = Campaign(seeds[0])
    numbers = range(options.first, options.first + options.trials)
    for part in options.only or parts:
        for seed in seeds:
            campaign.seed = seed
            campaign.run(part, parts[part], numbers, time.monotonic() + options.seconds)
        sys.stdout.write(f"{campaign.table()}\n\n")
        sys.stdout.flush()
    for trial in campaign.problems():
        sys.stdout.write(f"{trial}\n")
    sys.stdout.write(campaign.table() + "\n")
    return int(campaign.failed())
