"""The prepared model in our own C (``packages/cosmicai/native``): the fastest engine for AstroMAE.

Needs NumPy alone, and starts from the bundle: the Winograd form of the kernels is computed while
they are packed, by all threads, in about the time that reading a prepared file would take.
"""

from __future__ import annotations

import ctypes
import importlib.util
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from cosmicai.engines.base import check_batch, one_or_more
from cosmicai.errors import InvalidInput
from cosmicai.model.prepare import Preparation, Tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cosmicai.model.bundle import Bundle
    from cosmicai.model.config import ModelConfig

PARTS = (
    "transforms",
    "convolutions",
    "attention",
    "qkv and proj",
    "mlp",
    "gelu",
    "norms",
    "inception",
    "heads",
    "embedding",
    "other products",
)
"""The parts whose time :meth:`NativeEngine.seconds` gives, in the library's order."""

_Floats = ctypes.POINTER(ctypes.c_float)
_SIZES = (
    "depth",
    "width",
    "heads",
    "mlp_width",
    "conv_width",
    "branch_width",
    "magnitude_width",
    "head_width",
    "stem_width",
)
_LAYERS = ("qkv", "proj", "fc1", "fc2")
_BRANCHES = ("point", "conv3", "conv5", "pool")
_INSTRUCTION_SETS = {"float32": None, "float16": "neon_half"}
"""Precision → the instruction set to ask for; None: the widest."""
_INCEPTION_BLOCKS = 5
_MAGNITUDE_LAYERS = 4


class _Layer(ctypes.Structure):
    _fields_ = [("weight", _Floats), ("bias", _Floats)]


class _Convolution(ctypes.Structure):
    _fields_ = [("kernel", _Floats), ("gain", _Floats), ("bias", _Floats)]


class _Block(ctypes.Structure):
    _fields_ = [
        ("first", _Convolution),
        ("second", _Convolution),
        *((name, _Layer) for name in _LAYERS),
    ]


class _InceptionBlock(ctypes.Structure):
    _fields_ = [(name, _Layer) for name in _BRANCHES]


class _Tensors(ctypes.Structure):
    """``Tensors`` of ``native.h``, field by field."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in _SIZES),
        ("outputs", ctypes.c_int32),
        ("inception_widths", ctypes.c_int32 * _INCEPTION_BLOCKS),
        ("norm_eps", ctypes.c_float),
        ("patch_weight", _Floats),
        ("patch_position", _Floats),
        ("class_token", _Floats),
        ("blocks", ctypes.POINTER(_Block)),
        ("stem", _Layer),
        ("inception_blocks", _InceptionBlock * _INCEPTION_BLOCKS),
        ("encoder", _Layer),
        ("inception", _Layer),
        ("magnitude", _Layer * _MAGNITUDE_LAYERS),
        ("joint", _Layer),
        ("output", _Layer),
    ]


class _Marshalling:
    """A bundle's tensors as the library's struct; the arrays live as long as this does."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._arrays: list[NDArray[np.float32]] = []
        preparation = Preparation(bundle.tensors(), bundle.astromae, np.float32)
        # A BLAS of one thread in each of ours, as in cosmicai.model.prepare.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
            parts: list[Tensors] = list(pool.map(dict, preparation.ends()))
        self._tensors = {name: array for part in parts for name, array in part.items()}
        self.struct = self._struct(preparation, bundle.astromae)

    def _struct(self, preparation: Preparation, config: ModelConfig) -> _Tensors:
        struct = _Tensors(*(getattr(config, name) for name in _SIZES), config.output.values)
        struct.inception_widths[:] = config.inception_widths
        struct.norm_eps = config.norm_eps
        struct.patch_weight = self._floats(self._tensors["patch.weight"])
        struct.patch_position = self._floats(self._tensors["patch.position"])
        struct.class_token = self._floats(self._tensors["class_token"])
        self._blocks = (_Block * config.depth)()
        for index in range(config.depth):
            self._fill_block(self._blocks[index], preparation, f"blocks.{index}")
        struct.blocks = self._blocks
        for index in range(_INCEPTION_BLOCKS):
            for name in _BRANCHES:
                layer = self._layer(f"inception.{index}.{name}")
                setattr(struct.inception_blocks[index], name, layer)
        for index in range(_MAGNITUDE_LAYERS):
            struct.magnitude[index] = self._layer(f"magnitude.{index}")
        for name in ("stem", "encoder", "inception", "joint", "output"):
            setattr(struct, name, self._layer(name))
        return struct

    def _fill_block(self, block: _Block, preparation: Preparation, name: str) -> None:
        for field, conv in zip(("first", "second"), preparation.convolutions(name), strict=True):
            setattr(block, field, _Convolution(*map(self._floats, conv)))
        layers = dict(preparation.layers(name))
        for field in _LAYERS:
            values = self._floats(layers[f"{field}.weight"]), self._floats(layers[f"{field}.bias"])
            setattr(block, field, _Layer(*values))

    def _layer(self, name: str) -> _Layer:
        weight, bias = self._tensors.get(f"{name}.weight"), self._tensors.get(f"{name}.bias")
        return _Layer(self._floats(weight), self._floats(bias))

    def _floats(self, array: NDArray[Any] | None) -> Any:
        if array is None:
            return None
        aligned = np.require(array, np.float32, ("C", "A"))
        self._arrays.append(aligned)
        return aligned.ctypes.data_as(_Floats)


