"""Errors of one rank that travel to the ranks that wait for its value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fmilib.codec import ERROR
from fmilib.errors import FmiError, FmiReductionError, from_wire
from fmilib.frame import Packet

if TYPE_CHECKING:
    from collections.abc import Callable


def error_packet(error: FmiError) -> Packet:
    """Return the packet of an error."""
    data = json.dumps(error.to_wire()).encode()
    return Packet(ERROR, data, len(data))


def raise_error(packet: Packet, local: Exception | None = None) -> None:
    """Raise the error in a packet; on the rank that caused it, the original."""
    if packet.code != ERROR:
        return
    if local is not None:
        raise local
    raise from_wire(json.loads(bytes(packet.data)))


def try_encode(rank: int, encode: Callable[[], Packet]) -> tuple[Packet, Exception | None]:
    """Encode a root's value; a failure becomes a packet, so that nobody waits for it."""
    (packet,), problem = try_encode_all(rank, 1, lambda: [encode()])
    return packet, problem


def try_encode_all(
    rank: int, count: int, encode: Callable[[], list[Packet]]
) -> tuple[list[Packet], Exception | None]:
    """Encode a root's ``count`` values, as :func:`try_encode` does one."""
    try:
        return encode(), None
    except Exception as error:  # noqa: BLE001 - a codec may raise anything; the root re-raises
        remote = FmiReductionError(f"rank {rank} could not encode its value: {error}", [rank])
        return [error_packet(remote)] * count, error


def try_fold(fold: Callable[[], Packet]) -> Packet:
    """Return the result, or the error as a packet for those who wait for the result."""
    try:
        return fold()
    except FmiError as error:
        return error_packet(error)
