"""Executions under faults: what they say must be what happened, and nothing else is touched.

The steps are those that deploy, against a real S3 server behind a proxy that disturbs requests.
What Step Functions does with them (retries, the Map, failure records) is done here in a few lines.
Every trial writes a history, and a checker compares the bucket with it: one owner of
a result path, no files of two executions mixed, every rank's predictions accounted for by ETag.

    PYTHONPATH=tests python -m campaign.executions --seed 1 --trials 200
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from campaign.campaign import Outcome, Verdict, main
from cosmicai import claim, errors, inference, keys, model_cache, storage, summarize
from cosmicai.errors import CosmicAIError, TransientStorageError
from cosmicai.prediction import Predictor, npz_columns
from cosmicai.schema import RankRecord, Summary, parse_json
from faulty_s3 import FaultyS3, Request
from s3_stack import ARN, BUCKET, MeanEngine, Stack, make_galaxies, running_stack

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

PARTITIONS = 4
GALAXIES = 3
DEADLINE = 60.0  # of one trial
NAMED = {name for name in vars(errors) if isinstance(vars(errors)[name], type)}
STEP_FUNCTIONS = {"Runtime.ExitError"}
_now = threading.local()


class Killed(BaseException):
    """The sandbox died in the middle of a step."""


class RetriesUsedUp(Exception):
    """A step's sandbox died more often than the state machine retries that."""


class Stepping(datetime):
    """A clock that is set back and forth."""

    step = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.step


class AnyProcessor(MeanEngine):
    """Predicts the same on every processor, but for the last bits."""

    def predict(self, image: Any, magnitude: Any) -> NDArray[np.float32]:
        redshift = super().predict(image, magnitude)
        other: bool = getattr(_now, "other_processor", False)
        return np.nextafter(redshift, np.float32(9)) if other else redshift


@dataclass
class World:
    """The server, the proxy before it, and an undisturbed way to look into the bucket."""

    stack: Stack
    proxy: FaultyS3
    store: storage.Store

    def disturb(self, rng: random.Random, share: float, kinds: list[str]) -> None:
        """Let a share of the requests meet one of some faults."""
        lock = threading.Lock()

        def fault(request: Request) -> str | None:
            with lock:
                return rng.choice(kinds) if rng.random() < share else None

        self.proxy.session.fault = fault

    def calm(self) -> None:
        """End the disturbance, and wait for what comes late."""
        self.proxy.session.fault = lambda _: None
        self.proxy.session.settle()
        self.proxy.session.requests.clear()

    def files(self, folder: str) -> dict[str, str]:
        """Return key → ETag under a folder."""
        return {item.key: item.etag for item in self.store.list(f"{folder}/")}


@functools.cache
def world() -> World:
    """Return the process's world, made at first use."""
    logging.disable(logging.CRITICAL)
    patch = pytest.MonkeyPatch()
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    stacks = running_stack(patch, folder)
    stack = next(stacks)
    proxy = FaultyS3(stack.endpoint).__enter__()
    direct = storage.Store(storage.make_client(endpoint=stack.endpoint), BUCKET)
    stack.put_model()
    stack.put_partitions([f"{number}.pt" for number in range(1, PARTITIONS + 1)], GALAXIES)
    patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    storage.client.cache_clear()
    storage.client().meta.events.register("before-send.s3", _die)
    patch.setattr(storage, "BACKOFF_SECONDS", (0.0005, 0.005))
    patch.setattr(inference, "record_rank", lambda _: None)  # its metrics are of one thread
    patch.setattr(inference, "datetime", Stepping)
    patch.setattr(summarize, "datetime", Stepping)
    patch.setattr(
        model_cache,
        "load",
        lambda item, threads: (Predictor(AnyProcessor(), digest="digest"), 0.0),
    )
    atexit.register(patch.undo)
    return World(stack, proxy, direct)


def _die(**_: object) -> None:
    left = getattr(_now, "requests_left", None)
    if left is not None:
        _now.requests_left = left - 1
        if left <= 0:
            _now.requests_left = None
            raise Killed


@contextmanager
def sandbox(rng: random.Random, kill: float) -> Iterator[None]:
    """Run a step on some processor; with a probability it dies at one of its requests."""
    _now.requests_left = rng.randrange(12) if rng.random() < kill else None
    _now.other_processor = rng.random() < 0.5
    try:
        yield
    finally:
        _now.requests_left = None


