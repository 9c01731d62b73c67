"""The Summarize function: parse, one call, return."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from cosmicai.observability import log_execution, logger, metrics, record_summary, tracer
from cosmicai.schema import SummarizeEvent, parse
from cosmicai.summarize import summarize


@tracer.capture_lambda_handler(capture_response=False)
@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Reconcile the ranks and write the summary, or record why there is none."""
    request = parse(SummarizeEvent, event)
    log_execution(request.execution)
    summary = summarize(request)
    record_summary(summary)
    return summary.model_dump(mode="json", by_alias=True)
