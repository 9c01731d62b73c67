"""From a bundle to the tensors of the inference graph, by exact algebra.

The graph that engines build from them (see ``cosmicai.engines``) computes what
``cosmicai.model.astromae`` does, with about half the arithmetic:

- every BatchNorm, every LayerNorm's scale and shift, and the scale of the queries are part of
  the layer beside them;
- ``head`` and ``vit_block.0``, and the last layer of each branch and ``concat_block.0``, are one
  layer each; the stem of the inception branch is part of the 1×1 convolutions after it;
- patch bias and position are one constant; the unused 5×5 branch is gone;
- the 3×3 convolutions on 4×4 maps take 36 products instead of 144 (``cosmicai.model.winograd``);
- tokens come first: (17, B, width). In that layout Winograd's transforms are plain matrix
  products on the memory as it lies, and nothing is transposed but for attention.

Their Winograd form makes the convolutions four times as large as in the bundle, so preparing a
bundle where it is used is quicker than downloading the result; on a local disk the prepared
file is quicker, because it is mapped, not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from cosmicai.errors import ModelMismatch
from cosmicai.machine import available_cores
from cosmicai.model.config import GRID, ModelConfig
from cosmicai.model.layout import INCEPTION_POSITIONS, STEM
from cosmicai.model.rewrites import (
    Affine,
    chain,
    chain_concatenated,
    fold_batch_norm,
    fold_layer_norm,
    scale_queries,
    skip_class_token,
    stack,
)
from cosmicai.model.winograd import PRODUCTS, SIDE, transform_kernel
from cosmicai.whole_files import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cosmicai.model.bundle import Bundle

logger = logging.getLogger(__name__)

PREPARED_NAME = "prepared.safetensors"
FORMAT = "4"
"""Changes whenever the tensors below do; a file of another format is prepared afresh."""
_MADV_POPULATE_READ = 22  # from Linux's mman.h; Python has no name for it
_ALIGNMENT = 64  # bytes of a cache line and of the widest vector registers

assert SIDE == GRID  # noqa: S101 (what makes one Winograd tile of a map)

Tensors = dict[str, "NDArray[np.float32]"]
Built = TypeVar("Built")


def prepare(bundle: Bundle, *, threads: int = 1) -> Tensors:
    """Return the tensors of the inference graph, float32, computed by so many threads.

    The keys; a layer has a ``.weight`` (out, in) and a ``.bias`` (out,):

    ``winograd.input``, ``winograd.output``
        The transforms, (36, 17) and (17, 36).
    ``patch.weight``, ``patch.position``, ``class_token``
        (width, 320); patch bias and position as one, (16, 1, width); (1, 1, width).
    ``blocks.i.conv1.winograd``, ``.bias``
        (36, width, conv width), (conv width,).
    ``blocks.i.conv2.winograd``, ``.bias``
        (36, conv width, width), (17, 1, width) with nothing for the class token.
    ``blocks.i.qkv``, ``.proj``, ``.fc1``, ``.fc2``
        Layers; the LayerNorms before them have no scale and shift left.
    ``stem``, ``inception.k.point``, ``.conv3``, ``.conv5``, ``.pool``
        Convolutions of the inception blocks: all 1×1 on the block's input stacked, the 3×3, the
        5×5, and the 1×1 after the pooling, which in the first block needs the stem.
    ``encoder``, ``inception``, ``magnitude.j``
        The layers with ReLU of the branches.
    ``joint``, ``output``
        The joint head.
    """
    parts = Preparation(bundle.tensors(), bundle.astromae).parts()
    # The threads are ours, each with a BLAS of one: OpenBLAS's own spin while they wait, which on
    # a machine with other work takes four times as long, and once hung.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        done: list[Tensors] = list(pool.map(dict, parts))
    return {name: array for part in done for name, array in part.items()}


def build_prepared(bundle: Bundle, build: Callable[[Tensors], Built], *, threads: int) -> Built:
    """Return what ``build`` makes of the prepared tensors.

    They are mapped if ``bundle`` holds their file, else prepared now. That the file is whole and
    was made from this bundle is known when its checksum and the bundle's digest are, which takes as
    long as building: what was built from another file is thrown away.
    """
    path = bundle.path / PREPARED_NAME
    try:
        metadata, tensors = _map_file(path)
    except FileNotFoundError:
        logger.info("preparing the model: %s has no %s", bundle.path, PREPARED_NAME)
    else:
        if metadata.get("format") == FORMAT and metadata.get("config") == _config(bundle):
            with ThreadPoolExecutor(1) as pool:
                checksum = pool.submit(_checksum, dict(tensors), threads)
                built = build(tensors)
            same = metadata.get("digest") == bundle.digest
            if same and metadata.get("checksum") == checksum.result():
                return built
            del built
            reason = "was damaged since it was made" if same else "was made from another model"
        else:
            reason = "was made from another model or version"
        logger.warning("preparing the model: %s %s", path, reason)
    return build(prepare(bundle, threads=threads))


def _config(bundle: Bundle) -> str:
    return bundle.astromae.model_dump_json()


def write_prepared(bundle: Bundle, out: Path) -> Path:
    """Write the prepared tensors to ``out/prepared.safetensors``; return the path.

    The same bundle gives the same bytes. The file is written whole or not at all.
    """
    tensors = prepare(bundle, threads=available_cores())
    # The large ones first: they keep their alignment whatever the sizes of the others.
    names = sorted(tensors, key=lambda name: (not name.endswith(".winograd"), name))
    metadata = {
        "format": FORMAT,
        "config": _config(bundle),
        "digest": bundle.digest,
        "checksum": _checksum(tensors, available_cores()),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name in names:
        end = offset + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    out.mkdir(parents=True, exist_ok=True)
    path = out / PREPARED_NAME
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name]).data)
    return path


def _checksum(tensors: Tensors, threads: int) -> str:
    """Return a checksum of names, shapes and values of the tensors, whatever their order.

    It finds damage. CRC-32, because it is read at every start: a SHA-256 of half a gigabyte takes
    as long as preparing the model.
    """

    def check(name: str) -> str:
        array = np.ascontiguousarray(tensors[name])
        return f"{name} {array.shape} {zlib.crc32(array.data):08x}"

    with ThreadPoolExecutor(threads) as pool:
        lines = list(pool.map(check, sorted(tensors)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _map_file(path: Path) -> tuple[dict[str, str], Tensors]:
    """Map a safetensors file of float32 tensors; the arrays keep the mapping alive."""
    try:
        with path.open("rb") as file:
            # A private mapping: pages are shared with the file until somebody writes, which lets
            # libraries that only take writable memory have it without a copy.
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        with contextlib.suppress(OSError):  # Linux before 5.14 maps a page when it is first read
            memory.madvise(_MADV_POPULATE_READ)
        start = 8 + int.from_bytes(memory[:8], "little")
        header: dict[str, Any] = json.loads(memory[8:start])
        metadata: dict[str, str] = header.pop("__metadata__")
        tensors = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            flat = np.frombuffer(memory, np.float32, (end - begin) // 4, start + begin)
            tensors[name] = _align(flat.reshape(entry["shape"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelMismatch(
            f"{path} is not a whole file of `cosmicai model prepare` ({error}); run it again"
        ) from error
    return metadata, tensors


def _align(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the array itself if it starts at a cache line, else an aligned copy.

    Libraries choose their kernels by alignment, and kernels differ in the last bit.
    """
    if array.ctypes.data % _ALIGNMENT == 0:
        return array
    copy = aligned(array.shape)
    copy[...] = array
    return copy


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an uninitialised array that starts at a cache line, which NumPy's own may not."""
    size = int(np.prod(shape)) * 4
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)


