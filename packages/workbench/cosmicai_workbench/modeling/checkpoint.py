"""A reference checkpoint → a model bundle, without executing anything in the checkpoint.

The reference saves its model as ``torch.save(DataParallel(model))``: a pickle of whole modules
whose classes are not installed here. They are read as inert stand-ins
(:mod:`cosmicai.safe_pickle`): their tensors come straight from the archive's bytes, and what a
state dict does not hold, the number of heads and the epsilons, from their attributes. Everything
about a module that the architecture of :mod:`cosmicai.model` takes for granted is checked, so that
an import either predicts what the checkpoint predicts, or fails.

Plain state dicts are read as well, and both inside ``.gz``.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from cosmicai.errors import (
    CorruptPartition,
    InvalidInput,
    ModelMismatch,
    ModelNotFound,
    PartitionNotFound,
    UnsafePickle,
    problems_of,
)
from cosmicai.model.architectures import check_layout
from cosmicai.model.bundle import Bundle, save_tensors
from cosmicai.model.config import ModelConfig
from cosmicai.model.layout import INCEPTION_POSITIONS, STEM, STEM_ALIAS, TensorSpec
from cosmicai.partition.archive import CorruptArchive, TensorRef, TorchArchive
from cosmicai.partition.sources import FileSource
from cosmicai.safe_pickle import AllowList, Stub, build_set, kind, stub
from cosmicai.whole_files import whole_folder
from pydantic import ValidationError

from cosmicai_workbench.files import file_errors
from cosmicai_workbench.modeling.bundle_copies import require_only_bundle

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from numpy.typing import NDArray

N = TypeVar("N", int, float)

MAX_UNPACKED_BYTES: Final = 8 * 1024**3
# The full-size model has 508 tensors in some 700 modules. A pickle may name one container many
# times, so that what it describes is bounded apart from its own size.
_MAX_MODULES: Final = 20_000
_MAX_ENTRIES: Final = 100_000
_MAX_NESTING: Final = 32
_MAX_NAME: Final = 256
_MOST_SHARED: Final = 2
"""How often the bytes of a checkpoint may be read: the stem has two names."""
_TOP: Final = "cls_token"
_STATE_DICT_KEYS: Final = ("state_dict", "model_state_dict", "model")

_MODULES: Final = (
    "blocks.model_vit_inception.ViT_Astro",
    "blocks.photoz.ConvBlock",
    "blocks.photoz.InceptionBlock",
    "blocks.photoz.Input_Mix_Model",
    "NormalCell.Attention",
    "NormalCell.Mlp",
    "NormalCell.NormalCell",
    "timm.layers.drop.DropPath",
    "timm.layers.format.Format",
    "timm.layers.mlp.Mlp",
    "timm.layers.patch_embed.PatchEmbed",
    "timm.models.layers.drop.DropPath",
    "timm.models.layers.patch_embed.PatchEmbed",
    "torch.nn.modules.activation.GELU",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.activation.SiLU",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.flatten.Flatten",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.normalization.LayerNorm",
    "torch.nn.modules.pooling.AvgPool2d",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.parallel.data_parallel.DataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
)
ALLOWED: Final[AllowList] = {
    **{name: stub(name) for name in _MODULES},
    "__builtin__.set": build_set,
    "builtins.set": build_set,
    "torch.device": stub("torch.device"),
}
_WRAPPERS: Final = frozenset(name for name in _MODULES if name.startswith("torch.nn.parallel."))


@dataclass(frozen=True)
class Imported:
    """What an import wrote."""

    bundle: Bundle
    tensors: int
    parameters: int
    """Values in all tensors, buffers included."""


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint's tensors, not read yet, and its modules where it holds any."""

    tensors: dict[str, TensorRef]
    modules: dict[str, Stub]


