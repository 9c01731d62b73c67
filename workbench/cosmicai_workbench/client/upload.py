"""Put a model bundle and partitions where an execution's input says they are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from cosmicai.errors import CosmicAIError, InvalidInput, ModelNotFound
from cosmicai.keys import MODEL_FILES, folder, model_file

from cosmicai_workbench.client.connection import PARALLEL_TRANSFERS

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
    ModelNotFound, InvalidInput
        If a folder does not hold what it should.
    """
    files: dict[tuple[str, str], Path] = {}
    if model is not None:
        for name in MODEL_FILES:
            path = model / name
            if not path.is_file():
                raise ModelNotFound(f"{model} is no model bundle: it has no {name}")
            files[content.bucket, model_file(content.S3_object_name, name)] = path
    if data is not None:
        partitions = sorted(data.glob("*.pt"))
        if not partitions:
            raise InvalidInput(f"{data} holds no partitions (*.pt); make some by `cosmicai data`")
        for path in partitions:
            files[content.data_bucket, folder(content.data_prefix) + path.name] = path
    return files


def upload(
    connection: Connection,
    files: dict[tuple[str, str], Path],
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Upload files in parallel, the large ones in parts.

    Raises
    ------
    CosmicAIError
        If one could not be uploaded; it names the first.
    """
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError

    def put(item: tuple[tuple[str, str], Path]) -> None:
        (bucket, key), path = item
        try:
            connection.s3.upload_file(str(path), bucket, key, Callback=on_bytes)
        except (S3UploadFailedError, ClientError, BotoCoreError, OSError) as error:
            raise CosmicAIError(f"{path} could not be uploaded: {error}") from error

    # Each upload has its own threads for parts, so a few at once are enough.
    with ThreadPoolExecutor(PARALLEL_TRANSFERS // 4) as pool:
        list(pool.map(put, files.items()))
