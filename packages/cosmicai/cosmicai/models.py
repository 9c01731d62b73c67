"""Open a model bundle, to predict with it in a notebook or a script."""

from __future__ import annotations

from pathlib import Path

from cosmicai.engines.registry import installed_engine
from cosmicai.errors import InvalidInput
from cosmicai.machine import available_cores
from cosmicai.model.bundle import Bundle
from cosmicai.prediction import Predictor


def open_model(
    where: str | Path,
    *,
    engine: str | None = None,
    precision: str = "float32",
    threads: int | None = None,
    device: str = "cpu",
) -> Predictor:
    """Load a model bundle.

    Parameters
    ----------
    where
        Its folder, or ``s3://bucket/folder``.
    engine
        Name of the engine that predicts; by default the fastest that is installed.
    precision
        Arithmetic of the engine.
    threads
        Threads to compute with; by default one per core.
    device
        ``cpu``, or ``cuda`` for an NVIDIA GPU, by the engine ``torch``.

    Returns
    -------
    Predictor
        See its ``predict`` and ``predict_partitions``.

    Raises
    ------
    ModelNotFound, ModelMismatch
        There is no bundle, or its tensors do not match its config.
    InvalidInput
        No such engine or precision, the engine does not offer the precision, or no engine is
        installed.
    TransientStorageError, StorageDenied
        S3 failed, or refuses access.
    """
    count = available_cores() if threads is None else threads

    def load(bundle: Bundle) -> Predictor:
        name = engine or installed_engine(bundle.architecture.name, precision, device).name
        return Predictor.load(bundle, name, threads=count, precision=precision, device=device)

    if not isinstance(where, str) or not where.startswith("s3://"):
        return load(Bundle(Path(where)))
    bucket, _, folder = where.removeprefix("s3://").partition("/")
    if not bucket or not folder.strip("/"):
        raise InvalidInput(f"{where}: an address s3://bucket/folder expected")
    from cosmicai import model_cache  # brings what functions log with, which costs time

    version = model_cache.current_version(bucket, folder)
    return model_cache.with_bundle(bucket, folder, version, load)
