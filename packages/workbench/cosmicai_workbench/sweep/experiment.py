"""An experiment file (TOML) and the grid of executions it stands for."""

import itertools
import math
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cosmicai.errors import InvalidInput
from cosmicai.facts import MAX_MEMORY_MB, MIN_MEMORY_MB
from cosmicai.schema import EngineName
from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from pathlib import Path

_PARTITION = re.compile(r"(\d+(?:\.\d+)?)MB")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(_Strict):
    """One execution of the grid, repetition apart."""

    partition: Annotated[str, Field(pattern=r"^\d+(\.\d+)?MB$")] = "25MB"
    """Folder of the partitions, named for their size."""
    file_limit: int = Field(default=1, ge=1)
    batch_size: int = Field(default=512, ge=1)
    world_size: int | None = Field(default=None, ge=1)
    memory_mb: int | None = Field(default=None, ge=MIN_MEMORY_MB, le=MAX_MEMORY_MB)
    engine: EngineName | None = None
    fmi: bool = False

    @property
    def partition_mb(self) -> float:
        """Size of a partition in MB (2^20 bytes)."""
        return _size(self.partition)

    @property
    def folder(self) -> str:
        """Name that says what it holds, in the style of the published result folders."""
        parts = [
            f"filelimit-{self.file_limit}",
            f"batchsize-{self.batch_size}",
            f"prefix-{self.partition}",
        ]
        if self.world_size is not None:
            parts.append(f"worldsize-{self.world_size}")
        if self.memory_mb is not None:
            parts.append(f"memory-{self.memory_mb}")
        if self.engine is not None:
            parts.append(f"engine-{self.engine}")
        if self.fmi:
            parts.append("fmi")
        return "_".join(parts)


class Grid(_Strict):
    """Values to combine; every combination is one point."""

    partition: tuple[str, ...] | None = None
    file_limit: tuple[int, ...] | None = None
    data_gb: tuple[float, ...] | None = None
    """Instead of ``file_limit``: as many partitions as hold so much (GB of 2^30 bytes)."""
    batch_size: tuple[int, ...] | None = None
    world_size: tuple[int, ...] | None = None
    memory_mb: tuple[int, ...] | None = None
    engine: tuple[EngineName, ...] | None = None
    fmi: tuple[bool, ...] | None = None


COLUMNS_TO_PLOT = Literal[
    "seconds_per_batch",
    "rank_seconds",
    "wall_seconds",
    "inference_seconds",
    "samples_per_second",
    "throughput_gbps",
    "peak_memory_mb",
    "ranks",
    "cost_dollars",
]


class Plot(_Strict):
    """One figure of the sweep's report."""

    title: str
    x: Literal[
        "partition_mb", "file_limit", "data_gb", "batch_size", "ranks", "memory_mb", "galaxies"
    ]
    y: COLUMNS_TO_PLOT
    by: Literal["partition", "engine", "fmi", "batch_size", "file_limit", "memory_mb"] | None = None


class Experiment(_Strict):
    """An experiment: what to vary, what to hold, how often, for how much at most."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
    description: str = ""
    repetitions: int = Field(default=1, ge=1, le=100)
    cost_limit_dollars: float = Field(default=5.0, ge=0)
    """On AWS: stop before an execution that would take the sweep beyond this."""
    fixed: Point = Point()
    """Settings that every execution shares."""
    grid: Grid
    plots: tuple[Plot, ...] = ()

    def points(self) -> list[Point]:
        """Return every combination once, in the order of the file.

        Raises
        ------
        InvalidInput
            If the grid is empty, or gives a setting twice.
        """
        axes = {key: values for key, values in self.grid if values is not None}
        empty = [key for key, values in axes.items() if not values]
        if not axes or empty:
            found = f"no values for {', '.join(empty)}" if empty else "no keys"
            raise InvalidInput(
                f"experiment {self.name!r}: the grid is empty ({found}); give at least one value "
                f"for at least one of {', '.join(Grid.model_fields)}"
            )
        if {"data_gb", "file_limit"} <= axes.keys():
            raise InvalidInput(
                f"experiment {self.name!r}: file_limit and data_gb both say how many partitions "
                "to take; keep one of them in the grid"
            )
        fixed = {key: getattr(self.fixed, key) for key in self.fixed.model_fields_set}
        points = []
        for values in itertools.product(*axes.values()):
            settings: dict[str, Any] = fixed | dict(zip(axes, values, strict=True))
            points.append(_point(self.name, settings))
        return list(dict.fromkeys(points))


def _size(partition: str) -> float:
    found = _PARTITION.fullmatch(partition)
    if not found or not float(found[1]):
        raise InvalidInput(f"partition {partition!r}: expected a size such as '25MB'")
    return float(found[1])


def _point(name: str, settings: dict[str, Any]) -> Point:
    data_gb = settings.pop("data_gb", None)
    if data_gb is not None:
        partition = settings.get("partition", Point.model_fields["partition"].default)
        settings["file_limit"] = max(1, math.ceil(data_gb * 1024 / _size(partition)))
    try:
        return Point(**settings)
    except ValidationError as error:
        raise InvalidInput(f"experiment {name!r}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(step) for step in problem["loc"])
        if problem["type"] == "extra_forbidden":
            parts: dict[str, type[BaseModel]] = {"grid": Grid, "fixed": Point, "plots": Plot}
            known = parts.get(where.partition(".")[0], Experiment) if "." in where else Experiment
            problems.append(f"unknown key {where!r}; known: {', '.join(known.model_fields)}")
        else:
            problems.append(f"{where}: {problem['msg']} (found {problem['input']!r})")
    return "; ".join(problems)


def load_experiment(path: "Path") -> Experiment:
    """Read an experiment file.

    Raises
    ------
    InvalidInput
        If it is missing, not TOML, or has unknown keys, wrong values or an empty grid.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(
            f"{path}: no such experiment file; ready ones: experiments/*.toml"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path}: not a TOML file ({error})") from None
    try:
        experiment = Experiment.model_validate(document)
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_explain(error)}") from None
    experiment.points()
    return experiment
