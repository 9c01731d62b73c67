"""Which engines there are, each declared once; everything that names engines reads it here.

An engine of another package is declared by an entry point in the group ``cosmicai.engines`` that
refers to its :class:`EngineDeclaration`. Nothing here imports an engine or its libraries.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from cosmicai.errors import InvalidInput, ModelMismatch
from cosmicai.plugins import declared

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cosmicai.engines.base import Engine
    from cosmicai.model.bundle import Bundle

ENTRY_POINTS: Final = "cosmicai.engines"
PROCESSORS: Final = ("arm64", "x86_64")
"""As AWS names them."""
DEFAULT_ENGINE: Final = "native"
"""Of a stack; the default of the template's parameter Engine."""
CHUNK: Final = 128
"""Galaxies computed at once: enough to amortise the weights, few enough for the caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDeclaration:
    """What is known of an engine without importing it."""

    name: str
    module: str
    """Whose ``create(bundle, threads, precision)`` returns the engine."""
    requires: tuple[str, ...]
    """Modules that it imports beside those of this package; a message names them if absent."""
    layer: str | None
    """Logical ID of the template's layer that carries them; None if every function has them."""
    precisions: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"float32": PROCESSORS}
    )
    """Precision → processors on which it is offered."""
    architectures: tuple[str, ...] = ("AstroMAE",)
    """Model architectures that it runs."""
    chunk: int | None = CHUNK
    """Galaxies that it computes at once; None if it takes batches as they come."""
    devices: tuple[str, ...] = ("cpu",)
    """What it computes on; its ``create`` takes a ``device`` if there are others than the CPU."""

    def check(self, precision: str, processor: str | None = None) -> None:
        """Make sure that the engine offers a precision.

        Parameters
        ----------
        processor
            One of ``PROCESSORS``; by default, any of them will do.

        Raises
        ------
        InvalidInput
            If it does not; the message names the alternatives.
        """
        offered = self.precisions.get(precision)
        if offered is None:
            others = [name for name, other in engines().items() if precision in other.precisions]
            if not others:
                raise InvalidInput(_unknown_precision(precision))
            raise InvalidInput(
                f"precision {precision}: engine {self.name!r} computes in "
                f"{' and '.join(self.precisions)} only; engines with it: {', '.join(others)}"
            )
        if processor is not None and processor not in offered:
            raise InvalidInput(
                f"precision {precision}: engine {self.name!r} offers it on "
                f"{' and '.join(offered)} only, and this is {processor}; use float32"
            )

    def check_model(self, architecture: str) -> None:
        """Make sure that the engine runs models of an architecture.

        Raises
        ------
        ModelMismatch
            If it does not; the message names the alternatives.
        """
        if architecture not in self.architectures:
            others = [e.name for e in engines().values() if architecture in e.architectures]
            raise ModelMismatch(
                f"engine {self.name!r} runs models of {', '.join(self.architectures)}, not "
                f"{architecture}; engines that do: {', '.join(others) or 'none'}"
            )

    def missing(self) -> list[str]:
        """Return the modules that it requires and that are not installed here."""
        return [name for name in self.requires if importlib.util.find_spec(name) is None]

    def check_device(self, device: str) -> None:
        """Raise InvalidInput unless the engine computes on a device."""
        if device not in self.devices:
            others = [name for name, other in engines().items() if device in other.devices]
            hint = f"engines that do: {', '.join(others)}" if others else "no engine does"
            raise InvalidInput(f"engine {self.name!r} does not compute on {device!r}; {hint}")

    def create(self, bundle: Bundle, threads: int, precision: str, device: str = "cpu") -> Engine:
        """Import the engine and load the model into it."""
        module = importlib.import_module(self.module)
        place = {} if device == "cpu" else {"device": device}
        return cast("Engine", module.create(bundle, threads, precision, **place))


