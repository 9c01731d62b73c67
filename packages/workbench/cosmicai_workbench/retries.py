"""What the state machine retries, and how often: the one declaration.

``make definition`` writes it into the state machine; simulations and clients read it here. Every
wait is drawn with full jitter: anything between 0 and the backoff's delay.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOT_STARTED = (
    # https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors
    "Lambda.TooManyRequestsException",
    "Lambda.SnapStartNotReadyException",
    "Lambda.SnapStartTimeoutException",
    "Lambda.ResourceNotReadyException",
    "Lambda.ENINotReadyException",
    "Lambda.EC2ThrottledException",
)
"""Lambda refused the call: the handler has not run, and the call is safe to repeat."""
SERVICE = (
    # https://docs.aws.amazon.com/step-functions/latest/dg/sfn-best-practices.html
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
)
"""Lambda failed, or its answer was lost: the handler may have run."""
STORAGE = ("TransientStorageError",)
"""S3 failed longer than the step's own retries lasted."""
SANDBOX = ("Runtime.ExitError", "Sandbox.Timedout", "Lambda.Unknown")
"""The sandbox died or ran out of time, which Lambda reports under these types."""
S3_CALL = ("S3.S3Exception", "S3.SdkClientException")
"""S3 itself, or the client by which Step Functions calls it."""


@dataclass(frozen=True)
class Retrier:
    """One element of a state's ``Retry``: which errors, and the waits in seconds."""

    errors: tuple[str, ...]
    max_attempts: int
    why: str
    interval_seconds: int = 1
    backoff_rate: float = 2
    max_delay_seconds: int = 20

    def delay(self, attempt: int) -> float:
        """Return the longest wait in seconds before a retry, the first being number 0."""
        return min(self.interval_seconds * self.backoff_rate**attempt, self.max_delay_seconds)

    def as_state(self) -> dict[str, Any]:
        """Return it in the Amazon States Language."""
        return {
            "Comment": self.why,
            "ErrorEquals": list(self.errors),
            "IntervalSeconds": self.interval_seconds,
            "MaxAttempts": self.max_attempts,
            "BackoffRate": self.backoff_rate,
            "MaxDelaySeconds": self.max_delay_seconds,
            "JitterStrategy": "FULL",
        }


_STEP = (
    Retrier(
        (*NOT_STARTED, *SERVICE, *STORAGE),
        max_attempts=20,
        max_delay_seconds=30,
        why="Safe to repeat: every step finds what its first try left. Ranks of other executions "
        "may fill the account for minutes.",
    ),
    Retrier(SANDBOX, max_attempts=2, why="A sandbox that dies once must not cost the execution."),
)
RETRIERS: dict[str, tuple[Retrier, ...]] = {
    "Initialize": _STEP,
    "Model Inference": (
        Retrier(
            NOT_STARTED,
            max_attempts=50,
            max_delay_seconds=10,
            why="A throttled rank waits for its turn: in the mean 4 minutes, so that it can still "
            "record its failure within the child's 5.",
        ),
        Retrier((*SERVICE, *STORAGE), max_attempts=4, why="Transient errors."),
        Retrier(
            SANDBOX,
            max_attempts=1,
            why="A sandbox that died or stalled is tried once more: one more time-out still fits "
            "the child's 5 minutes.",
        ),
    ),
    "Invoke FMI": (
        Retrier(
            (*NOT_STARTED, "Lambda.ServiceException"),
            max_attempts=20,
            max_delay_seconds=10,
            why="Refused before it ran; its peers wait at the barrier for 150 s.",
        ),
    ),
    "Abort FMI": (
        Retrier(
            (*NOT_STARTED, *SERVICE),
            max_attempts=6,
            max_delay_seconds=10,
            why="Telling twice does no harm.",
        ),
    ),
    "Record Rank Failure": (Retrier(S3_CALL, max_attempts=3, why="Transient errors of S3."),),
    "Summarize": _STEP,
    "Record Failure": _STEP,
}
"""The retriers of every state that retries, by the state's name."""


def retrier(state: str, error: str) -> Retrier:
    """Return the retrier of a state that retries an error.

    Raises
    ------
    KeyError
        If there is none.
    """
    for each in RETRIERS[state]:
        if error in each.errors:
            return each
    raise KeyError(f"{state} does not retry {error}")


def write_retries(program: dict[str, Any]) -> None:
    """Put the retriers into a definition's states, those of its Maps included.

    Raises
    ------
    ValueError
        If the definition lacks a state that has retriers.
    """
    written = _write_retries(program)
    if missing := set(RETRIERS) - written:
        raise ValueError(f"the definition has no state named {', '.join(sorted(missing))}")


def _write_retries(program: dict[str, Any]) -> set[str]:
    written = set()
    for name, state in program["States"].items():
        if "ItemProcessor" in state:
            written |= _write_retries(state["ItemProcessor"])
        state.pop("Retry", None)
        if name in RETRIERS:
            written.add(name)
            retriers = [each.as_state() for each in RETRIERS[name]]
            program["States"][name] = _before_catch(state, retriers)
    return written


def _before_catch(state: dict[str, Any], retriers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a state with its ``Retry`` where a reader looks for it: before ``Catch``."""
    items: dict[str, Any] = {}
    for key, value in state.items():
        if key == "Catch":
            items["Retry"] = retriers
        items[key] = value
    return items


def formatted(definition: dict[str, Any]) -> str:
    """Return a definition as its file holds it."""
    return json.dumps(definition, indent=2, ensure_ascii=False) + "\n"


def rewrite(path: Path) -> None:
    """Bring the retriers of a definition's file up to date."""
    definition = json.loads(path.read_text())
    write_retries(definition)
    path.write_text(formatted(definition))


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
