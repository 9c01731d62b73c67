"""The channels over which ranks exchange messages, each declared once.

An execution input names one (``fmi_channel``); Invoke FMI turns it into fmilib's configuration
with what the stack offers. `register` adds a channel that fmilib knows (`fmilib.register`). So does
an entry point of another package in the group ``cosmicai.channels``, which refers to an
`FmiChannel`; its module registers the channel with fmilib.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cosmicai import keys
from cosmicai.errors import InvalidInput
from cosmicai.plugins import declared

if TYPE_CHECKING:
    from collections.abc import Callable

    from cosmicai.schema import CollectiveEvent
    from cosmicai.settings import CollectiveSettings


def _environment_token(settings: CollectiveSettings) -> str | None:
    return settings.token


@dataclass(frozen=True)
class FmiChannel:
    """A channel's declaration.

    Attributes
    ----------
    name : str
        Its name in execution inputs.
    backend : callable
        Takes a rank's item and Invoke FMI's settings; returns fmilib's backend and its settings,
        as ``{name: settings}``, or raises `InvalidInput` where the stack has no server for it.
    token : callable
        Takes Invoke FMI's settings; returns the secret that the channel's server asks for, if
        it does.
    """

    name: str
    backend: Callable[[CollectiveEvent, CollectiveSettings], dict[str, dict[str, Any]]]
    token: Callable[[CollectiveSettings], str | None] = _environment_token


ENTRY_POINTS = "cosmicai.channels"
_channels: dict[str, FmiChannel] = {}


def register(channel: FmiChannel) -> None:
    """Make a channel known to execution inputs."""
    _channels[channel.name] = channel


def channel_names() -> list[str]:
    """Return the names of all known channels."""
    return sorted({*_channels, *_channels_of_others()})


@functools.cache
def _channels_of_others() -> dict[str, FmiChannel]:
    return {channel.name: channel for channel in declared(ENTRY_POINTS, FmiChannel)}


def find_channel(name: str) -> FmiChannel:
    """Return a channel's declaration.

    Raises
    ------
    InvalidInput
        No channel has the name.
    """
    # Entry points are looked up, which takes some milliseconds, only for a name not built in.
    found = _channels.get(name) or _channels_of_others().get(name)
    if found is None:
        raise InvalidInput(f"fmi_channel: expected one of {channel_names()}, found {name!r}")
    return found


def channel_name(name: str) -> str:
    """Return the name if a channel has it; ValueError otherwise, for pydantic."""
    if name not in _channels and name not in _channels_of_others():
        raise ValueError(f"expected one of {', '.join(channel_names())}")
    return name


def _direct(_: CollectiveEvent, settings: CollectiveSettings) -> dict[str, dict[str, Any]]:
    if not settings.rendezvous:
        raise _no_server("direct", "a rendezvous server", "FMI_RENDEZVOUS")
    host, port = settings.rendezvous.rsplit(":", 1)
    return {"Direct": {"host": host, "port": int(port)}}


def _rendezvous_token(settings: CollectiveSettings) -> str | None:
    """Return the rendezvous server's token: from the environment, or the stack's secret."""
    return _secret(settings.token_secret) if settings.token_secret else settings.token


def _redis(_: CollectiveEvent, settings: CollectiveSettings) -> dict[str, dict[str, Any]]:
    """Return the Redis server's URL, with the user and password of the stack's secret in it."""
    url, secret = settings.redis_url, settings.redis_secret
    if not url:
        raise _no_server("redis", "a Redis server", "FMI_REDIS_URL")
    if not secret:
        return {"Redis": {"url": url}}
    try:
        login = json.loads(_secret(secret))
        user, password = quote(login["username"], safe=""), quote(login["password"], safe="")
    except (ValueError, KeyError, TypeError):  # whose message may hold the secret
        raise InvalidInput(
            f'secret {secret}: {{"username": …, "password": …}} of the Redis server expected'
        ) from None
    scheme, server = url.split("://", 1)
    return {"Redis": {"url": f"{scheme}://{user}:{password}@{server}"}}


def _s3(event: CollectiveEvent, _: CollectiveSettings) -> dict[str, dict[str, Any]]:
    prefix = keys.fmi_messages(event.RESULT_PATH)
    return {"S3": {"bucket_name": event.S3_BUCKET, "prefix": prefix, "tag": keys.FMI_TAG}}


def _no_server(channel: str, what: str, variable: str) -> InvalidInput:
    return InvalidInput(
        f"this stack has no server for FMI channel {channel!r}: deploy it with {what} "
        f"({variable} is empty), or use fmi_channel {DEFAULT_CHANNEL!r}"
    )


def _secret(arn: str) -> str:
    """Read a secret; in a VPC without a way to Secrets Manager that ends after seconds."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError

    limits = Config(connect_timeout=5, read_timeout=5, retries={"total_max_attempts": 2})
    try:
        answer = boto3.client("secretsmanager", config=limits).get_secret_value(SecretId=arn)
    except (ConnectTimeoutError, EndpointConnectionError) as error:
        raise InvalidInput(
            f"Secrets Manager is out of reach ({error}): the subnets of Invoke FMI need a NAT "
            "gateway or an interface endpoint for it"
        ) from error
    value: str = answer["SecretString"]
    return value


DEFAULT_CHANNEL = "s3"
"""The one that needs no server."""

for _declared in (
    FmiChannel("direct", _direct, _rendezvous_token),
    FmiChannel("redis", _redis),
    FmiChannel(DEFAULT_CHANNEL, _s3),
):
    register(_declared)
