"""The model that the stack names, loaded before the first rank comes."""

from __future__ import annotations

from cosmicai import model_cache
from cosmicai.errors import CosmicAIError
from cosmicai.observability import logger
from cosmicai.schema import ManifestItem
from cosmicai.settings import InferenceSettings


def preload() -> None:
    """Load the stack's model in the init phase, where the sandbox starts ahead of its calls.

    A snapshot then holds engine and model, and a provisioned sandbox has them ready. On demand,
    the init phase is part of the first call and may last 10 s only: the first rank loads there. A
    model that cannot be loaded is not an error here; the first rank reports it.
    """
    address = ""
    try:
        settings = InferenceSettings.read()
        if not settings.preload_model or not settings.starts_ahead:
            return
        address = f"s3://{settings.preload_bucket}/{settings.preload_model}"
        model_cache.preload(
            settings.preload_bucket,
            settings.preload_model,
            settings.preload_engine,
            ManifestItem.model_fields["PRECISION"].default,
            settings.threads,
        )
    except CosmicAIError as error:
        logger.warning(
            "the model was not preloaded; the first rank loads its own",
            extra={"model": address, "reason": str(error)},
        )
    else:
        logger.info("model preloaded", extra={"model": address})
