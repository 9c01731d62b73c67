"""Put a model bundle and partitions where an execution's input says they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmicai.errors import InvalidInput
from cosmicai.keys import folder, model_file
from cosmicai.model.architectures import bundle_files
from cosmicai.model.bundle import Bundle
from cosmicai.partition.reader import open_partition
from cosmicai.sharing import partition_files

from cosmicai_workbench.data.uploading import upload_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cosmicai.schema import ExecutionInput

    from cosmicai_workbench.client.connection import Connection


def files_to_upload(
    content: ExecutionInput, *, model: Path | None, data: Path | None
) -> dict[tuple[str, str], Path]:
    """Return which file belongs at which bucket and key.

    Parameters
    ----------
    model
        Folder of a model bundle, for ``S3_object_name``; None if it is there already.
    data
        Folder of partitions (``*.pt``), for ``data_prefix``; None if they are there already.

    Raises
    ------
    ModelNotFound, ModelMismatch, InvalidInput
        If a folder does not hold what it should.
    """
    files: dict[tuple[str, str], Path] = {}
    if model is not None:
        for path in bundle_files(model):
            files[content.bucket, model_file(content.S3_object_name, path.name)] = path
    if data is not None:
        for path in _partitions(data):
            files[content.data_bucket, folder(content.data_prefix) + path.name] = path
    return files


def check_contents(*, model: Path | None, data: Path | None) -> None:
    """Make sure, before anything is spent, that folders hold a model and partitions.

    The model's files and the first partition are opened; nothing is read whole.

    Raises
    ------
    ModelNotFound, ModelMismatch
        If ``model`` is not a model bundle.
    InvalidInput, CorruptPartition, UnsafePickle
        If ``data`` holds no partitions, or the first cannot be read.
    PartitionMismatch
        If the first is not what the model takes.
    """
    inputs = Bundle(model).config.inputs if model is not None else None
    if data is not None:
        with open_partition(_partitions(data)[0], batch_size=1, inputs=inputs):
            pass


def _partitions(data: Path) -> list[Path]:
    found = partition_files(data)
    if not found:
        why = "" if data.is_dir() else ": there is no such folder"
        raise InvalidInput(
            f"{data} holds no partitions (*.pt){why}; make some by `cosmicai data split` or "
            "`from-fits`"
        )
    return found


def upload(
    connection: Connection,
    files: dict[tuple[str, str], Path],
    on_bytes: Callable[[int], None] = lambda _: None,
    *,
    replace: bool = False,
) -> None:
    """Upload files, but for what is there already; see :func:`upload_files` for the errors.

    Parameters
    ----------
    replace
        Remove partitions of another data set from the folder, instead of refusing to add to it.
    """
    upload_files(connection.s3, files, on_bytes, others="remove" if replace else "refuse")
