"""The named errors of fmilib; every one says what happened, in which operation, and who."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BY_NAME: dict[str, type[FmiError]] = {}


class FmiError(Exception):
    """Base of every error that fmilib raises on purpose.

    Attributes
    ----------
    ranks : tuple of int
        The world ranks that caused it (absent, dead, mismatching), as far as known.
    """

    def __init__(self, message: str, ranks: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.ranks: tuple[int, ...] = tuple(sorted(set(ranks)))

    def __init_subclass__(cls) -> None:
        _BY_NAME[cls.__name__] = cls

    def to_wire(self) -> dict[str, Any]:
        """Return the error as the JSON object in which it travels to other ranks."""
        return {"error": type(self).__name__, "message": str(self), "ranks": list(self.ranks)}


class FmiConfigError(FmiError):
    """The configuration is missing, malformed, or enables no channel."""


class FmiTimeout(FmiError):
    """An operation passed its deadline; the message names the absent ranks."""


class FmiPeerLost(FmiError):
    """A rank's connection ended: it died, was killed, or left early."""


class FmiAborted(FmiError):
    """A rank said that it failed for good, or gave up on an operation of this communicator."""


class FmiMismatch(FmiError):
    """Ranks disagree on the operation, its root or function, the type or the size."""


class FmiDuplicateRank(FmiError):
    """Another process takes part as this rank in this session and epoch."""


class FmiOverflow(FmiError):
    """An integer, or a partial result of an integer reduction, leaves the 64-bit range."""


class FmiReductionError(FmiError):
    """The reduction function raised on the rank that evaluates it."""


class FmiDenied(FmiError):
    """The rendezvous server or a peer refused the token."""


class FmiClosed(FmiError):
    """The communicator was used after ``close()``."""


class FmiChannelError(FmiError):
    """The channel's server (rendezvous, Redis, S3) cannot be reached or refused a request."""


def from_wire(message: Mapping[str, Any]) -> FmiError:
    """Return the error that `FmiError.to_wire`, or a server's refusal, describes.

    An unknown name, from another version of fmilib, becomes `FmiChannelError`.
    """
    error = _BY_NAME.get(str(message.get("error")), FmiChannelError)
    text = message.get("message") or f"unexpected answer {message.get('type')!r}"
    return error(str(text), message.get("ranks", ()))


def ranks_text(ranks: Iterable[int], limit: int = 20) -> str:
    """``rank 3``, ``ranks 1, 4, 7``; long lists are cut with their length."""
    ordered = sorted(set(ranks))
    if not ordered:
        return "no rank"
    shown = ", ".join(str(rank) for rank in ordered[:limit])
    more = f" … ({len(ordered)} in all)" if len(ordered) > limit else ""
    return f"{'rank' if len(ordered) == 1 else 'ranks'} {shown}{more}"