class Convolution(NamedTuple):
    """A 3×3 convolution as stored: float32 (out, in, 3, 3), a gain of each output, (out,)."""

    kernel: NDArray[np.float32]
    gain: NDArray[Any] | None
    bias: NDArray[Any]

    def scaled(self) -> NDArray[np.float32]:
        """Return the kernel with its gain, float32."""
        if self.gain is None:
            return self.kernel.astype(np.float32, copy=False)
        scaled: NDArray[Any] = self.kernel * self.gain[:, None, None, None]
        return scaled.astype(np.float32, copy=False)


class Preparation:
    """One bundle's tensors on their way through the rewrites.

    Parameters
    ----------
    state
        The bundle's tensors.
    config
        Its architecture.
    dtype
        What the rewrites compute in. In float32 they take a third of the time, and redshifts
        differ by about 1e-7.
    """

    def __init__(
        self,
        state: Mapping[str, NDArray[Any]],
        config: ModelConfig,
        dtype: type[np.floating[Any]] = np.float64,
    ) -> None:
        self._state = state
        self._config = config
        self._dtype = dtype

    def parts(self) -> Iterator[Iterator[tuple[str, NDArray[np.float32]]]]:
        """Yield the tensors of the inference graph, in parts that depend on no other."""
        yield from self.ends()
        for block in range(self._config.depth):
            yield _float32(self._block(f"blocks.{block}"), prefix=f"blocks.{block}.")

    def ends(self) -> Iterator[Iterator[tuple[str, NDArray[np.float32]]]]:
        """Yield the tensors before, after and beside the blocks, in such parts."""
        for part in (self._head(), self._encoder_ends(), self._inception()):
            yield _float32(part)

    def _get(self, name: str) -> NDArray[Any]:
        return self._state[name].astype(self._dtype, copy=False)

    def _affine(self, name: str) -> Affine:
        return Affine(self._get(f"{name}.weight"), self._get(f"{name}.bias"))

    def _normalised(self, conv: Affine, name: str) -> Affine:
        with np.errstate(invalid="ignore"):  # a NaN is named where the values are checked
            std = np.sqrt(self._get(f"{name}.running_var") + self._config.batch_norm_eps)
        return fold_batch_norm(
            conv,
            scale=self._get(f"{name}.weight"),
            shift=self._get(f"{name}.bias"),
            mean=self._get(f"{name}.running_mean"),
            std=std,
        )

    def _encoder_ends(self) -> Iterator[tuple[str, NDArray[Any]]]:
        yield from zip(("winograd.input", "winograd.output"), skip_class_token(), strict=True)
        embed = self._affine("patch_embed.proj")
        position = self._get("pos_embed")[0]
        yield "patch.weight", embed.weight.reshape(len(embed.bias), -1)
        yield "patch.position", (position[1:] + embed.bias)[:, None]
        yield "class_token", self._get("cls_token") + position[None, :1]
        head = chain(self._affine("head"), self._affine("vit_block.0"))
        head = fold_layer_norm(self._get("fc_norm.weight"), self._get("fc_norm.bias"), head)
        yield from _named("encoder", head)

    def _block(self, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
        first, second = self.convolutions(name)
        for label, conv in (("conv1", first), ("conv2", second)):
            outputs, inputs = conv.kernel.shape[:2]
            memory = aligned((PRODUCTS, inputs, outputs))
            yield f"{label}.winograd", transform_kernel(conv.scaled(), out=memory)
        yield "conv1.bias", first.bias
        yield (
            "conv2.bias",
            np.pad(np.tile(second.bias, (GRID * GRID, 1, 1)), ((1, 0), (0, 0), (0, 0))),
        )
        yield from self.layers(name)

    def convolutions(self, name: str) -> tuple[Convolution, Convolution]:
        """Return the two convolutions of a block, the first with its batch normalisation."""
        # The kernels stay in float32: they are nine tenths of the model.
        kernel = self._state[f"{name}.PCM.0.weight"]
        unit = Affine(np.ones((len(kernel), 1)), self._get(f"{name}.PCM.0.bias"))
        gain, bias = self._normalised(unit, f"{name}.PCM.1")
        second = Convolution(
            self._state[f"{name}.PCM.3.weight"], None, self._get(f"{name}.PCM.3.bias")
        )
        return Convolution(kernel, gain[:, 0], bias), second

    def layers(self, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the layers of a block's attention and MLP."""
        q_bias, v_bias = self._get(f"{name}.attn.q_bias"), self._get(f"{name}.attn.v_bias")
        bias = np.concatenate([q_bias, np.zeros_like(q_bias), v_bias])
        qkv = Affine(self._get(f"{name}.attn.qkv.weight"), bias)
        qkv = self._after_layer_norm(f"{name}.norm1", qkv)
        yield from _named("qkv", scale_queries(qkv, self._config.head_dim))
        yield from _named("proj", self._affine(f"{name}.attn.proj"))
        first = self._after_layer_norm(f"{name}.norm2", self._affine(f"{name}.mlp.fc1"))
        yield from _named("fc1", first)
        yield from _named("fc2", self._affine(f"{name}.mlp.fc2"))

    def _after_layer_norm(self, name: str, linear: Affine) -> Affine:
        return fold_layer_norm(self._get(f"{name}.weight"), self._get(f"{name}.bias"), linear)

    def _inception(self) -> Iterator[tuple[str, NDArray[Any]]]:
        stem = self._affine(STEM)
        yield from _named("stem", stem)
        last = len(INCEPTION_POSITIONS) - 1
        for block, position in enumerate(INCEPTION_POSITIONS):
            name = f"inception_model.vis_inception.{position}"
            # The last block has a 5×5 branch in the state dict and does not use it.
            firsts = ("branch1", "branch2.0", "branch3.0")[: 2 if block == last else 3]
            point = stack(*(self._conv_block(f"{name}.{first}") for first in firsts))
            if block == 0:
                point = _pointwise(chain(_matrix(stem), _matrix(point)))
            yield from _named(f"inception.{block}.point", point)
            yield from _named(f"inception.{block}.conv3", self._conv_block(f"{name}.branch2.1"))
            if block != last:
                yield from _named(f"inception.{block}.conv5", self._conv_block(f"{name}.branch3.1"))
            yield from _named(f"inception.{block}.pool", self._conv_block(f"{name}.branch4.1"))

    def _conv_block(self, name: str) -> Affine:
        return self._normalised(self._affine(f"{name}.conv"), f"{name}.bn")

    def _head(self) -> Iterator[tuple[str, NDArray[Any]]]:
        inception = "inception_model"
        yield from _named("inception", self._affine(f"{inception}.vis_inception.10"))
        for layer in range(4):
            linear = self._affine(f"{inception}.magnitude_block.{2 * layer}")
            yield from _named(f"magnitude.{layer}", linear)
        lasts = ("vit_block.2", f"{inception}.vis_inception.12", f"{inception}.magnitude_block.8")
        joint = chain_concatenated(
            [self._affine(name) for name in lasts], self._affine("concat_block.0")
        )
        yield from _named("joint", joint)
        yield from _named("output", self._affine("concat_block.2"))


def _float32(
    part: Iterable[tuple[str, NDArray[Any]]], prefix: str = ""
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, array in part:
        yield prefix + name, _align(np.ascontiguousarray(array, np.float32))


def _named(name: str, layer: Affine) -> Iterator[tuple[str, NDArray[Any]]]:
    yield f"{name}.weight", layer.weight
    yield f"{name}.bias", layer.bias


def _matrix(conv: Affine) -> Affine:
    """Return a 1×1 convolution as the matrix that acts on channels."""
    return Affine(conv.weight[:, :, 0, 0], conv.bias)


def _pointwise(linear: Affine) -> Affine:
    return Affine(linear.weight[:, :, None, None], linear.bias)
