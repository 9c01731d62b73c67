"""Discrete-event simulation of one execution.

Initialize, then the Map dispatches children at its rate, each child invokes the function, which
runs in a warm sandbox, in a new one when Lambda's scaling rate and the account's concurrency
allow, or is throttled and retried with full jitter; Summarize follows the last rank. A rank's own
times are drawn from measured ranks.
"""

import heapq
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cosmicai_workbench.retries import Retrier, retrier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmicai_workbench.simulation.parameters import Limits, Profile, Work

_ATTEMPT, _END = 0, 1

THROTTLED = retrier("Model Inference", "Lambda.TooManyRequestsException")
TRANSIENT = retrier("Model Inference", "TransientStorageError")
"""How the state machine retries a throttled rank, and one with a transient error."""


@dataclass
class Trace:
    """Times of one simulated execution, in seconds since its start; arrays run over the ranks.

    A rank that failed for good has ``failed`` true and its ``end`` at the last attempt's end.
    """

    initialized: float
    queued: "NDArray[np.float64]"
    started: "NDArray[np.float64]"
    cold: "NDArray[np.float64]"
    read: "NDArray[np.float64]"
    predict: "NDArray[np.float64]"
    end: "NDArray[np.float64]"
    failed: "NDArray[np.bool_]"
    billed: "NDArray[np.float64]"
    """Seconds billed for the rank in Model Inference, failed attempts included."""
    waited: "NDArray[np.float64]"
    """Seconds at the barrier, billed in Invoke FMI: a smaller function."""
    attempts: int = 0
    throttles: int = 0
    sandboxes: int = 0
    peak_concurrency: int = 0
    map_end: float = 0.0
    wall: float = 0.0


@dataclass
class _Sandboxes:
    """Lambda's execution environments: idle ones, and a bucket of new ones that refills."""

    limits: "Limits"
    idle: int = 0
    total: int = 0
    busy: int = 0
    peak: int = 0
    tokens: float = field(init=False)
    refilled: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = float(self.limits.burst)

    def acquire(self, now: float) -> bool | None:
        """Take a sandbox: False for a warm one, True for a new one, None when throttled."""
        if self.idle:
            self.idle -= 1
            cold = False
        else:
            grown = self.tokens + (now - self.refilled) * self.limits.ramp
            self.tokens, self.refilled = min(grown, self.limits.burst), now
            if self.total >= self.limits.concurrency or self.tokens < 1:
                return None
            self.tokens -= 1
            self.total += 1
            cold = True
        self.busy += 1
        self.peak = max(self.peak, self.busy)
        return cold

    def release(self) -> None:
        self.busy -= 1
        self.idle += 1


