"""The configuration: the C++ library's JSON file, or the environment.

::

    {"backends": {"Direct": {"enabled": true, "host": "…", "port": 10000, "max_timeout": 1000},
                  "Redis":  {"enabled": false, "host": "…", "port": 6379, "max_timeout": 1000},
                  "S3":     {"enabled": false, "bucket_name": "…", "s3_region": "…"}},
     "model":    {"FaaS": {"gib_second_price": 0.0000166667}, "Direct": {"bandwidth": 250, …}}}

The keys of a backend are those that its channel declares (`fmilib.backend`). ``max_timeout`` is
in milliseconds. Numbers may be strings, as in the C++ library's own files. The file holds no
secrets: the token comes from ``FMI_TOKEN``, Redis's password from ``FMI_REDIS_URL`` or
``FMI_REDIS_PASSWORD``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from fmilib import backend as registry
from fmilib.errors import FmiConfigError

DEFAULT_TIMEOUT: Final = 30.0


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
            if name not in registry.names():
                known = ", ".join(registry.names())
                raise FmiConfigError(f"{where}: unknown backend {name!r}; known are {known}")
            if not isinstance(parameters, Mapping):
                raise FmiConfigError(f"{where}: {name} is an object, not {parameters!r}")
            if registry.as_bool(parameters.get("enabled", True), f"{where}: {name}.enabled"):
                self.backends[name] = registry.find(name).check(parameters, where)
        if not self.backends:
            raise FmiConfigError(f"{where}: no backend is enabled")
        model = content.get("model", {})
        if not isinstance(model, Mapping) or not all(
            isinstance(values, Mapping) for values in model.values()
        ):
            raise FmiConfigError(f"{where}: 'model' is not an object of objects")
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
        found = ((name, registry.find(name).from_environment(environment))
                 for name in registry.names())  # fmt: skip
        backends = {name: settings for name, settings in found if settings is not None}
        if not backends:
            raise FmiConfigError(
                "no configuration: set FMI_CONFIG, FMI_RENDEZVOUS, FMI_REDIS_URL or FMI_S3"
            )
        return cls({"backends": backends})


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
