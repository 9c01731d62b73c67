"""Addresses in AWS's console: of an execution, and of the child and the log of each failed rank."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cosmicai_workbench.client.cloudwatch import pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cosmicai.schema import FailedRank, Summary

_DOMAINS = {"aws": "aws.amazon.com", "aws-cn": "amazonaws.cn", "aws-us-gov": "amazonaws-us-gov.com"}
_RANKS_LOG = "model-inference"
"""What the name of the log group of the ranks ends with."""


@dataclass(frozen=True)
class RankLinks:
    """Of one failed rank: ``child`` is empty where the rank left no trace of its child."""

    rank: int
    child: str
    log: str


@dataclass(frozen=True)
class Links:
    """Of one execution."""

    execution: str
    failed_ranks: tuple[RankLinks, ...]

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return asdict(self)


def links_of(arn: str, summary: Summary | None, log_groups: Sequence[str]) -> Links:
    """Return the links of an execution on AWS.

    Parameters
    ----------
    arn
        The execution's ARN.
    summary
        Its summary, which names the failed ranks.
    log_groups
        Those of the stack.
    """
    group = next((each for each in log_groups if each.endswith(_RANKS_LOG)), "")
    failed = summary.failed_ranks if summary else []
    start = summary.execution.start_time if summary else datetime.now(UTC)
    return Links(
        execution=f"{_console(arn, 'states')}#/v2/executions/details/{arn}",
        failed_ranks=tuple(
            RankLinks(each.rank, _child(each, start), _log(arn, group, each.rank, start))
            for each in failed
        ),
    )


def _console(arn: str, service: str) -> str:
    _, partition, _, region, *_ = arn.split(":")
    domain = _DOMAINS.get(partition, _DOMAINS["aws"])
    return f"https://{region}.console.{domain}/{service}/home?region={region}"


def _child(failed: FailedRank, start: datetime) -> str:
    if ":express:" not in failed.child:
        return ""
    since = int(start.timestamp() * 1000)
    page = _console(failed.child, "states")
    return f"{page}#/express-executions/details/{failed.child}?startDate={since}"


def _log(arn: str, group: str, rank: int, start: datetime) -> str:
    """Return the rank's lines in its log group; the console escapes twice, with ``$`` for ``%``."""
    if not group:
        return ""
    wanted = pattern(arn.rsplit(":", 1)[-1], rank)
    since = int(start.timestamp() * 1000)
    query = f"?filterPattern={_twice(wanted)}&start={since}"
    return (
        f"{_console(arn, 'cloudwatch')}#logsV2:log-groups/log-group/{_twice(group)}/log-events"
        f"{quote(query, safe='$').replace('%', '$')}"
    )


def _twice(text: str) -> str:
    return quote(quote(text, safe=""), safe="").replace("%", "$")
