"""What the environment tells a function, read in one place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field

from cosmicai.cost import Architecture
from cosmicai.facts import threads
from cosmicai.machine import available_cores
from cosmicai.schema import Contract, Integer, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

Count = Annotated[Integer, Field(ge=0)]


class FunctionSettings(Contract):
    """Settings that the functions share; a field's alias is its variable."""

    memory_mb: Count = Field(
        default=0,
        alias="AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        description="The function's memory size; 0 outside of Lambda.",
    )
    region: str = Field(default="us-east-1", alias="AWS_REGION")
    inference_architecture: Architecture = Field(
        default="arm64",
        alias="INFERENCE_ARCHITECTURE",
        description="Processor of Model Inference, whose prices Summarize takes.",
    )
    inference_threads: Count = Field(
        default=0,
        alias="INFERENCE_THREADS",
        description="Threads to compute with, where sandboxes share a machine; 0: as many as the "
        "memory size pays for.",
    )

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

    @property
    def threads(self) -> int:
        """Threads to compute with, at least 1: the vCPUs that the memory size pays for."""
        if self.inference_threads:
            return self.inference_threads
        cores = available_cores()
        return min(cores, threads(self.memory_mb)) if self.memory_mb else cores
