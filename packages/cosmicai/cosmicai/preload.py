"""The model that the stack names, loaded before the first rank comes."""

from __future__ import annotations

import os

from cosmicai import model_cache
from cosmicai.errors import CosmicAIError
from cosmicai.observability import logger
from cosmicai.schema import ManifestItem
from cosmicai.settings import FunctionSettings


def preload() -> None:
    """Load the stack's model in the init phase, where the sandbox starts ahead of its calls.

    A snapshot then holds engine and model, and a provisioned sandbox has them ready. On demand,
    the init phase is part of the first call and may last 10 s only: the first rank loads there. A
    model that cannot be loaded is no error here; the first rank reports it.
    """
    folder = os.environ.get("PRELOAD_MODEL", "")
    if not folder or os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand") == "on-demand":
        return
    bucket, engine = os.environ["PRELOAD_BUCKET"], os.environ["PRELOAD_ENGINE"]
    precision = ManifestItem.model_fields["PRECISION"].default
    try:
        model_cache.preload(bucket, folder, engine, precision, FunctionSettings.read().threads)
    except CosmicAIError as error:
        logger.warning(
            "the model was not preloaded; the first rank loads its own",
            extra={"model": f"s3://{bucket}/{folder}", "reason": str(error)},
        )
    else:
        logger.info("model preloaded", extra={"model": f"s3://{bucket}/{folder}"})