def import_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    heads: int | None = None,
    norm_eps: float | None = None,
    overwrite: bool = False,
) -> Imported:
    """Write the bundle of a checkpoint.

    Parameters
    ----------
    checkpoint
        A file of ``torch.save``: a module, in ``DataParallel`` or not, or a state dict; also
        inside ``.gz``.
    out
        Folder of the bundle; it appears when all is written.
    heads, norm_eps
        Attention heads and the LayerNorms' epsilon, for a state dict, which holds neither;
        a module's own are read from it.
    overwrite
        Replace a folder that is there already.

    Raises
    ------
    UnsafePickle
        The pickle asks for a class or function that no such model has; nothing was executed.
    ModelMismatch
        The model is of another architecture: every tensor or attribute that differs is named.
    ModelNotFound
        There is no such file.
    InvalidInput
        If it is not a complete checkpoint, an option is missing, or ``out`` is in use.
    """
    require_free(out, overwrite=overwrite)
    with _unpacked(checkpoint) as path:
        try:
            source = FileSource(path)
            with contextlib.closing(source):
                found = _read(TorchArchive(source))
                config = _config(found, heads, norm_eps)
                _check_layout(found, config, checkpoint)
                _check_sizes(found, source.size)
                state = {name: ref.read(source) for name, ref in found.tensors.items()}
        except (CorruptArchive, CorruptPartition) as error:
            raise InvalidInput(f"{checkpoint}: {error}") from error
        except UnsafePickle as error:
            raise UnsafePickle(f"{checkpoint}: {error}") from error
        except PartitionNotFound as error:
            raise ModelNotFound(str(error)) from error
    _check_values(state, checkpoint)
    with file_errors(out), whole_folder(out, replace=overwrite) as fresh:
        save_tensors(config, state, fresh)
    return Imported(Bundle(out), len(state), sum(array.size for array in state.values()))