@dataclass
class Machine:
    """One execution, as Step Functions runs it."""

    name: str
    input: dict[str, Any]
    rng: random.Random
    kill: float = 0.0
    twice: float = 0.0
    history: list[tuple[str, str]] = field(default_factory=list)
    status: str = "RUNNING"
    error: str = ""
    cause: str = ""

    @property
    def arn(self) -> str:
        return ARN + self.name

    def step(self, what: str, call: Callable[[], Any]) -> Any:
        """Call a step with the state machine's retries; note how it ended."""
        deaths = 0
        for _ in range(6):
            try:
                with sandbox(self.rng, self.kill):
                    result = call()
            except Killed:
                deaths += 1
                self.history.append((what, "killed"))
                if deaths > 2:
                    raise RetriesUsedUp from None
            except TransientStorageError as error:
                self.history.append((what, "transient"))
                last: Exception = error
            except Exception as error:
                self.history.append((what, type(error).__name__))
                raise
            else:
                self.history.append((what, "done"))
                return result
        raise last

    def run(
        self,
        between: Callable[[str], None] = lambda _: None,
        *,
        stop_after: str = "",
    ) -> Machine:
        """Run from Initialize to Summarize; ``between`` is called after each state."""
        stack = world().stack
        try:
            plan = self.step("initialize", lambda: stack.initialize(self.name, **self.input))
            between("initialize")
            if stop_after == "initialize":
                return self._stop()
            items = json.loads(world().store.read(plan.manifest_key))
            items = [item for item in items if self._delivered(item)]
            deliveries = items + [item for item in items if self.rng.random() < self.twice]
            self.rng.shuffle(deliveries)
            for item in deliveries:
                self._rank(item)
                if stop_after == "rank":
                    return self._stop()
            between("map")
            summary = self.step("summarize", lambda: stack.summarize(self.name, **self.input))
            self.status = summary.status
        except (CosmicAIError, RetriesUsedUp) as error:
            self._fail(error)
        return self

    def _delivered(self, item: dict[str, Any]) -> bool:
        return item["EXECUTION"] == self.arn

    def _rank(self, item: dict[str, Any]) -> None:
        try:
            self.step(f"rank {item['RANK']}", lambda: world().stack.run_items([item]))
        except (CosmicAIError, RetriesUsedUp) as error:
            document = {
                "execution": self.arn,
                "rank": item["RANK"],
                "failure": {"Error": _error(error), "Cause": str(error)},
            }
            world().store.write_json(item["FAILURE_KEY"], document)

    def _fail(self, error: Exception) -> None:
        self.status, self.error, self.cause = "FAILED", _error(error), str(error)
        try:
            failure = {"Error": self.error, "Cause": self.cause}
            self.step(
                "record failure",
                lambda: world().stack.summarize(self.name, failure=failure, **self.input),
            )
        except (CosmicAIError, RetriesUsedUp) as unrecorded:
            self.history.append(("record failure", f"not recorded: {unrecorded}"))

    def _stop(self) -> Machine:
        self.status = "ABORTED"
        return self


def _error(error: Exception) -> str:
    return "Runtime.ExitError" if isinstance(error, RetriesUsedUp) else type(error).__name__


# -- the checker -----------------------------------------------------------------------------------


class Wrong(Exception):
    """The bucket does not hold what the executions said."""


def require(holds: object, what: str) -> None:
    """Raise Wrong, saying what does not hold."""
    if not holds:
        raise Wrong(what)


