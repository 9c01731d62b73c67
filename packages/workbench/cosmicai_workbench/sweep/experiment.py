"""An experiment file (TOML) and the grid of executions it describes."""

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from cosmicai.errors import InvalidInput
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cosmicai_workbench.application import EXPERIMENTS
from cosmicai_workbench.sweep.axes import AXES, axis_named, partition_size
from cosmicai_workbench.sweep.measures import MEASURES


class Point(Mapping[str, Any]):
    """One execution of the grid, repetitions apart: axis → value, of every axis.

    Parameters
    ----------
    settings
        The values that are not the axes' defaults.

    Raises
    ------
    InvalidInput
        If an axis is unknown, or a value is not one of its.
    """

    def __init__(self, **settings: Any) -> None:
        own: dict[str, Any] = {}
        for name, value in settings.items():
            axis = axis_named(name)
            checked = axis.checked(value)
            own |= axis.stands_for(checked, settings) if axis.stands_for else {name: checked}
        self._values = {
            axis.name: own.get(axis.name, axis.default)
            for axis in AXES.values()
            if axis.stands_for is None
        }

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return f"Point({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    @property
    def partition_mb(self) -> float:
        """Size of a partition in MB (2^20 bytes)."""
        return partition_size(self["partition"])

    @property
    def folder(self) -> str:
        """Name that says what it holds, in the style of the published result folders."""
        return "_".join(AXES[name].folder.format(value) for name, value in self._set())

    @property
    def text(self) -> str:
        """The settings as a report writes them."""
        return ", ".join(AXES[name].text.format(value) for name, value in self._set())

    def execution_input(self) -> dict[str, Any]:
        """Return the keys of the execution's input that the settings decide."""
        entered = [AXES[name].enters(value) for name, value in self.items() if value is not None]
        return {key: value for keys in entered for key, value in keys.items()}

    def parameters(self) -> dict[str, Any]:
        """Return the template's parameters that the settings decide."""
        entered = [AXES[name].parameters(value) for name, value in self._set()]
        return {key: value for keys in entered for key, value in keys.items()}

    def _set(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self.items() if value not in (None, False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Plot(_Strict):
    """One figure of the sweep's report: a measure or an axis against another."""

    title: str
    x: str
    y: str
    by: str | None = None

    @field_validator("x", "y")
    @classmethod
    def _is_a_column(cls, name: str) -> str:
        known = [axis.name for axis in AXES.values() if axis.stands_for is None] + [
            measure.name for measure in MEASURES.values() if measure.label
        ]
        if name not in known:
            raise ValueError(f"no such column; known: {', '.join(known)}")
        return name

    @field_validator("by")
    @classmethod
    def _is_an_axis(cls, name: str | None) -> str | None:
        return name and axis_named(name).name


class Experiment(_Strict):
    """An experiment: what to vary, what to hold, how often, for how much at most."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
    description: str = ""
    repetitions: int = Field(default=1, ge=1, le=100)
    cost_limit_dollars: float = Field(default=5.0, ge=0)
    """On AWS: stop before an execution that would take the sweep beyond this."""
    fixed: dict[str, Any] = {}
    """Settings that every execution shares: axis → value."""
    grid: dict[str, list[Any]]
    """Values to combine; every combination is one point: axis → values."""
    plots: tuple[Plot, ...] = ()

    def points(self) -> list[Point]:
        """Return every combination once, in the order of the file.

        Raises
        ------
        InvalidInput
            If the grid is empty, gives a setting twice, or a name or a value is not an axis'.
        """
        for part, names in (("fixed", self.fixed), ("grid", self.grid)):
            if unknown := [f"{part}.{name}" for name in names if name not in AXES]:
                raise InvalidInput(
                    f"experiment {self.name!r}: unknown key {', '.join(map(repr, unknown))}; "
                    f"known: {', '.join(AXES)}"
                )
        empty = [name for name, values in self.grid.items() if not values]
        if not self.grid or empty:
            found = f"no values for {', '.join(empty)}" if empty else "no keys"
            raise InvalidInput(
                f"experiment {self.name!r}: the grid is empty ({found}); give at least one value "
                f"for at least one of {', '.join(AXES)}"
            )
        if {"data_gb", "file_limit"} <= self.grid.keys():
            raise InvalidInput(
                f"experiment {self.name!r}: file_limit and data_gb both say how many partitions "
                "to take; keep one of them in the grid"
            )
        try:
            points = [
                Point(**self.fixed | dict(zip(self.grid, values, strict=True)))
                for values in itertools.product(*self.grid.values())
            ]
        except InvalidInput as error:
            raise InvalidInput(f"experiment {self.name!r}: {error}") from None
        return list(dict.fromkeys(points))


def _ready() -> str:
    return ", ".join(sorted(path.stem for path in EXPERIMENTS.glob("*.toml")))


def _explain(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(step) for step in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = Plot if where.startswith("plots.") else Experiment
            problems.append(f"unknown key {where!r}; known: {', '.join(known.model_fields)}")
        else:
            problems.append(f"{where}: {problem['msg']} (found {problem['input']!r})")
    return "; ".join(problems)


def experiment_file(name: str) -> Path:
    """Return the file of an experiment: a path, or the name of one that ships (``"quick"``)."""
    ready = EXPERIMENTS / f"{name}.toml"
    return ready if "/" not in name and ready.is_file() else Path(name)


def load_experiment(path: Path) -> Experiment:
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
            f"{path}: no such experiment file; ready ones (experiments/*.toml): {_ready()}"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path}: not a TOML file ({error})") from None
    try:
        experiment = Experiment.model_validate(document)
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_explain(error)}") from None
    experiment.points()
    return experiment
