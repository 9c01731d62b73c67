"""The loaded model of a sandbox: downloaded and built once, kept while the sandbox lives."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from cosmicai import keys, storage
from cosmicai.errors import (
    InvalidInput,
    ModelMismatch,
    ModelNotFound,
    ObjectNotFound,
    PreconditionFailed,
    load_json,
)
from cosmicai.observability import logger
from cosmicai.prediction import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable

    from cosmicai.model.architectures import Architecture
    from cosmicai.model.bundle import Bundle
    from cosmicai.model.interface import ArchitectureConfig
    from cosmicai.model.layout import TensorSpec
    from cosmicai.schema import ManifestItem

Built = TypeVar("Built")


def load(item: ManifestItem, threads: int) -> tuple[Predictor, float]:
    """Return the rank's model and the seconds it took to load: 0.0 if the sandbox has it.

    Raises
    ------
    ModelNotFound
        If the folder lacks a file of the bundle.
    ModelMismatch
        If the bundle changed since the execution was planned, or its tensors do not match its
        config.
    InvalidInput
        If the engine does not offer the precision.
    """
    version = item.MODEL_VERSION or current_version(item.S3_BUCKET, item.S3_OBJECT_NAME)
    arguments = (
        item.S3_BUCKET, item.S3_OBJECT_NAME, version, item.ENGINE, item.PRECISION, threads,
    )  # fmt: skip
    hits = _load.cache_info().hits
    started = time.perf_counter()
    model = _load(*arguments)
    if _load.cache_info().hits > hits:
        return model, 0.0
    seconds = time.perf_counter() - started
    logger.info("model loaded", extra={"engine": item.ENGINE, "seconds": round(seconds, 3)})
    return model, seconds


def preload(bucket: str, folder: str, engine: str, precision: str, threads: int) -> None:
    """Load a bundle before the first rank needs it.

    Raises
    ------
    ModelNotFound, ModelMismatch
        As :func:`load`.
    """
    _load(bucket, folder, current_version(bucket, folder), engine, precision, threads)


class StoredBundle(NamedTuple):
    """A bundle in S3."""

    architecture: Architecture
    config: ArchitectureConfig
    files: dict[str, storage.StoredObject]
    """By name, in the order of the architecture's files."""

    @property
    def version(self) -> str:
        """The ETags of its files."""
        return " ".join(file.etag for file in self.files.values())


def check(bucket: str, folder: str) -> StoredBundle:
    """Make sure that the bundle is one, before any rank starts, and return what it is.

    Reads the config and the header of the weights, some 60 kB, or the graph of a model from ONNX,
    and needs neither NumPy nor the weights themselves.

    Raises
    ------
    ModelNotFound
        If a file of the bundle is missing.
    ModelMismatch
        If the config is not valid, the weights are not a safetensors file, or the tensors do not
        match the config; each is named. Or the graph is not one that may be run.
    """
    from cosmicai.model.architectures import check_layout
    from cosmicai.model.layout import (
        CALIBRATION_NAME,
        CONSTANTS_NAME,
        GRAPH_NAME,
        WEIGHTS_NAME,
    )

    found = _look_up(bucket, folder)
    if found.architecture.layout:
        weights = found.files[WEIGHTS_NAME]
        where = f"s3://{bucket}/{weights.key}"
        check_layout(_layout(bucket, weights, where), found.config, where)
    if found.architecture.check_graph:
        graph, constants = found.files[GRAPH_NAME], found.files[CONSTANTS_NAME]
        where = f"s3://{bucket}/{graph.key}"
        description = storage.store(bucket).read(graph.key, if_match=graph.etag)
        found.architecture.check_graph(description, constants.size, found.config, where)
    if file := found.files.get(CALIBRATION_NAME):
        from cosmicai.calibration import read_calibration

        where = f"s3://{bucket}/{file.key}"
        read_calibration(storage.store(bucket).read(file.key, if_match=file.etag), where)
    return found


