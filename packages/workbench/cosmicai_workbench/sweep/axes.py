"""What an experiment can vary: each axis declares its values and where they enter an execution."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cosmicai.errors import InvalidInput
from cosmicai.facts import BATCH_SIZE, MAX_MEMORY_MB, MIN_MEMORY_MB
from cosmicai.schema import EngineName
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from cosmicai_workbench.results.run_folder import Run

Enter = Callable[[Any], Mapping[str, Any]]
"""What a value sets: keys of an execution's input, or parameters of the template."""


@dataclass(frozen=True)
class Axis:
    """A setting of an execution that an experiment can fix or vary.

    A value of None, or False, is "not set": it is not part of a folder's name, of a report's text
    or, if None, of the execution's input.

    Attributes
    ----------
    name
        Key in an experiment file, and column of the table.
    label
        What figures call it.
    kind
        Type of one value, with its constraints, as pydantic checks it.
    folder
        Its part of a run folder's name, ``{}`` standing for the value.
    text
        How reports write a value.
    default
        Value where the experiment sets none.
    enters
        Value → keys of the execution's input.
    parameters
        Value → parameters of the template. A deployed stack has one value of these.
    stands_for
        Value and the other settings → the settings that it means. Such an axis has no column
        of its own.
    used
        What a run actually used, where it records that; otherwise the setting.
    """

    name: str
    label: str
    kind: Any
    folder: str = ""
    text: str = "{}"
    default: Any = None
    enters: Enter = lambda _: {}
    parameters: Enter = lambda _: {}
    stands_for: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] | None = None
    used: "Callable[[Run], Any]" = lambda _: None

    def checked(self, value: object) -> Any:
        """Return a value as its type.

        Raises
        ------
        InvalidInput
            If it is not one.
        """
        try:
            return TypeAdapter(self.kind).validate_python(value)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]["msg"]
            raise InvalidInput(f"{self.name}: {problem} (found {value!r})") from None


AXES: dict[str, Axis] = {}
"""Name → axis, in the order of a folder's name and of the table."""


def register(axis: Axis) -> Axis:
    """Make an axis known to experiments, sweeps and reports.

    Raises
    ------
    ValueError
        If its name is taken.
    """
    if axis.name in AXES:
        raise ValueError(f"there is an axis {axis.name!r} already")
    AXES[axis.name] = axis
    return axis


def axis_named(name: str) -> Axis:
    """Return an axis.

    Raises
    ------
    InvalidInput
        If there is none of that name.
    """
    if name not in AXES:
        raise InvalidInput(f"unknown key {name!r}; known: {', '.join(AXES)}")
    return AXES[name]


def partition_size(partition: str) -> float:
    """Return the size in MB (2^20 bytes) that a partitions' folder is named for."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)MB", partition)
    if not found or not float(found[1]):
        raise InvalidInput(f"partition {partition!r}: expected a size such as '25MB'")
    return float(found[1])


def _sized(partition: str) -> str:
    partition_size(partition)
    return partition


def _files_for(data_gb: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    partition = settings.get("partition", AXES["partition"].default)
    return {"file_limit": max(1, math.ceil(data_gb * 1024 / partition_size(partition)))}


register(
    Axis(
        "file_limit",
        "number of partitions",
        Annotated[int, Field(ge=1)],
        folder="filelimit-{}",
        text="file limit {:,}",
        default=1,
        enters=lambda value: {"file_limit": value},
    )
)
register(
    Axis(
        "batch_size",
        "batch size",
        Annotated[int, Field(ge=1)],
        folder="batchsize-{}",
        text="batch {:,}",
        default=BATCH_SIZE,
        enters=lambda value: {"batch_size": value},
    )
)
register(
    Axis(  # partitions are in a folder that is named for their size
        "partition",
        "partition size",
        Annotated[str, AfterValidator(_sized)],
        folder="prefix-{}",
        text="{} partitions",
        default="25MB",
        enters=lambda value: {"data_prefix": value},
    )
)
register(
    Axis(  # as many partitions as hold this much (GB of 2^30 bytes)
        "data_gb",
        "data (GB)",
        Annotated[float, Field(gt=0)],
        stands_for=_files_for,
    )
)
register(
    Axis(
        "world_size",
        "number of ranks",
        Annotated[int, Field(ge=1)] | None,
        folder="worldsize-{}",
        text="{} ranks",
        enters=lambda value: {"world_size": value},
    )
)
register(
    Axis(
        "memory_mb",
        "memory size (MB)",
        Annotated[int, Field(ge=MIN_MEMORY_MB, le=MAX_MEMORY_MB)] | None,
        folder="memory-{}",
        text="{:,} MB",
        parameters=lambda value: {"InferenceMemorySize": str(value)},
        used=lambda run: max((record.memory_limit_mb for record in run.records), default=0) or None,
    )
)
register(
    Axis(
        "engine",
        "engine",
        EngineName | None,
        folder="engine-{}",
        enters=lambda value: {"engine": value},
        used=lambda run: run.summary.engine,
    )
)
register(
    Axis(
        "fmi",
        "messages between ranks",
        bool,
        folder="fmi",
        text="FMI",
        default=False,
        enters=lambda value: {"script": "inference_FMI.py" if value else "inference.py"},
    )
)
