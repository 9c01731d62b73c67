"""Time and price of an operation on each channel, from the configuration's ``model``.

All times are seconds, all sizes bytes, all prices dollars. The configuration keeps the C++
library's units: ``overhead`` in milliseconds, ``bandwidth`` in MB/s, ``transfer_price`` a GB,
``upload_price`` and ``download_price`` a request, ``instance_price`` and ``vm_price`` an hour.
The shape of each formula is the algorithm that the channel runs (`docs/fmilib.md`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fmilib.collectives.chain import GROUP_RANKS, bounds
from fmilib.collectives.peer_to_peer import ALL_TO_ALL_RANKS, LARGE_BYTES
from fmilib.collectives.trees import SMALL_DEGREE, STORE_DEGREE, depth
from fmilib.config import as_bool
from fmilib.datatypes import hints
from fmilib.errors import FmiConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Measured between Lambda functions by Copik et al., "FMI: Fast and Cheap Message Passing for
# Serverless Functions" (ICS 2023); prices of us-east-1, the C++ library's defaults.
DEFAULTS: Final[dict[str, dict[str, float | bool]]] = {
    "FaaS": {"gib_second_price": 0.0000166667},
    "Direct": {
        "bandwidth": 250.0,
        "overhead": 0.34,
        "transfer_price": 0.0,
        "vm_price": 0.0134,
        "requests_per_hour": 1000.0,
        "include_infrastructure_costs": True,
    },
    "Redis": {
        "bandwidth_single": 100.0,
        "bandwidth_multiple": 400.0,
        "overhead": 5.2,
        "transfer_price": 0.0,
        "instance_price": 0.0038,
        "requests_per_hour": 1000.0,
        "include_infrastructure_costs": True,
    },
    "S3": {
        "bandwidth": 50.0,
        "overhead": 40.4,
        "transfer_price": 0.0,
        "download_price": 0.00000043,
        "upload_price": 0.0000054,
    },
}
MESSAGE_SECONDS: Final = 10e-6  # a rank's own work for one small message


class Estimate(NamedTuple):
    """What an operation is expected to take and to cost."""

    channel: str
    seconds: float
    dollars: float


class Traffic(NamedTuple):
    """What an operation moves."""

    rounds: float  # one after the other
    messages: int  # of the busiest rank
    critical: float  # bytes through the busiest rank
    total: float  # bytes in all
    puts: int
    gets: int


class CostModel:
    """Chooses the channel.

    Parameters
    ----------
    parameters : mapping
        The configuration's ``model``; what it lacks is taken from `DEFAULTS`.
    memory : int
        The function's memory in MiB.
    """

    def __init__(self, parameters: Mapping[str, Mapping[str, Any]], memory: int) -> None:
        self._parameters = {
            name: _numbers(name, defaults, parameters.get(name, {}))
            for name, defaults in DEFAULTS.items()
        }
        self._gib = memory / 1024

    def estimate(self, channel: str, operation: str, nbytes: int, ranks: int) -> Estimate:
        """Return time and price of one operation of ``ranks`` ranks on one channel."""
        p = self._parameters[channel]
        traffic = _TRAFFIC[channel](operation, nbytes, ranks)
        mb = traffic.critical / 1e6
        if channel == "Redis":
            # A rank's own link, or the server's, whichever is slower.
            transfer = max(
                mb / p["bandwidth_single"], traffic.total / 1e6 / p["bandwidth_multiple"]
            )
        else:
            transfer = mb / p["bandwidth"]
        seconds = traffic.rounds * p["overhead"] / 1000 + traffic.messages * MESSAGE_SECONDS
        seconds += transfer
        dollars = traffic.total / 1e9 * p["transfer_price"]
        dollars += traffic.puts * p.get("upload_price", 0.0)
        dollars += traffic.gets * p.get("download_price", 0.0)
        if p.get("include_infrastructure_costs"):
            hourly = p.get("instance_price", 0.0) + p.get("vm_price", 0.0)
            dollars += hourly / p["requests_per_hour"]
        # Every rank is billed while it communicates.
        dollars += ranks * seconds * self._gib * self._parameters["FaaS"]["gib_second_price"]
        return Estimate(channel, seconds, dollars)

    def rank(
        self, channels: list[str], operation: str, nbytes: int, ranks: int, hint: hints
    ) -> list[Estimate]:
        """Return the estimates of all channels, the best first.

        Ties go by name, so that every rank chooses alike.
        """
        estimates = [self.estimate(name, operation, nbytes, ranks) for name in channels]
        if hint is hints.fast:
            return sorted(estimates, key=lambda e: (e.seconds, e.dollars, e.channel))
        return sorted(estimates, key=lambda e: (e.dollars, e.seconds, e.channel))


def _numbers(
    name: str, defaults: Mapping[str, float | bool], given: Mapping[str, Any]
) -> dict[str, float]:
    values: dict[str, float] = {key: float(value) for key, value in defaults.items()}
    for key, value in given.items():
        where = f"configuration: model.{name}.{key}"
        if isinstance(defaults.get(key), bool):
            values[key] = float(as_bool(value, where))
            continue
        try:
            values[key] = float(value)
        except (TypeError, ValueError):
            if key in defaults:
                raise FmiConfigError(f"{where} is a number, not {value!r}") from None
    return values


def _levels(ranks: int, degree: int) -> int:
    return math.ceil(math.log(max(ranks, 2), degree))


def _direct(operation: str, nbytes: int, n: int) -> Traffic:
    others = n - 1
    levels, served = _levels(n, SMALL_DEGREE), min(others, SMALL_DEGREE)
    large = nbytes > LARGE_BYTES and n > 1
    if operation == "send":
        return Traffic(1, 1, nbytes, nbytes, 0, 0)
    if operation == "barrier":
        return Traffic(2 * levels, 2 * served, 0, 0, 0, 0)
    if operation == "bcast":
        rounds = _levels(n, 2) if large else levels
        factor = min(2, others) if large else served
        return Traffic(rounds, served, factor * nbytes, others * nbytes, 0, 0)
    if operation == "scatter":
        return Traffic(1, others, nbytes, nbytes, 0, 0)
    if operation == "gather":
        return Traffic(levels, served, others * nbytes, others * nbytes, 0, 0)
    if operation == "allgather":
        rounds = 1 if n <= ALL_TO_ALL_RANKS else 2 * levels
        return Traffic(rounds, 2 * served, n * n * nbytes, 2 * n * n * nbytes, 0, 0)
    if large:  # reduce, allreduce, scan: see `fmilib.collectives.chain`
        groups = len(bounds(n, GROUP_RANKS)) - 1
        members = n // groups
        spread = 1 if operation == "allreduce" and groups > 1 else 0
        return Traffic(
            groups + 1 + spread,
            2 * (members - 1) + groups,
            2 * nbytes * (members - 1 + groups) / members,
            2 * nbytes * others,
            0,
            0,
        )
    rounds = levels if operation == "reduce" else 1 if n <= ALL_TO_ALL_RANKS else 2 * levels
    return Traffic(rounds, 2 * served, 2 * others * nbytes, 2 * others * nbytes, 0, 0)


def _redis(operation: str, nbytes: int, n: int) -> Traffic:
    others = n - 1
    if operation == "barrier":
        return Traffic(1, 1, 0, 0, 0, 0)
    if operation in ("send", "scatter"):
        return Traffic(1, 1, nbytes, 2 * nbytes, 0, 0)
    if operation == "bcast":
        return Traffic(1, 1, nbytes, n * nbytes, 0, 0)
    if operation in ("gather", "reduce"):
        return Traffic(1, 1, n * nbytes, 2 * others * nbytes, 0, 0)
    if nbytes > LARGE_BYTES and operation != "allgather":
        return Traffic(2, 2, 4 * nbytes, 4 * n * nbytes, 0, 0)
    return Traffic(1, 1, n * nbytes, n * (n + 1) * nbytes, 0, 0)


def _s3(operation: str, nbytes: int, n: int) -> Traffic:
    others = n - 1
    levels, served = depth(n, STORE_DEGREE), min(others, STORE_DEGREE)
    # The bytes of a rank at the bottom are moved by every level; those through the root, its
    # child and so on, who work one after the other, are n + 2n/4 + 2n/16 + …
    critical = others * nbytes * (1 if levels < 2 else 5 / 3)
    up = Traffic(
        levels * (1 + served), 0, critical, 2 * levels * others * nbytes, others, others
    )  # fmt: skip
    if operation == "send":
        return Traffic(2, 0, 2 * nbytes, 2 * nbytes, 1, 1)
    if operation == "bcast":
        return Traffic(2, 0, 2 * nbytes, n * nbytes, 1, others)
    if operation == "scatter":  # each rank looks up its place, then reads its part
        return Traffic(3, 0, (n + 1) * nbytes, 2 * n * nbytes, 1, 2 * others)
    if operation in ("gather", "reduce"):
        return up
    if operation == "scan":  # a gather, and a scatter of the prefixes
        return Traffic(
            up.rounds + 3, 0, up.critical + (n + 1) * nbytes, up.total + 2 * n * nbytes,
            n, 3 * others,
        )  # fmt: skip
    result = n * nbytes if operation == "allgather" else nbytes
    return Traffic(
        up.rounds + 2, 0, up.critical + 2 * result, up.total + n * result,
        others + 1, 2 * others,
    )  # fmt: skip


_TRAFFIC: Final = {"Direct": _direct, "Redis": _redis, "S3": _s3}
