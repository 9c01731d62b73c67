"""The Model Inference function: parse, one call, return."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from cosmicai.inference import run_rank
from cosmicai.observability import log_rank, logger, metrics, tracer
from cosmicai.preload import preload
from cosmicai.schema import ManifestItem, parse

preload()


@tracer.capture_lambda_handler(capture_response=False)
@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Predict one rank's galaxies and write its predictions and its record."""
    item = parse(ManifestItem, event)
    log_rank(item)
    return run_rank(item, context.aws_request_id)