@functools.cache
def expected(number: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return true and predicted redshifts of a partition."""
    galaxies = make_galaxies(GALAXIES, seed=number - 1)
    return galaxies.redshift, MeanEngine().predict(galaxies.image, galaxies.magnitude)


def check_result(machine: Machine, kept: tuple[str, ...] = ()) -> None:
    """Hold the files of an execution that says it succeeded against what it should have left."""
    path, store = machine.input["result_path"], world().store
    files = world().files(path)
    summary = parse_json(Summary, store.read(keys.summary(path)), "summary")
    require(summary.status == "SUCCEEDED", f"summary.json says {summary.status}")
    require(summary.execution.id == machine.arn, "summary.json is another execution's")
    holder = claim.holder_of(BUCKET, path)
    require(holder and holder.execution == machine.arn, "the claim is another execution's")
    require(summary.ranks_received == summary.world_size, "ranks are missing")
    require(summary.num_samples == PARTITIONS * GALAXIES, f"{summary.num_samples} galaxies")
    combined = json.loads(store.read(keys.combined_data(path)))
    require(len(combined) == summary.world_size, "combined_data.json is not whole")
    seen: list[str] = []
    for rank in range(summary.world_size):
        body = store.read(keys.rank(path, rank))
        record = parse_json(RankRecord, body, "record")
        require(json.loads(body) == combined[rank], f"combined_data.json has another rank {rank}")
        require(record.execution in (machine.arn, *kept), f"rank {rank} is another execution's")
        require(
            files.get(keys.predictions(path, rank)) == record.predictions_etag,
            f"predictions of rank {rank} are not those of its record",
        )
        columns = npz_columns(store.read(keys.predictions(path, rank)))
        for position, data_path in enumerate(columns["data_paths"].tolist()):
            own = columns["partition"] == position
            true, predicted = expected(int(Path(data_path).stem))
            require(np.array_equal(columns["true_redshift"][own], true), "other galaxies")
            require(np.allclose(columns["redshift"][own], predicted, atol=1e-6), "other values")
            seen.append(data_path)
        difference = columns["redshift"].astype(float) - columns["true_redshift"].astype(float)
        require(
            np.isclose(record.quality.sum_error, difference.sum(), rtol=1e-9, atol=1e-12),
            f"the record of rank {rank} describes other predictions",
        )
    require(
        sorted(seen) == [f"100MB/{number}.pt" for number in range(1, PARTITIONS + 1)],
        f"partitions predicted: {seen}",
    )


def judged(machine: Machine, check: Callable[[], None]) -> Verdict:
    """Return how a trial of one execution ended."""
    try:
        if machine.status == "SUCCEEDED":
            check()
            return Outcome.SURVIVED, "succeeded"
        require(machine.status in {"FAILED", "ABORTED"}, f"it ended {machine.status}")
    except Wrong as wrong:
        return Outcome.WRONG, f"{wrong}; history {machine.history}"
    named = machine.error in NAMED | STEP_FUNCTIONS
    if machine.status == "FAILED" and not (named and machine.cause + machine.error):
        return Outcome.UNCLEAR, f"{machine.error}: {machine.cause}"
    return Outcome.HELD, f"{machine.error}: {machine.cause[:200]}"


def bounded(trial: Callable[[random.Random], Verdict]) -> Callable[[random.Random], Verdict]:
    """Let a trial that does not end by the deadline count as hung."""

    @functools.wraps(trial)
    def within(rng: random.Random) -> Verdict:
        ended: list[Verdict] = []
        failed: list[BaseException] = []

        def call() -> None:
            try:
                ended.append(trial(rng))
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                failed.append(error)
            finally:
                Stepping.step = timedelta()

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(DEADLINE)
        if thread.is_alive():
            return Outcome.HUNG, f"it did not end in {DEADLINE:.0f} s"
        world().calm()
        for folder in ("campaign/", "campaign-data/"):
            for item in world().store.list(folder):
                # One by one: moto's batches cannot delete what is no XML.
                world().store.request("delete_object", item.key)
        if failed:
            raise failed[0]
        return ended[0]

    return within


def new_input(rng: random.Random, **change: Any) -> dict[str, Any]:
    """Return what a trial changes in the sample input: a path of its own, and a world size."""
    path = f"campaign/{rng.getrandbits(64):016x}"
    world_size = rng.choice([None, 1, 2, 3])
    return {"result_path": path, **({"world_size": world_size} if world_size else {}), **change}


FAULTS = ["refused", "broken", "reset", "lost", "cut", "late"]


# -- the trials ------------------------------------------------------------------------------------


@bounded
def faults(rng: random.Random) -> Verdict:
    """One execution, with failing requests, dying sandboxes, duplicates and clock steps."""
    kinds = rng.sample(FAULTS, rng.randrange(1, len(FAULTS) + 1))
    machine = Machine(
        "one", new_input(rng), rng, kill=rng.choice([0, 0.2]), twice=rng.choice([0, 0.5])
    )
    world().disturb(rng, rng.choice([0.05, 0.15, 0.3]), kinds)

    def between(_: str) -> None:
        if rng.random() < 0.3:
            Stepping.step = timedelta(seconds=rng.uniform(-7200, 60))

    machine.run(between)
    world().calm()
    return judged(machine, lambda: check_result(machine))


@bounded
def stops(rng: random.Random) -> Verdict:
    """An execution stopped somewhere, then one that overwrites or resumes it, under faults."""
    shared = new_input(rng)
    first = Machine("first", shared, rng)
    first.run(stop_after=rng.choice(["initialize", "rank", ""]))
    world().disturb(rng, rng.choice([0, 0.1, 0.3]), FAULTS)
    resume = rng.random() < 0.5
    change: dict[str, Any] = {"resume": first.arn} if resume else {"overwrite": True}
    if not resume:
        change["world_size"] = rng.choice([1, 2, 4])
    second = Machine("second", {**shared, **change}, rng, kill=rng.choice([0, 0.2]))
    second.run()
    world().calm()
    return judged(second, lambda: check_result(second, kept=(first.arn,) if resume else ()))


def _race(rng: random.Random, *, faulty: bool) -> Verdict:
    path = new_input(rng)["result_path"]
    store = world().store
    beside = [f"{path}/notes.txt", f"{path}/007.json", f"{path}-2/claim.json", f"{path}/map/x.json"]
    for key in beside:
        store.write(key, b"beside")
    machines = [
        Machine(
            f"racer-{number}",
            new_input(rng, result_path=path, overwrite=rng.random() < 0.5),
            type(rng)(rng.getrandbits(64)),
            kill=0.1 if faulty else 0.0,
            twice=0.3,
        )
        for number in range(rng.choice([2, 2, 3]))
    ]
    if faulty:
        world().disturb(rng, 0.1, FAULTS)
    start = threading.Barrier(len(machines))
    trouble: list[BaseException] = []

    def go(machine: Machine) -> None:
        start.wait()
        try:
            machine.run()
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            trouble.append(error)

    threads = [threading.Thread(target=go, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world().calm()
    if trouble:
        raise trouble[0]
    return _judge_race(machines, path, beside, faulty=faulty)


def _judge_race(machines: list[Machine], path: str, beside: list[str], *, faulty: bool) -> Verdict:
    """Hold the bucket against the histories: one owner, whose files alone are there."""
    story = [(m.name, m.status, m.error, m.input.get("overwrite"), m.history) for m in machines]
    try:
        for key in beside:
            require(world().store.read(key) == b"beside", f"{key} was changed")
        holder = claim.holder_of(BUCKET, path)
        planned = [m for m in machines if ("initialize", "done") in m.history]
        if holder is None:
            require(not planned, "planned, and nobody has the claim")
            return Outcome.HELD, "no claim"
        owners = [m for m in machines if m.arn == holder.execution]
        require(len(owners) == 1, "the claim is nobody's")
        owner = owners[0]
        for machine in planned:
            # Whoever planned and lost was overwritten, by one that asked for it.
            if machine is not owner:
                require(
                    any(m is not machine and m.input["overwrite"] for m in machines),
                    f"{machine.name} planned, too, and nobody overwrites",
                )
        if owner.status == "SUCCEEDED":
            check_result(owner)
            return Outcome.SURVIVED, owner.name
        require(faulty, f"the owner failed without a fault: {owner.error}: {owner.cause}")
    except Wrong as wrong:
        return Outcome.WRONG, f"{wrong}; {story}"
    if owner.error not in NAMED | STEP_FUNCTIONS:
        return Outcome.UNCLEAR, f"{owner.error}: {owner.cause}"
    return Outcome.HELD, f"{owner.error}: {owner.cause[:200]}"


@bounded
def races(rng: random.Random) -> Verdict:
    """Two or three executions for one path, with duplicates: the owner must succeed."""
    return _race(rng, faulty=False)


@bounded
def faulty_races(rng: random.Random) -> Verdict:
    """The same with failing, lost and late requests and dying sandboxes."""
    return _race(rng, faulty=True)


@bounded
def changes(rng: random.Random) -> Verdict:
    """Something is changed or lost under way: it is named, or the result is right."""
    machine = Machine("one", new_input(rng), rng)
    path = machine.input["result_path"]
    when = rng.choice(["initialize", "map"])
    target = rng.choice(["manifest.json", "plan.json", "claim.json", "0.json", "predictions/0.npz"])
    how = rng.choice(["delete", "cut", "flip", "swap", "empty"])

    def between(state: str) -> None:
        store, key = world().store, f"{path}/{target}"
        if state != when or (body := _read(key)) is None:
            return
        at = rng.randrange(len(body))
        if how == "delete":
            store.delete([key])
        elif how == "cut" and target == "manifest.json":
            items = json.loads(body)
            store.write_json(key, rng.sample(items, rng.randrange(len(items))))
        elif how == "swap" and target == "manifest.json":
            items = json.loads(body)
            rng.choice(items)["DATA_PATH"] = f"100MB/{rng.randrange(1, PARTITIONS + 1)}.pt"
            store.write_json(key, items)
        elif how == "flip":
            store.write(key, body[:at] + bytes([body[at] ^ 1 << rng.randrange(8)]) + body[at + 1 :])
        else:
            store.write(key, b"" if how == "empty" else body[:at])

    try:
        machine.run(between)
    except (OSError, ValueError, KeyError, errors.ObjectNotFound):
        # The Map itself could not read its manifest.
        machine.status, machine.error = "FAILED", "States.ItemReaderFailed"
        return Outcome.HELD, "the Map could not read the manifest"
    return judged(machine, lambda: check_result(machine))


def _read(key: str) -> bytes | None:
    try:
        return world().store.read(key)
    except errors.ObjectNotFound:
        return None


VALUES = [
    None, True, False, 0, -1, 1, 2**63, 1.5, float("1e300"), "", " ", "0", "-1", "1e3", "٣",
    "x" * 5000, "a/b", "/a/", "../x", "a//b", "./a", "a\x00b", "a\x1b[2J", "a\u202eb", "a\u2028b",
    "é", "𝒳", "%2e%2e", "a b", "a+b", "a?b#c", "s3://x/y", [], {}, ["a"], {"a": 1}, "arn:aws:x",
    "inference_FMI.py", "INFERENCE.PY", "/tmp/x/inference.py", "cosmicai-data", "no-such-bucket",
    "A_B", "100MB", "100MB/x", "2", "7", "float32", "torch", "s3", 50,
]  # fmt: skip


@bounded
def inputs(rng: random.Random) -> Verdict:
    """Inputs with wrong, hostile and odd values: refused by name with nothing left, or right."""
    change = new_input(rng)
    known = [*world().stack.input, "overwrite", "engine", "precision", "max_concurrency",
             "tolerated_failure_percentage", "fmi_channel", "resume", "surprise"]  # fmt: skip
    for key in rng.sample(known, rng.choice([1, 1, 2, 3])):
        change[key] = rng.choice(VALUES)
    before = {item.key: item.etag for item in world().store.list()}
    machine = Machine("one", change, rng).run()
    after = {item.key: item.etag for item in world().store.list()}
    try:
        lost = [key for key, etag in before.items() if after.get(key) != etag]
        require(not lost, f"changed or deleted: {lost[:3]}")
        if machine.status == "FAILED" and ("initialize", "done") not in machine.history:
            new = sorted(set(after) - set(before))
            require(not new, f"refused, and left {new[:3]}")
        require(len(machine.cause) < 3000, "an endless message")
        require("\x1b" not in machine.cause, "a message that acts on terminals")
    except Wrong as wrong:
        return Outcome.WRONG, f"{wrong}; {change} {machine.error}: {machine.cause}"
    finally:
        world().store.delete(set(after) - set(before))
    if machine.status == "SUCCEEDED":
        return Outcome.SURVIVED, "succeeded"
    if machine.error not in NAMED or not machine.cause:
        return Outcome.UNCLEAR, f"{change} {machine.error}: {machine.cause}"
    return Outcome.HELD, f"{machine.error}: {machine.cause[:200]}"


LETTERS = "abz019._- ~!$&'()*,;=:@%+#?[]{}^|<>\"\\`éß漢🔭\u00a0\u200d"
HIDDEN = "\x07\x1b\x7f\x85\u2028\u202e"


@bounded
def names(rng: random.Random) -> Verdict:
    """Partitions and result paths with odd names: read and written as they are, or refused."""

    letters = LETTERS + (HIDDEN if rng.random() < 0.2 else "")

    def name(longest: int) -> str:
        return "".join(rng.choice(letters) for _ in range(rng.randrange(1, longest)))

    store, salt = world().store, f"{rng.getrandbits(64):016x}"
    prefix = f"campaign-data/{salt}"
    body = store.read("100MB/1.pt")
    partitions = sorted({f"{prefix}/{name(30)}.pt" for _ in range(rng.randrange(1, 4))})
    for key in partitions:
        store.write(key, body)
    path = f"campaign/{salt}/{name(20)}"
    change = {"data_prefix": prefix, "result_path": path, "file_limit": 10}
    machine = Machine("one", change, rng).run()

    def check() -> None:
        records = json.loads(store.read(keys.combined_data(path)))
        found = sorted(record["data_path"] for record in records)
        # Hidden files, macOS's and others', are no partitions.
        planned = [key for key in partitions if not Path(key).name.startswith(".")]
        require(found == planned, f"read {found}, there were {partitions}")

    return judged(machine, check)


PARTS = {
    "faults": faults,
    "stops": stops,
    "races": races,
    "faulty races": faulty_races,
    "changes": changes,
    "inputs": inputs,
    "names": names,
}

if __name__ == "__main__":
    raise SystemExit(main(PARTS))
