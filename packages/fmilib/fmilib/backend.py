"""What a channel declares about itself, and the registry that everything else reads.

A channel is one module with one `Backend`: its name in configurations, its settings, what it
costs, and how to open it. Those of fmilib are loaded when a configuration names them; others are
added by `register`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fmilib.errors import FmiConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fmilib.channels.base import Channel
    from fmilib.member import Member

_MODULES: Final = {
    "Direct": "fmilib.channels.direct",
    "Memory": "fmilib.channels.memory",
    "Redis": "fmilib.channels.redis",
    "S3": "fmilib.channels.s3",
}
# Settings that every channel has.
_COMMON: Final[dict[str, type]] = {"enabled": bool, "max_timeout": float, "timeout": float}


class Traffic(NamedTuple):
    """What an operation moves.

    Attributes
    ----------
    rounds : float
        Messages or requests one after the other.
    messages : int
        Messages of the busiest rank.
    critical : float
        Bytes through the busiest rank.
    total : float
        Bytes in all.
    puts, gets : int
        Requests that are billed, in all.
    """

    rounds: float
    messages: int
    critical: float
    total: float
    puts: int = 0
    gets: int = 0


def _nothing(_: Mapping[str, str]) -> dict[str, Any] | None:
    return None


class Backend(NamedTuple):
    """A channel's declaration.

    Attributes
    ----------
    name : str
        Its name in configurations.
    open : callable
        Returns the channel for checked settings and a `Member`; it has yet to join.
    settings : mapping of str to type
        Each setting and the type that its value is converted to; `object` for no conversion.
    required : sequence of sequences of str
        Settings that must be given: all of any one of these sequences.
    costs : mapping of str to float or bool
        Defaults of the configuration's ``model`` for this channel, see `fmilib.costs`.
    traffic : callable
        ``traffic(operation, nbytes, ranks)`` returns the `Traffic` of one operation.
    from_environment : callable
        Returns the settings that environment variables give, None if they give none.
    """

    name: str
    open: Callable[[Mapping[str, Any], Member], Channel]
    settings: Mapping[str, type]
    costs: Mapping[str, float | bool]
    traffic: Callable[[str, int, int], Traffic]
    required: tuple[tuple[str, ...], ...] = ((),)
    from_environment: Callable[[Mapping[str, str]], dict[str, Any] | None] = _nothing

    def check(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the settings in their types.

        Raises
        ------
        FmiConfigError
            A setting is unknown, missing, or of another type.
        """
        types = {**_COMMON, **self.settings}
        unknown = sorted(set(given) - set(types))
        if unknown:
            raise FmiConfigError(
                f"{where}: unknown key {self.name}.{unknown[0]}; "
                f"known are {', '.join(sorted(types))}"
            )
        lacking = [[key for key in keys if given.get(key) in (None, "")] for keys in self.required]
        if all(lacking):
            raise FmiConfigError(f"{where}: {self.name}.{lacking[-1][0]} is missing")
        return {
            key: _converted(value, types[key], f"{where}: {self.name}.{key}")
            for key, value in given.items()
        }


_registered: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Make a channel known to configurations.

    Raises
    ------
    FmiConfigError
        Another channel has the name.
    """
    known = find(backend.name) if backend.name in names() else None
    if known is not None and known != backend:
        raise FmiConfigError(f"a channel named {backend.name!r} is registered already")
    _registered[backend.name] = backend


def names() -> list[str]:
    """Return the names of all known channels, in alphabetical order."""
    return sorted({*_MODULES, *_registered})


def find(name: str) -> Backend:
    """Return a channel's declaration.

    Raises
    ------
    FmiConfigError
        No channel has the name.
    """
    if name not in _registered:
        if name not in _MODULES:
            raise FmiConfigError(f"unknown backend {name!r}; known are {', '.join(names())}")
        found: Backend = importlib.import_module(_MODULES[name]).BACKEND
        _registered[name] = found
    return _registered[name]


def as_bool(value: Any, where: str) -> bool:
    """Return true or false from JSON's or the C++ library's spelling."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise FmiConfigError(f"{where} is true or false, not {value!r}")


def _converted(value: Any, wanted: type, where: str) -> Any:
    if wanted is object:
        return value
    if wanted is bool:
        return as_bool(value, where)
    if wanted is str:
        return str(value)
    try:
        return wanted(float(value))
    except (TypeError, ValueError, OverflowError):
        raise FmiConfigError(f"{where} is a number, not {value!r}") from None
