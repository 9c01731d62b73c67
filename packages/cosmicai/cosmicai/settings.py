"""What each function reads from its environment: one model of settings per handler."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BeforeValidator, ConfigDict, Field

from cosmicai.engines.registry import BUILT_IN, DEFAULT_ENGINE
from cosmicai.facts import MAX_CHILDREN, Architecture, threads
from cosmicai.fmi_channels import DEFAULT_CHANNEL
from cosmicai.machine import available_cores
from cosmicai.schema import Contract, EngineName, FmiChannel, Integer, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

Count = Annotated[Integer, Field(ge=0)]


def _comma_separated(value: object) -> object:
    """Split what an environment variable holds, without what is empty."""
    return [part for part in value.split(",") if part] if isinstance(value, str) else value


class Settings(Contract):
    """Base of all settings; a field's alias is its environment variable."""

    # A function uses the settings of its own handler: the others would slow its cold start.
    model_config = ConfigDict(defer_build=True)

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the environment; a variable that is empty counts as absent.

        Raises
        ------
        InvalidInput
            A variable has a wrong value; the message names it.
        """
        names = [str(field.alias) for field in cls.model_fields.values()]
        return parse(cls, {name: environment[name] for name in names if environment.get(name)})


class ObservabilitySettings(Settings):
    """Where every function's metrics and traces go."""

    metrics_namespace: str = Field(default="CosmicAI", alias="POWERTOOLS_METRICS_NAMESPACE")
    xray_address: str = Field(
        default="",
        alias="AWS_XRAY_DAEMON_ADDRESS",
        description="Set by Lambda wherever X-Ray can be reached.",
    )


class FunctionSettings(Settings):
    """What Lambda sets for every function."""

    memory_mb: Count = Field(
        default=0,
        alias="AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        description="The function's memory size; 0 outside of Lambda.",
    )


class InitializeSettings(FunctionSettings):
    """Settings of Initialize: what the template's parameters decide for every execution."""

    default_engine: EngineName = Field(default=DEFAULT_ENGINE, alias="DEFAULT_ENGINE")
    available_engines: Annotated[list[EngineName], BeforeValidator(_comma_separated)] = Field(
        default=list(BUILT_IN), alias="AVAILABLE_ENGINES"
    )
    max_concurrency: Annotated[Integer, Field(ge=1, le=MAX_CHILDREN)] = Field(
        default=1000, alias="MAX_CONCURRENCY"
    )
    tolerated_failure_percentage: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0, alias="TOLERATED_FAILURE_PERCENTAGE"
    )
    fmi_channel: FmiChannel = Field(default=DEFAULT_CHANNEL, alias="FMI_CHANNEL")
    fmi_channels_without_server: Annotated[list[str], BeforeValidator(_comma_separated)] = Field(
        default=[],
        alias="FMI_CHANNELS_WITHOUT_SERVER",
        description="Channels for which the stack was deployed without a server.",
    )
    result_prefix: str = Field(
        default="",
        alias="RESULT_PREFIX",
        description="Where executions may write; empty: anywhere.",
    )


class InferenceSettings(FunctionSettings):
    """Settings of Model Inference."""

    inference_threads: Count = Field(
        default=0,
        alias="INFERENCE_THREADS",
        description="Threads to compute with, where sandboxes share a machine; 0: as many as the "
        "memory size pays for.",
    )
    preload_model: str = Field(
        default="", alias="PRELOAD_MODEL", description="Folder of the stack's model, if it has one."
    )
    preload_bucket: str = Field(default="", alias="PRELOAD_BUCKET")
    preload_engine: EngineName = Field(default=DEFAULT_ENGINE, alias="PRELOAD_ENGINE")
    initialization_type: str = Field(default="on-demand", alias="AWS_LAMBDA_INITIALIZATION_TYPE")

    @property
    def threads(self) -> int:
        """Threads to compute with, at least 1: the vCPUs that the memory size pays for."""
        if self.inference_threads:
            return self.inference_threads
        cores = available_cores()
        return min(cores, threads(self.memory_mb)) if self.memory_mb else cores

    @property
    def starts_ahead(self) -> bool:
        """Whether this sandbox starts before its first call comes (snapshot, provisioned)."""
        return self.initialization_type != "on-demand"


class CollectiveSettings(FunctionSettings):
    """Settings of Invoke FMI: the servers of its channels."""

    rendezvous: str = Field(
        default="", alias="FMI_RENDEZVOUS", description="Host and port of the rendezvous server."
    )
    token: str | None = Field(default=None, alias="FMI_TOKEN")
    token_secret: str = Field(
        default="", alias="FMI_TOKEN_SECRET", description="ARN of the secret that holds the token."
    )
    redis_url: str = Field(default="", alias="FMI_REDIS_URL")
    redis_secret: str = Field(
        default="", alias="FMI_REDIS_SECRET", description="ARN of the secret with Redis's login."
    )


class SummarizeSettings(FunctionSettings):
    """Settings of Summarize: what decides the prices."""

    region: str = Field(default="us-east-1", alias="AWS_REGION")
    inference_architecture: Architecture = Field(
        default="arm64",
        alias="INFERENCE_ARCHITECTURE",
        description="Processor of Model Inference.",
    )