_DECLARED: Final = (
    EngineDeclaration(
        name="native",
        module="cosmicai.engines.native_engine",
        # The shared library that packages/cosmicai/native compiles to; not an extension module,
        # but found like one.
        requires=("cosmicai.engines._native",),
        layer="NativeLayer",
        precisions={"float32": PROCESSORS, "float16": ("arm64",)},
        chunk=6 * 64,  # a thread computes 64, and a function has up to six vCPUs
    ),
    EngineDeclaration(
        name="openvino",
        module="cosmicai.engines.openvino_engine",
        requires=("openvino",),
        layer="OpenVINOLayer",
        architectures=("AstroMAE", "ONNX"),
    ),
    EngineDeclaration(
        name="torch",
        module="cosmicai.engines.torch_engine",
        requires=("torch",),
        layer="PyTorchFMILayer",
        precisions={"float32": PROCESSORS, "bfloat16": PROCESSORS},
        devices=("cpu", "cuda"),
    ),
    EngineDeclaration(
        name="plain",
        module="cosmicai.engines.plain_engine",
        requires=("torch",),
        layer="PyTorchFMILayer",
        chunk=None,
    ),
)
"""The built-in engines, the fastest first."""
BUILT_IN: Final = MappingProxyType({engine.name: engine for engine in _DECLARED})


@functools.cache
def engines() -> Mapping[str, EngineDeclaration]:
    """Return every engine by its name: the built-in ones, then those of entry points."""
    found = dict(BUILT_IN)
    for engine in declared(ENTRY_POINTS, EngineDeclaration):
        found.setdefault(engine.name, engine)
    return MappingProxyType(found)


def find_engine(name: str) -> EngineDeclaration:
    """Return the declaration of the engine called ``name``.

    Raises
    ------
    InvalidInput
        If there is no such engine; the message lists the known ones.
    """
    # Entry points are looked up, which takes some milliseconds, only for a name not built in.
    found = BUILT_IN.get(name) or engines().get(name)
    if found is None:
        raise InvalidInput(f"engine {name!r} is not one of {', '.join(engines())}")
    return found


def fitting_engine(architecture: str, names: Iterable[str]) -> str:
    """Return the first of some engines that runs models of an architecture.

    Raises
    ------
    ModelMismatch
        If none does; the message names engines that do.
    """
    names = tuple(names)
    for name in names:
        if architecture in find_engine(name).architectures:
            return name
    others = [name for name, engine in engines().items() if architecture in engine.architectures]
    raise ModelMismatch(
        f"models of {architecture} need the engine {' or '.join(others) or 'of another package'}, "
        f"and there is {', '.join(names)}"
        + (f"; deploy the stack with the parameter Engine={others[0]}" if others else "")
    )


def installed_engine(
    architecture: str, precision: str = "float32", device: str = "cpu"
) -> EngineDeclaration:
    """Return the first engine whose libraries are installed here and that runs the model.

    Raises
    ------
    InvalidInput
        If no such engine is installed; the message names what to install.
    """
    fitting = [
        engine
        for engine in engines().values()
        if architecture in engine.architectures
        and precision in engine.precisions
        and device in engine.devices
    ]
    for engine in fitting:
        if not engine.missing():
            return engine
    wanted = f"{architecture} in {precision} on {device}"
    if not fitting:
        offered = "; ".join(
            f"{engine.name}: {', '.join(engine.architectures)} in {', '.join(engine.precisions)} "
            f"on {', '.join(engine.devices)}"
            for engine in engines().values()
        )
        raise InvalidInput(f"no engine runs {wanted}. There are {offered}")
    names = " or ".join(engine.name for engine in fitting)
    raise InvalidInput(
        f"no installed engine runs {wanted}; engines that do: {names} "
        f"(pip install cosmicai[{fitting[0].name}])"
    )


def engine_name(name: str) -> str:
    """Return ``name`` if it is that of an engine; for pydantic, which wants a ValueError."""
    try:
        return find_engine(name).name
    except InvalidInput as error:
        raise ValueError(str(error)) from None


def precision_name(name: str) -> str:
    """Return ``name`` if an engine offers that precision; for pydantic."""
    # Entry points are looked up only for a name that no built-in engine has.
    if not any(name in engine.precisions for engine in BUILT_IN.values()) and not any(
        name in engine.precisions for engine in engines().values()
    ):
        raise ValueError(_unknown_precision(name))
    return name


def _unknown_precision(name: str) -> str:
    known = dict.fromkeys(p for engine in engines().values() for p in engine.precisions)
    return f"precision {name!r} is not one of {', '.join(known)}"


def galaxies_at_once(engine: str, batch_size: int) -> int:
    """Return how many galaxies to give to the engine called ``engine`` at once.

    Batches smaller than the engine's chunk are taken together, as many whole ones as fill it: the
    weights are read once for all of them. The plain engine, the yardstick, gets batches as they
    are.
    """
    chunk = find_engine(engine).chunk
    return batch_size if chunk is None else batch_size * -(-chunk // batch_size)