def require_free(out: Path, *, overwrite: bool) -> None:
    """Refuse to write a bundle where there is something else.

    Raises
    ------
    InvalidInput
        There is a file, or a folder that holds something and is not to be replaced.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not overwrite)):
        raise InvalidInput(f"{out} is there already; give another folder, or overwrite it")
    require_only_bundle(out)


@contextlib.contextmanager
def _unpacked(checkpoint: Path) -> Iterator[Path]:
    """Give the file itself, or what is in its ``.gz``, in a temporary file."""
    if checkpoint.suffix != ".gz" or not checkpoint.is_file():
        yield checkpoint
        return
    with tempfile.NamedTemporaryFile(prefix="cosmicai-", suffix=".pt") as unpacked:
        size = 0
        try:
            with gzip.open(checkpoint) as packed:
                while chunk := packed.read(1024 * 1024):
                    size += len(chunk)
                    if size > MAX_UNPACKED_BYTES:
                        raise InvalidInput(
                            f"{checkpoint}: unpacks to more than {MAX_UNPACKED_BYTES} bytes"
                        )
                    unpacked.write(chunk)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InvalidInput(f"{checkpoint} is not a complete gzip file: {error}") from error
        unpacked.flush()
        yield Path(unpacked.name)


# -- from the pickle to tensors by name ----------------------------------------------------------


def _read(archive: TorchArchive) -> _Checkpoint:
    root = archive.load(ALLOWED)
    if isinstance(root, Stub):
        if root.type_name in _WRAPPERS:
            root = _children(root).get("module", root)
        return _from_module(root)
    if isinstance(root, dict):
        for key in _STATE_DICT_KEYS:
            inner = root.get(key)
            if isinstance(inner, Stub):
                return _from_module(inner)
            if isinstance(inner, dict):
                return _from_state_dict(inner)
        return _from_state_dict(root)
    raise CorruptArchive(f"a module or a state dict expected, found {kind(root)}")


def _from_state_dict(state: dict[Any, Any]) -> _Checkpoint:
    tensors = {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, TensorRef)
    }
    if not tensors or len(tensors) != len(state):
        raise CorruptArchive(
            "a state dict (tensors by name) expected, found a dict with "
            f"{len(tensors)} tensors in {len(state)} entries"
        )
    _check_names(tensors)
    prefix = _prefix(tensors)
    return _Checkpoint({n.removeprefix(prefix): value for n, value in tensors.items()}, {})


def _prefix(names: Iterable[str]) -> str:
    """Return what DataParallel, torch.compile or Lightning put before the model's own names.

    Such as ``module.``, ``_orig_mod.``, ``model.`` and any of them in turn: whatever comes before
    the one tensor that every model has once, at its top.
    """
    found = [name.removesuffix(_TOP) for name in names if name.endswith(_TOP)]
    return found[0] if len(found) == 1 and found[0].endswith(".") else ""


def _check_names(names: Collection[str]) -> None:
    if len(names) > _MAX_MODULES:
        raise CorruptArchive(f"at most {_MAX_MODULES} tensors expected, found {len(names)}")
    longest = max(map(len, names), default=0)
    if longest > _MAX_NAME:
        raise CorruptArchive(f"names of at most {_MAX_NAME} characters expected, found {longest}")


def _from_module(root: Any) -> _Checkpoint:
    """Name the tensors of a module as its ``state_dict()`` would."""
    if not isinstance(root, Stub):
        raise CorruptArchive(f"a module expected, found {kind(root)}")
    modules: dict[str, Stub] = {}
    tensors: dict[str, TensorRef] = {}
    entries = 0
    pending: list[tuple[str, Stub]] = [("", root)]
    while pending:
        name, module = pending.pop()
        modules[name] = module
        groups = [_mapping(module, group) for group in ("_parameters", "_buffers", "_modules")]
        passing = module.state.get("_non_persistent_buffers_set", ())
        passing = passing if isinstance(passing, list | set) else ()
        entries += sum(map(len, (*groups, passing)))
        if len(modules) > _MAX_MODULES or entries > _MAX_ENTRIES or name.count(".") > _MAX_NESTING:
            raise CorruptArchive("too many modules or tensors, or modules within themselves")
        _check_names([name, *(f"{name}.{key}" for group in groups for key in group)])
        prefix = f"{name}." if name else ""
        left_out = {key for key in passing if isinstance(key, str)}
        for key, value in (item for group in groups[:2] for item in group.items()):
            if value is None or key in left_out:
                continue
            if not isinstance(value, TensorRef):
                raise CorruptArchive(f"{prefix}{key}: a tensor expected, found {kind(value)}")
            tensors[f"{prefix}{key}"] = value
        children = [(f"{prefix}{key}", child) for key, child in _children(module).items()]
        pending += reversed(children)
    return _Checkpoint(tensors, modules)


def _mapping(module: Stub, group: str) -> dict[str, Any]:
    value = module.state.get(group, {})
    if not isinstance(value, dict) or any(type(key) is not str for key in value):
        raise CorruptArchive(f"{module.type_name}.{group}: names expected, found {kind(value)}")
    return value


def _children(module: Stub) -> dict[str, Stub]:
    children = {key: child for key, child in _mapping(module, "_modules").items() if child}
    for key, child in children.items():
        if not isinstance(child, Stub):
            raise CorruptArchive(f"{key}: a module expected, found {kind(child)}")
    return children


# -- from tensors and attributes to the architecture ---------------------------------------------


def _config(found: _Checkpoint, heads: int | None, norm_eps: float | None) -> ModelConfig:
    """Read the architecture: widths from shapes, the rest from the modules or the options.

    A width whose tensor is missing keeps its default; the check of the layout then names it.
    """
    if not found.modules and heads is None:
        raise InvalidInput("a state dict does not hold the number of attention heads: give it")
    blocks = {name.split(".")[1] for name in found.tensors if name.startswith("blocks.")}
    widths = {
        "width": _size(found, "cls_token", 2),
        "mlp_width": _size(found, "blocks.0.mlp.fc1.weight"),
        "conv_width": _size(found, "blocks.0.PCM.0.weight"),
        "branch_width": _size(found, "vit_block.0.weight"),
        "magnitude_width": _size(found, "inception_model.magnitude_block.0.weight"),
        "head_width": _size(found, "concat_block.0.weight"),
        "stem_width": _size(found, f"{STEM}.weight"),
    }
    branches = [
        _size(found, f"inception_model.vis_inception.{position}.branch1.conv.weight")
        for position in INCEPTION_POSITIONS
    ]
    values: dict[str, Any] = {name: size for name, size in widths.items() if size is not None}
    values["depth"] = len(blocks) or ModelConfig().depth
    if None not in branches:
        values["inception_widths"] = tuple(branches)
    if found.modules:
        values |= _attributes(found.modules, values.get("width", ModelConfig().width))
    for name, option in (("heads", heads), ("norm_eps", norm_eps)):
        if option is not None and option != values.setdefault(name, option):
            raise InvalidInput(f"{name}: {option} given, but the checkpoint has {values[name]}")
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        raise ModelMismatch(
            f"the checkpoint is of another architecture: {problems_of(error)}"
        ) from None


def _size(found: _Checkpoint, name: str, axis: int = 0) -> int | None:
    ref = found.tensors.get(name)
    return ref.shape[axis] if ref is not None and len(ref.shape) > axis else None


# What the architecture takes for granted and no tensor shows: a module's class, by its name …
_CLASSES: Final = tuple(
    (re.compile(name), f"torch.nn.modules.{class_name}")
    for name, class_name in (
        (r"blocks\.\d+\.PCM\.2", "activation.SiLU"),
        (r"blocks\.\d+\.mlp\.act", "activation.GELU"),
        (r"(vit_block|concat_block)\.1", "activation.ReLU"),
        (r"inception_model\.magnitude_block\.[1357]", "activation.ReLU"),
        (r"inception_model\.vis_inception\.11", "activation.ReLU"),
        (r"inception_model\.vis_inception\.[147]", "pooling.AvgPool2d"),
    )
)
# … and an attribute's value, by its module's class.
_ATTRIBUTES: Final = (
    ("torch.nn.modules.activation.GELU", "approximate", "none"),
    ("NormalCell.NormalCell", "class_token", True),
    *(
        (f"timm.{package}.patch_embed.PatchEmbed", "flatten", True)
        for package in ("layers", "models.layers")
    ),
    ("blocks.photoz.Input_Mix_Model", "Inception_only", False),
    ("blocks.photoz.Input_Mix_Model", "magnitude", True),
    ("blocks.photoz.Input_Mix_Model", "uk_paper", False),
)


def _check_modules(modules: dict[str, Stub]) -> None:
    for name, module in modules.items():
        for pattern, expected in _CLASSES:
            if pattern.fullmatch(name) and module.type_name != expected:
                raise ModelMismatch(f"{name}: {expected} expected, found {module.type_name}")
        for class_name, attribute, value in _ATTRIBUTES:
            found = module.state.get(attribute, value)
            if module.type_name == class_name and (
                type(found) is not type(value) or found != value
            ):
                raise ModelMismatch(f"{name}.{attribute}: {value!r} expected, found another value")


def _attributes(modules: dict[str, Stub], width: int) -> dict[str, Any]:
    """Read what no tensor holds, and check that it is alike wherever the architecture says so."""
    _check_modules(modules)
    heads = _only(modules, "NormalCell.Attention", "num_heads", int)
    if heads < 1:
        raise ModelMismatch(f"1 or more attention heads expected, found {heads}")
    scale = (width // heads) ** -0.5 if width >= heads else 0.0
    found = _only(modules, "NormalCell.Attention", "scale", float)
    if abs(found - scale) > 1e-6 * scale:
        raise ModelMismatch(f"attention scale {scale} (head width ** -0.5) expected, found {found}")
    norms = "torch.nn.modules.normalization.LayerNorm", "torch.nn.modules.batchnorm.BatchNorm2d"
    return {
        "heads": heads,
        "norm_eps": _only(modules, norms[0], "eps", float),
        "batch_norm_eps": _only(modules, norms[1], "eps", float),
    }


def _only(modules: dict[str, Stub], class_name: str, attribute: str, expected: type[N]) -> N:
    """Return the value of an attribute that all modules of a class share."""
    first: tuple[str, N] | None = None
    for name, module in modules.items():
        if module.type_name != class_name:
            continue
        value = module.state.get(attribute)
        if type(value) is not expected:
            raise ModelMismatch(f"{name}.{attribute}: a number expected, found {kind(value)}")
        first = first or (name, value)
        if value != first[1]:
            raise ModelMismatch(
                f"one {attribute} throughout expected, found {first[1]} in {first[0]}, "
                f"{value} in {name}"
            )
    if first is None:
        raise ModelMismatch(f"a {class_name}, which says its {attribute}, expected; found none")
    return first[1]


def _check_layout(found: _Checkpoint, config: ModelConfig, checkpoint: Path) -> None:
    specs = {name: TensorSpec(ref.shape, ref.dtype) for name, ref in found.tensors.items()}
    check_layout(specs, config, str(checkpoint))


def _check_sizes(found: _Checkpoint, size: int) -> None:
    """Refuse tensors that share bytes so often that a small file would make a huge model."""
    needed = sum(ref.numel * ref.storage.itemsize for ref in found.tensors.values())
    if needed > _MOST_SHARED * size:
        raise CorruptArchive(
            f"tensors of {needed:,} bytes in a file of {size:,}: they share their storage"
        )


def _check_values(state: dict[str, NDArray[Any]], checkpoint: Path) -> None:
    broken = [name for name, array in state.items() if not np.isfinite(array).all()]
    if broken:
        raise ModelMismatch(
            f"{checkpoint}: {len(broken)} tensors hold NaN or infinity, so that every prediction "
            f"would be: {', '.join(broken[:8])}"
        )
    for part in ("weight", "bias"):
        names = f"{STEM}.{part}", f"{STEM_ALIAS}.{part}"
        if not np.array_equal(state[names[0]], state[names[1]]):
            raise ModelMismatch(
                f"{checkpoint}: {' and '.join(names)} are two names of one tensor, but differ"
            )