class NativeSet:
    """The library's kernels for one instruction set: that of the name, or the widest in float32.

    Raises
    ------
    InvalidInput
        The processor lacks it.
    """

    def __init__(self, name: str | None = None) -> None:
        self.library = _load_library()
        self.pointer = self.library.cosmicai_instruction_set(name.encode() if name else None)
        if not self.pointer:
            choice = "precision float32" if name else "engine openvino, torch or plain"
            raise InvalidInput(
                f"engine 'native' needs {name or 'AVX2 and FMA, or arm64'}, which this processor "
                f"lacks; choose {choice}"
            )
        found: bytes = self.library.cosmicai_name(self.pointer)
        self.name = found.decode()


class NativeEngine:
    """The model in C: float32 throughout, or with the large products in float16.

    The same galaxies give the same bits in any batch and with any number of threads.

    Parameters
    ----------
    bundle
        The model.
    threads
        Threads to compute with.
    instruction_set
        ``avx2``, ``avx512``, ``neon``, or ``neon_half`` for float16; by default the widest in
        float32 that the processor has.

    Raises
    ------
    InvalidInput
        The processor lacks the instruction set.
    MemoryError
        The model does not fit.
    """

    name = "native"

    def __init__(self, bundle: Bundle, threads: int, instruction_set: str | None = None) -> None:
        self._native = native = NativeSet(instruction_set)
        tensors = _Marshalling(bundle, threads)
        self._outputs = bundle.config.output.values
        struct = ctypes.byref(tensors.struct)
        model = native.library.cosmicai_create(native.pointer, struct, threads)
        if not model:
            raise MemoryError(f"engine 'native': no memory for the model in {bundle.path}")
        self._model = model
        self._inputs = bundle.config.inputs
        weakref.finalize(self, native.library.cosmicai_destroy, native.pointer, model)

    @property
    def instruction_set(self) -> str:
        """``avx2``, ``avx512``, ``neon`` or ``neon_half``."""
        return self._native.name

    def predict(
        self, image: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See ``cosmicai.engines.base.Engine.predict``."""
        check_batch(image, values, self._inputs)
        contiguous = (np.require(array, requirements=("C", "A")) for array in (image, values))
        output = np.empty((len(image), self._outputs), np.float32)
        arrays = (*contiguous, output)
        arguments = (array.ctypes.data_as(_Floats) for array in arrays)
        native = self._native
        native.library.cosmicai_predict(native.pointer, self._model, *arguments, len(image))
        return one_or_more(output)

    def seconds(self) -> dict[str, float]:
        """Return the seconds that each of ``PARTS`` has taken, summed over threads."""
        nanoseconds = (ctypes.c_int64 * len(PARTS))()
        native = self._native
        native.library.cosmicai_times(native.pointer, self._model, nanoseconds)
        return {part: value * 1e-9 for part, value in zip(PARTS, nanoseconds, strict=True)}


def widest_instruction_set() -> str:
    """Return the instruction set that the engine takes on this processor.

    Raises
    ------
    InvalidInput
        It has none of those that there are kernels for.
    """
    return NativeSet().name


def create(bundle: Bundle, threads: int, precision: str) -> NativeEngine:
    """Build the engine in a precision that its declaration offers on this processor."""
    return NativeEngine(bundle, threads, _INSTRUCTION_SETS[precision])


def _load_library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("cosmicai.engines._native")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the native engine's library is not built")
    library = ctypes.CDLL(spec.origin)
    _check_sizes(library, spec.origin)
    declared: Iterable[tuple[str, Any, list[Any]]] = (
        ("instruction_set", ctypes.c_void_p, [ctypes.c_char_p]),
        ("name", ctypes.c_char_p, [ctypes.c_void_p]),
        ("create", ctypes.c_void_p, [ctypes.c_void_p, ctypes.POINTER(_Tensors), ctypes.c_int]),
        (
            "predict",
            None,
            [ctypes.c_void_p, ctypes.c_void_p, _Floats, _Floats, _Floats, ctypes.c_int64],
        ),
        (
            "times",
            None,
            [ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64)],
        ),
        ("destroy", None, [ctypes.c_void_p, ctypes.c_void_p]),
    )
    for name, result, arguments in declared:
        function = getattr(library, f"cosmicai_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _check_sizes(library: ctypes.CDLL, path: str) -> None:
    """Refuse a library of other sources: it would read other tensors, and predict nonsense."""
    sizes = (ctypes.c_int32 * 2)()
    if hasattr(library, "cosmicai_sizes"):
        library.cosmicai_sizes(sizes)
    if list(sizes) != [ctypes.sizeof(_Tensors), len(PARTS)]:
        raise InvalidInput(
            f"engine 'native': {path} was compiled from the sources of another version; reinstall "
            "cosmicai (in a checkout: make setup; of a stack: sam build, sam deploy)"
        )
