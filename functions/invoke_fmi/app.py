"""The Invoke FMI function: parse, one call, return."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from cosmicai.collective import run_collective
from cosmicai.observability import log_rank, logger, tracer
from cosmicai.schema import CollectiveEvent, parse


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Synchronise the ranks and reduce their figures, or notify them that this rank failed."""
    request = parse(CollectiveEvent, event)
    log_rank(request)
    return run_collective(request, context.get_remaining_time_in_millis() / 1000)
