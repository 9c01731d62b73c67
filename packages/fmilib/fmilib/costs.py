"""Time and price of an operation on each channel, from the configuration's ``model``.

All times are seconds, all sizes bytes, all prices dollars. The configuration keeps the C++
library's units: ``overhead`` in milliseconds, ``bandwidth`` in MB/s (through a server that all
ranks share: ``bandwidth_single`` of one rank, ``bandwidth_multiple`` of the server),
``transfer_price`` per GB, ``upload_price`` and ``download_price`` per request,
``instance_price`` and ``vm_price`` per hour. What an operation moves each channel declares
(`fmilib.backend`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fmilib import backend as registry
from fmilib.backend import as_bool
from fmilib.datatypes import hints
from fmilib.errors import FmiConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

FAAS: Final = {"gib_second_price": 0.0000166667}  # us-east-1, the C++ library's default
MESSAGE_SECONDS: Final = 10e-6  # a rank's own work for one small message


class Estimate(NamedTuple):
    """What an operation is expected to take and to cost."""

    channel: str
    seconds: float
    dollars: float


class CostModel:
    """Chooses the channel.

    Parameters
    ----------
    parameters : mapping
        The configuration's ``model``; what it lacks is taken from each channel's declaration.
    memory : int
        The function's memory in MiB.

    Raises
    ------
    FmiConfigError
        ``parameters`` names an unknown channel, or holds something else than a number.
    """

    def __init__(self, parameters: Mapping[str, Mapping[str, Any]], memory: int) -> None:
        self._given = parameters
        self._numbers = {name: self._read(name) for name in parameters}
        self._gib_second = memory / 1024 * self._of("FaaS")["gib_second_price"]

    def _read(self, name: str) -> dict[str, float]:
        defaults = FAAS if name == "FaaS" else registry.find(name).costs
        return _numbers(name, defaults, self._given.get(name, {}))

    def _of(self, name: str) -> dict[str, float]:
        """Return the figures of a channel, or of the functions."""
        if name not in self._numbers:
            self._numbers[name] = self._read(name)
        return self._numbers[name]

    def estimate(self, channel: str, operation: str, nbytes: int, ranks: int) -> Estimate:
        """Return time and price of one operation of ``ranks`` ranks on one channel."""
        p = self._of(channel)
        traffic = registry.find(channel).traffic(operation, nbytes, ranks)
        shared = "bandwidth_multiple" in p  # by all ranks: the server's link
        transfer = traffic.critical / 1e6 / p["bandwidth_single" if shared else "bandwidth"]
        if shared:  # a rank's own link, or the server's, whichever is slower
            transfer = max(transfer, traffic.total / 1e6 / p["bandwidth_multiple"])
        seconds = traffic.rounds * p["overhead"] / 1000 + traffic.messages * MESSAGE_SECONDS
        seconds += transfer
        dollars = traffic.total / 1e9 * p["transfer_price"]
        dollars += traffic.puts * p.get("upload_price", 0.0)
        dollars += traffic.gets * p.get("download_price", 0.0)
        if p.get("include_infrastructure_costs"):
            hourly = p.get("instance_price", 0.0) + p.get("vm_price", 0.0)
            dollars += hourly / p["requests_per_hour"]
        # Every rank is billed while it communicates.
        dollars += ranks * seconds * self._gib_second
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
