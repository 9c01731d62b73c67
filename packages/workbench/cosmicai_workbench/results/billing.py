"""Cost of a finished run: as its ranks recorded it, and as Lambda billed it."""

import math
from typing import TYPE_CHECKING

from cosmicai.cost import CostBreakdown, FunctionUsage, Usage, cost
from cosmicai.errors import InvalidInput

if TYPE_CHECKING:
    from cosmicai_workbench.results.invocations import Invocation
    from cosmicai_workbench.results.run_folder import Run


def recorded_cost(run: "Run") -> CostBreakdown:
    """Return the cost in the run's summary.

    Raises
    ------
    InvalidInput
        If the summary has none.
    """
    if not run.summary.cost:
        raise InvalidInput(f"{run.path}: summary.json holds no cost")
    return run.summary.cost


def billed_cost(run: "Run") -> CostBreakdown | None:
    """Return the cost with Lambda's part as the REPORT lines bill it; None without any.

    The other items (Step Functions, S3) have no such lines and stay as recorded.
    """
    if not run.invocations:
        return None
    recorded = recorded_cost(run)
    functions: dict[tuple[str, int], list[Invocation]] = {}
    for invocation in run.invocations:
        functions.setdefault((invocation.function, invocation.memory_mb), []).append(invocation)
    usage = Usage(
        region=recorded.region,
        architecture=recorded.architecture,
        functions=[
            FunctionUsage(
                name=name,
                requests=len(found),
                billed_seconds=math.fsum(i.billed_ms for i in found) / 1000,
                memory_mb=memory_mb,
            )
            for (name, memory_mb), found in functions.items()
        ],
    )
    others = {k: v for k, v in recorded.items.items() if not k.startswith("lambda ")}
    billed = cost(usage)
    items = billed.items | others
    return billed.model_copy(update={"items": items, "total": math.fsum(items.values())})