def _layout(bucket: str, file: storage.StoredObject, where: str) -> dict[str, TensorSpec]:
    """Read the header of a safetensors file: 8 bytes of its length, then JSON."""
    from cosmicai.model.layout import MAX_HEADER_BYTES, SAFETENSORS_DTYPES, TensorSpec

    def require(holds: bool, problem: str) -> None:
        if not holds:
            raise ValueError(problem)

    def read(first: int, last: int) -> bytes:
        require(last <= file.size, f"{last} bytes or more expected, found {file.size}")
        return storage.store(bucket).read(file.key, if_match=file.etag, span=(first, last))

    try:
        length = int.from_bytes(read(0, 8), "little")
        require(2 <= length <= MAX_HEADER_BYTES, f"its header would have {length} bytes")
        header = load_json(read(8, 8 + length))
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        data_bytes = max(tensor["data_offsets"][1] for tensor in tensors.values())
        expected = 8 + length + data_bytes
        require(expected == file.size, f"{expected} bytes expected, found {file.size}")
        return {
            name: TensorSpec(
                tuple(tensor["shape"]), SAFETENSORS_DTYPES.get(tensor["dtype"], tensor["dtype"])
            )
            for name, tensor in tensors.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelMismatch(f"{where} is not a whole safetensors file: {error}") from None


def current_version(bucket: str, folder: str) -> str:
    """Return the ETags of the bundle's files, which name this version of it.

    Raises
    ------
    ModelNotFound
        If a file of the bundle is missing.
    ModelMismatch
        If its config is not valid, or a file is larger than the config lets it be.
    """
    return _look_up(bucket, folder).version


def _look_up(bucket: str, folder: str) -> StoredBundle:
    """Read a bundle's config and look its other files up."""
    from cosmicai.model.architectures import ARCHITECTURES, DEFAULT, read_config, require_size
    from cosmicai.model.layout import CONFIG_NAME, MAX_CONFIG_BYTES

    store, key = storage.store(bucket), keys.model_file(folder, CONFIG_NAME)

    def missing(key: str, architecture: Architecture) -> ModelNotFound:
        return ModelNotFound(
            f"key 'S3_object_name': {store.address(key)} does not exist; upload a model "
            f"bundle ({' and '.join(architecture.files)}) there"
        )

    try:
        content = store.read_content(key, most=MAX_CONFIG_BYTES)
    except ObjectNotFound as error:
        raise missing(key, ARCHITECTURES[DEFAULT]) from error
    except InvalidInput as error:
        raise ModelMismatch(str(error)) from error
    architecture, config = read_config(content.body, store.address(key))
    files = {CONFIG_NAME: storage.StoredObject(key, len(content.body), content.etag)}
    for name in (*architecture.files[1:], *architecture.optional_files):
        key = keys.model_file(folder, name)
        if file := store.find(key):
            require_size(name, file.size, config, store.address(key))
            files[name] = file
        elif name in architecture.files:
            raise missing(key, architecture)
    return StoredBundle(architecture, config, files)


@functools.lru_cache(maxsize=1)  # a second model would not fit beside the first
def _load(
    bucket: str, folder: str, version: str, engine: str, precision: str, threads: int
) -> Predictor:
    def build(bundle: Bundle) -> Predictor:
        return Predictor.load(bundle, engine, threads=threads, precision=precision)

    return with_bundle(bucket, folder, version, build)


def with_bundle(bucket: str, folder: str, version: str, build: Callable[[Bundle], Built]) -> Built:
    """Return what ``build`` makes of this version of a bundle, downloaded if it is not there yet.

    Sandboxes on one machine, of one user, share a copy. It appears whole, by renaming, under a name
    that holds its digest; a copy that is found and was damaged since is replaced.

    Raises
    ------
    ModelNotFound, ModelMismatch
        The bundle is gone, was changed meanwhile, or is not valid; or what ``build`` raises.
    """
    from cosmicai.model.bundle import Bundle

    root = _private_folder()
    name = hashlib.sha256("\n".join((bucket, folder, version)).encode()).hexdigest()[:32]
    for cached in sorted(root.glob(f"{name}-*")):
        try:
            bundle = Bundle(cached)
            built = build(bundle)
            if bundle.digest == cached.name.partition("-")[2]:
                return built
            del built
        except (ModelNotFound, ModelMismatch, OSError) as error:
            logger.warning("the copy of the model is damaged", extra={"reason": str(error)})
        discarded = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=root))
        with contextlib.suppress(OSError):  # another sandbox was faster
            cached.rename(discarded / "damaged")
        shutil.rmtree(discarded, ignore_errors=True)
    return build(Bundle(_download(root, name, bucket, folder, version)))


def _private_folder() -> Path:
    """Return a folder for copies that no other user can write to.

    The usual one may have been put there by somebody else; then this process has one of its own.
    """
    root = Path(tempfile.gettempdir()) / f"cosmicai-models-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    found = root.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        return root
    logger.warning("not a private folder of this user", extra={"folder": str(root)})
    return _own_folder()


@functools.cache
def _own_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cosmicai-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _download(root: Path, name: str, bucket: str, folder: str, version: str) -> Path:
    """Download this version of the bundle into a folder below ``root``, and return that."""
    from cosmicai.model.architectures import load_config, most_bytes
    from cosmicai.model.bundle import Bundle
    from cosmicai.model.layout import CONFIG_NAME, MAX_CONFIG_BYTES

    config_etag, *etags = version.split()
    partial = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=root))

    def download(file: str, etag: str, most: int) -> None:
        key = keys.model_file(folder, file)
        try:
            storage.store(bucket).download(key, partial / file, if_match=etag, most=most)
        except InvalidInput as error:
            raise ModelMismatch(str(error)) from error
        except ObjectNotFound as error:
            raise ModelNotFound(f"s3://{bucket}/{key} does not exist any more") from error
        except PreconditionFailed as error:
            raise ModelMismatch(
                f"s3://{bucket}/{key} changed since this execution was planned; start another"
            ) from error

    try:
        download(CONFIG_NAME, config_etag, MAX_CONFIG_BYTES)
        architecture, config = load_config(partial)
        names = (*architecture.files[1:], *architecture.optional_files)
        for file, etag in zip(names, etags, strict=False):  # it may lack the optional one
            download(file, etag, most_bytes(file, config))
        target = root / f"{name}-{Bundle(partial).digest}"
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another sandbox was first, with the same files
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
