"""The configuration: the C++ library's JSON file, or the environment.

::

    {"backends": {"Direct": {"enabled": true, "host": "…", "port": 10000, "max_timeout": 1000},
                  "Redis":  {"enabled": false, "host": "…", "port": 6379, "max_timeout": 1000},
                  "S3":     {"enabled": false, "bucket_name": "…", "s3_region": "…"}},
     "model":    {"FaaS": {"gib_second_price": 0.0000166667}, "Direct": {"bandwidth": 250, …}}}

``max_timeout`` is in milliseconds. Values may be strings, as the C++ library's own files have
them. Secrets never stand in the file: the token comes from ``FMI_TOKEN``, Redis's password from
``FMI_REDIS_URL`` or ``FMI_REDIS_PASSWORD``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from fmilib.errors import FmiConfigError

BACKENDS: Final = ("Direct", "Redis", "S3")
DEFAULT_TIMEOUT: Final = 30.0

_KEYS: Final = {
    "Direct": {"enabled", "host", "port", "max_timeout", "timeout", "mesh_ranks",
               "resolve_host_dns"},
    "Redis": {"enabled", "host", "port", "max_timeout", "timeout", "url", "db", "ttl"},
    "S3": {"enabled", "bucket_name", "s3_region", "max_timeout", "timeout", "prefix",
           "endpoint_url", "requests_per_second", "tag"},
}  # fmt: skip
_REQUIRED: Final = {
    "Direct": ("host", "port"),
    "Redis": ("host", "port"),
    "S3": ("bucket_name",),
}


class Configuration:
    """Enabled backends with their parameters, and the cost model's parameters.

    Parameters
    ----------
    source : path, mapping
        The JSON file, or its content.

    Raises
    ------
    FmiConfigError
        Naming the file and the key.
    """

    def __init__(self, source: str | os.PathLike[str] | Mapping[str, Any]) -> None:
        content, where = _load(source)
        backends = content.get("backends")
        if not isinstance(backends, Mapping):
            raise FmiConfigError(f"{where}: 'backends' is missing or not an object")
        self.backends: dict[str, dict[str, Any]] = {}
        for name, parameters in backends.items():
            if name not in BACKENDS:
                raise FmiConfigError(
                    f"{where}: unknown backend {name!r}; known are {', '.join(BACKENDS)}"
                )
            if as_bool(parameters.get("enabled", True), f"{where}: {name}.enabled"):
                self.backends[name] = _checked(name, dict(parameters), where)
        if not self.backends:
            raise FmiConfigError(f"{where}: no backend is enabled")
        model = content.get("model", {})
        if not isinstance(model, Mapping):
            raise FmiConfigError(f"{where}: 'model' is not an object")
        self.model: dict[str, dict[str, Any]] = {key: dict(value) for key, value in model.items()}

    @property
    def timeout(self) -> float:
        """Seconds that an operation may take: the largest ``max_timeout``."""
        given = [
            float(backend["max_timeout"]) / 1000
            for backend in self.backends.values()
            if "max_timeout" in backend
        ]
        return max(given) if given else DEFAULT_TIMEOUT

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Configuration:
        """Return the configuration that the environment describes.

        ``FMI_CONFIG`` (a path, or the JSON itself); or any of ``FMI_RENDEZVOUS`` (host:port),
        ``FMI_REDIS_URL``, ``FMI_S3`` (bucket/prefix).
        """
        given = environment.get("FMI_CONFIG")
        if given:
            return cls(json.loads(given) if given.lstrip().startswith("{") else given)
        backends: dict[str, Any] = {}
        if rendezvous := environment.get("FMI_RENDEZVOUS"):
            host, separator, port = rendezvous.rpartition(":")
            if not separator or not port.isdigit():
                raise FmiConfigError(f"FMI_RENDEZVOUS is host:port, not {rendezvous!r}")
            backends["Direct"] = {"host": host, "port": int(port)}
        if url := environment.get("FMI_REDIS_URL"):
            backends["Redis"] = {"url": url}
        if location := environment.get("FMI_S3"):
            bucket, _, prefix = location.removeprefix("s3://").partition("/")
            backends["S3"] = {"bucket_name": bucket, "prefix": prefix or "fmi"}
        if not backends:
            raise FmiConfigError(
                "no configuration: set FMI_CONFIG, FMI_RENDEZVOUS, FMI_REDIS_URL or FMI_S3"
            )
        return cls({"backends": backends})


def as_bool(value: Any, where: str) -> bool:
    """Return true or false from JSON's or the C++ library's spelling."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise FmiConfigError(f"{where} is true or false, not {value!r}")


def _load(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    if isinstance(source, Mapping):
        return source, "configuration"
    where = os.fspath(source)
    try:
        with open(where, encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs start-up time
            content = json.load(file)
    except OSError as error:
        raise FmiConfigError(f"cannot read the configuration {where}: {error.strerror}") from error
    except ValueError as error:
        raise FmiConfigError(f"{where} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise FmiConfigError(f"{where}: expected an object with 'backends' and 'model'")
    return content, where


def _checked(name: str, parameters: dict[str, Any], where: str) -> dict[str, Any]:
    unknown = sorted(set(parameters) - _KEYS[name])
    if unknown:
        raise FmiConfigError(
            f"{where}: unknown key {name}.{unknown[0]}; known are {', '.join(sorted(_KEYS[name]))}"
        )
    if "url" not in parameters:
        for key in _REQUIRED[name]:
            if parameters.get(key) in (None, ""):
                raise FmiConfigError(f"{where}: {name}.{key} is missing")
    for key in ("port", "max_timeout", "timeout", "mesh_ranks", "db", "ttl", "requests_per_second"):
        if key in parameters:
            try:
                parameters[key] = float(parameters[key])
                if key in ("port", "mesh_ranks", "db"):
                    parameters[key] = int(parameters[key])
            except (TypeError, ValueError):
                raise FmiConfigError(
                    f"{where}: {name}.{key} is a number, not {parameters[key]!r}"
                ) from None
    return parameters