class _Simulation:
    def __init__(
        self,
        work: "Work",
        profile: "Profile",
        limits: "Limits",
        throttled: Retrier,
        transient: Retrier,
        seed: int,
    ) -> None:
        self.work, self.profile, self.limits = work, profile, limits
        self.throttled, self.transient = throttled, transient
        self.rng = np.random.default_rng(seed)
        n = work.ranks
        self.cold_draw = self.rng.choice(np.asarray(profile.cold_start_seconds), n)
        self.jitter = self.rng.choice(np.asarray(profile.jitter), n)
        self.trace = Trace(
            initialized=profile.initialize_seconds + n * profile.initialize_seconds_per_rank,
            queued=np.zeros(n),
            started=np.zeros(n),
            cold=np.zeros(n),
            read=np.zeros(n),
            predict=np.zeros(n),
            end=np.zeros(n),
            failed=np.zeros(n, bool),
            billed=np.zeros(n),
            waited=np.zeros(n),
        )
        self.sandboxes = _Sandboxes(limits)
        self.sandboxes.refilled = self.trace.initialized
        self.s3_requests: defaultdict[int, float] = defaultdict(float)
        # As Step Functions counts them: the attempts of each retrier by themselves.
        self.retries: defaultdict[tuple[int, Retrier], int] = defaultdict(int)
        self.events: list[tuple[float, int, int]] = []

    def run(self) -> Trace:
        trace, limits = self.trace, self.limits
        waiting, running = 0, 0  # next rank to dispatch; children open
        dispatcher_free = trace.initialized
        while waiting < self.work.ranks or self.events:
            can_dispatch = waiting < self.work.ranks and running < limits.map_concurrency
            if can_dispatch and (not self.events or dispatcher_free <= self.events[0][0]):
                trace.queued[waiting] = dispatcher_free
                heapq.heappush(self.events, (dispatcher_free, _ATTEMPT, waiting))
                waiting, running = waiting + 1, running + 1
                dispatcher_free += 1 / limits.dispatch_rate
                continue
            now, kind, rank = heapq.heappop(self.events)
            if kind == _ATTEMPT:
                running -= not self._attempt(now, rank)
            else:
                self.sandboxes.release()
                running -= self._finished(now, rank)
            dispatcher_free = max(dispatcher_free, now)
        return self._summed_up()

    def _attempt(self, now: float, rank: int) -> bool:
        """Invoke the function; False when the rank has failed for good."""
        cold = self.sandboxes.acquire(now)
        if cold is None:
            self.trace.throttles += 1
            return self._retry(now, rank, self.throttled)
        self.trace.attempts += 1
        profile, work, trace = self.profile, self.work, self.trace
        trace.started[rank] = now + profile.invoke_seconds
        trace.cold[rank] = self.cold_draw[rank] if cold else 0.0
        ready = trace.started[rank] + trace.cold[rank]
        trace.read[rank] = (
            self._wait_for_s3(ready) + work.bytes_per_rank / profile.read_bytes_per_second
        )
        trace.predict[rank] = (
            work.samples_per_rank * profile.predict_seconds_per_sample * self.jitter[rank]
        )
        end = ready + trace.read[rank] + trace.predict[rank] + profile.rank_seconds_fixed
        trace.billed[rank] += end - trace.started[rank]
        heapq.heappush(self.events, (end, _END, rank))
        return True

    def _wait_for_s3(self, ready: float) -> float:
        """Put the rank's requests into the first second with room; return the wait for it."""
        second = int(ready)
        while self.s3_requests[second] >= self.limits.s3_reads_per_second:
            second += 1
        self.s3_requests[second] += self.profile.s3_requests_per_rank
        return max(0.0, second - ready)

    def _finished(self, now: float, rank: int) -> bool:
        """Close the rank, unless this attempt failed and another follows."""
        chance = self.profile.failure_probability
        if chance and self.rng.random() < chance:
            return not self._retry(now, rank, self.transient)
        self.trace.end[rank] = now
        return True

    def _retry(self, now: float, rank: int, retrier: Retrier) -> bool:
        attempt = self.retries[rank, retrier]
        again = now + self.rng.random() * retrier.delay(attempt)
        # The service ends a child that lives too long, whatever it waits for.
        end = self.trace.queued[rank] + self.limits.child_seconds
        if attempt >= retrier.max_attempts or again > end:
            self.trace.failed[rank] = True
            self.trace.end[rank] = now if attempt >= retrier.max_attempts else end
            return False
        self.retries[rank, retrier] += 1
        heapq.heappush(self.events, (again, _ATTEMPT, rank))
        return True

    def _summed_up(self) -> Trace:
        trace, profile = self.trace, self.profile
        trace.map_end = float(trace.end.max())
        if self.work.barrier:
            trace.waited[:] = trace.map_end - trace.end
            trace.end[:] = trace.map_end
        # A child that lives too long is ended by the service; its rank has then failed.
        trace.failed |= trace.end - trace.queued > self.limits.child_seconds
        trace.sandboxes, trace.peak_concurrency = self.sandboxes.total, self.sandboxes.peak
        trace.wall = (
            trace.map_end
            + profile.summarize_seconds
            + self.work.ranks * profile.summarize_seconds_per_rank
        )
        return trace


def simulate(
    work: "Work",
    profile: "Profile",
    limits: "Limits",
    *,
    seed: int,
    throttled: Retrier = THROTTLED,
    transient: Retrier = TRANSIENT,
) -> Trace:
    """Simulate one execution; the same arguments give the same trace."""
    return _Simulation(work, profile, limits, throttled, transient, seed).run()
