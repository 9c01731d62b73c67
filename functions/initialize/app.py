"""The Initialize function: parse, one call, return."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from cosmicai.initialize import initialize
from cosmicai.observability import log_execution, logger, tracer
from cosmicai.schema import InitializeEvent, parse


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Check the input, claim the result path and write the manifest."""
    request = parse(InitializeEvent, event)
    log_execution(request.execution)
    return initialize(request).model_dump(mode="json", by_alias=True)
