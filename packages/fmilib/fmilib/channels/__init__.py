"""Ways to move bytes between ranks: direct TCP, Redis, S3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fmilib.channels.base import Channel


def open_channel(
    name: str,
    parameters: Mapping[str, Any],
    *,
    session: str,
    strict: bool,
    epoch: int,
    rank: int,
    size: int,
    timeout: float,
    token: str | None,
) -> Channel:
    """Return the channel of a configured backend; it still has to be opened.

    Each channel's module, and with it redis-py or boto3, is imported only when it is used.
    """
    if name == "Direct":
        from fmilib.channels.direct import MESH_RANKS, DirectChannel
        from fmilib.rendezvous.client import Rendezvous

        rendezvous = Rendezvous(
            (str(parameters["host"]), int(parameters["port"])),
            token,
            session=session,
            epoch=epoch,
            rank=rank,
            size=size,
            strict=strict,
        )
        return DirectChannel(rendezvous, rank, size, parameters.get("mesh_ranks", MESH_RANKS))
    if name == "Redis":
        from fmilib.channels.redis import RedisChannel

        return RedisChannel(
            parameters,
            session=session,
            strict=strict,
            epoch=epoch,
            rank=rank,
            size=size,
            timeout=timeout,
        )
    from fmilib.channels.s3 import S3Channel

    return S3Channel(
        parameters, session=session, epoch=epoch, rank=rank, size=size, timeout=timeout
    )
