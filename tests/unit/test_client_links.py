"""Links into AWS's console, in the forms that the console itself has in its address bar."""

from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import pytest
from cosmicai.schema import Execution, FailedRank, Summary
from cosmicai_workbench.client.links import links_of

ARN = "arn:aws:states:eu-west-1:123456789012:execution:cosmicai-inference:run-1"
CHILD = "arn:aws:states:eu-west-1:123456789012:express:cosmicai-inference/Rank:a:b"
GROUPS = ["/aws/lambda/cosmicai-initialize", "/aws/lambda/cosmicai-model-inference"]


def summary(child: str) -> Summary:
    failed = FailedRank(rank=3, data_path="3.pt", error="CorruptPartition", cause="x", child=child)
    start = datetime(2026, 11, 26, tzinfo=UTC)
    return Summary(
        status="FAILED",
        execution=Execution(id=ARN, name="run-1", start_time=start),
        input={},
        failed_ranks=[failed],
        finished_at=start,
    )


def test_every_failed_rank_has_a_link_to_its_child_and_to_its_log() -> None:
    links = links_of(ARN, summary(CHILD), GROUPS)
    console = "https://eu-west-1.console.aws.amazon.com"
    assert links.execution == f"{console}/states/home?region=eu-west-1#/v2/executions/details/{ARN}"
    (rank,) = links.failed_ranks
    assert rank.child == (
        f"{console}/states/home?region=eu-west-1#/express-executions/details/{CHILD}"
        "?startDate=1795651200000"
    )
    assert rank.log == (
        f"{console}/cloudwatch/home?region=eu-west-1#logsV2:log-groups/log-group/"
        "$252Faws$252Flambda$252Fcosmicai-model-inference/log-events"
        "$3FfilterPattern$3D$257B$2520$2524.execution$2520$253D$2520$2522run-1$2522$2520"
        "$2526$2526$2520$2524.rank$2520$253D$25203$2520$257D$26start$3D1795651200000"
    )
    fragment = unquote(unquote(urlsplit(rank.log).fragment.replace("$", "%")).replace("$", "%"))
    assert '?filterPattern={ $.execution = "run-1" && $.rank = 3 }&start=' in unquote(fragment)


@pytest.mark.parametrize(
    ("partition", "domain"), [("aws-cn", "amazonaws.cn"), ("aws-us-gov", "amazonaws-us-gov.com")]
)
def test_other_partitions_have_consoles_of_their_own(partition: str, domain: str) -> None:
    arn = ARN.replace("arn:aws:", f"arn:{partition}:")
    assert links_of(arn, None, GROUPS).execution.startswith(
        f"https://eu-west-1.console.{domain}/states/"
    )


def test_a_rank_without_a_trace_still_has_its_log() -> None:
    (rank,) = links_of(ARN, summary(""), GROUPS).failed_ranks
    assert rank.child == ""
    assert rank.log
