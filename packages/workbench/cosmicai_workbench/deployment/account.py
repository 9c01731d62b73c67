"""What bounds a run: the account's concurrency, and the version of Model Inference that runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from cosmicai.cost import kept_ready
from cosmicai.errors import InvalidInput
from cosmicai.facts import DEFAULT_INFERENCE_MEMORY_MB, NEW_ACCOUNT_MEMORY_MB, Architecture

from cosmicai_workbench.deployment.checks import Check, asked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmicai_workbench.client.connection import Connection

CONCURRENCY_QUOTA = "Lambda quota 'Concurrent executions' (L-B99A9384)"
SMALL_ACCOUNT = 100
"""Concurrency of an account that has never grown: new ones often start with 10."""
UNKNOWN_CONCURRENCY = 1000
"""Assumed where the account may not be asked."""


@dataclass(frozen=True)
class Account:
    """Settings of the account and of the function that runs the ranks.

    Attributes
    ----------
    concurrency
        Functions at once that the account allows.
    available
        Of these, what Model Inference may use: reserved for it, or not reserved for others.
    in_use
        Most of them that were running in the last minutes.
    reserved
        Whether they are reserved for Model Inference.
    memory_mb, timeout, architecture, region
        Of the version that the state machine calls.
    max_concurrency
        The stack's parameter.
    checks
        What could not be asked, and what does not agree.
    """

    concurrency: int
    available: int
    in_use: int
    reserved: bool
    memory_mb: int
    timeout: int
    architecture: Architecture
    max_concurrency: int
    region: str
    checks: tuple[Check, ...]

    @property
    def free(self) -> int:
        """Ranks that Lambda would run at once now, at least 1."""
        return max(1, self.available - self.in_use)


def read_account(connection: Connection) -> Account:
    """Look the limits up; what may not be asked is taken from the stack, with a warning."""
    functions = connection.service("lambda")
    name = connection.outputs["ModelInferenceFunction"]
    checks: list[Check] = []

    def ask(what: str, permission: str, call: Any) -> Any:
        answer = asked(what, permission, call)
        if isinstance(answer, Check):
            checks.append(answer)
            return None
        return answer

    settings = ask("concurrency", "lambda:GetAccountSettings", functions.get_account_settings)
    limit = settings["AccountLimit"] if settings else {}
    held = ask(
        "reserved concurrency",
        "lambda:GetFunctionConcurrency",
        lambda: functions.get_function_concurrency(FunctionName=name),
    )
    reserved = (held or {}).get("ReservedConcurrentExecutions")
    machine = ask(
        "version",
        "states:DescribeStateMachine",
        lambda: connection.states.describe_state_machine(stateMachineArn=connection.state_machine),
    )
    called = _called(machine["definition"]) if machine else name
    version = ask(
        "version",
        "lambda:GetFunctionConfiguration",
        lambda: functions.get_function_configuration(FunctionName=called),
    )
    memory_mb = int(connection.outputs.get("InferenceMemorySize", DEFAULT_INFERENCE_MEMORY_MB))
    architecture = connection.outputs.get("Architecture", "arm64")
    region = functions.meta.region_name
    if version:
        checks += _version(version, memory_mb, architecture)
        memory_mb = version["MemorySize"]
        architecture = version.get("Architectures", [architecture])[0]
        checks += _idle(functions, called, version, region)
    unreserved = limit.get("UnreservedConcurrentExecutions", UNKNOWN_CONCURRENCY)
    return Account(
        concurrency=limit.get("ConcurrentExecutions", UNKNOWN_CONCURRENCY),
        available=unreserved if reserved is None else reserved,
        in_use=_in_use(connection, None if reserved is None else name),
        reserved=reserved is not None,
        memory_mb=memory_mb,
        timeout=version["Timeout"] if version else 300,
        architecture=cast("Architecture", architecture),
        max_concurrency=int(connection.outputs["MaxConcurrency"]),
        region=region,
        checks=tuple(checks),
    )


def _called(definition: str) -> str:
    """Return the ARN, with its alias or version, that the state machine calls for a rank."""
    ranks = json.loads(definition)["States"]["Distributed Inference"]
    processor = ranks.get("ItemProcessor", ranks.get("Iterator", {}))
    return str(processor["States"]["Model Inference"]["Parameters"]["FunctionName"])


def _version(version: dict[str, Any], memory_mb: int, architecture: str) -> Iterator[Check]:
    """Compare what runs with what the stack says: an alias may have stayed behind."""
    runs = {
        "InferenceMemorySize": (version["MemorySize"], memory_mb),
        "Architecture": (version.get("Architectures", [architecture])[0], architecture),
    }
    name = version.get("Version", "$LATEST")
    if stale := [
        f"{key} {is_} ({says} in the stack)" for key, (is_, says) in runs.items() if is_ != says
    ]:
        yield Check(
            "version",
            "warning",
            f"version {name} runs, with {', '.join(stale)}: deploy the stack again",
        )
    elif version["MemorySize"] > NEW_ACCOUNT_MEMORY_MB:
        yield Check(
            "version",
            "ok",
            f"version {name} runs, with {version['MemorySize']:,} MB (more than the "
            f"{NEW_ACCOUNT_MEMORY_MB:,} MB that new accounts allow)",
        )
    else:
        yield Check("version", "ok", f"version {name} runs, with {version['MemorySize']:,} MB")


def _idle(functions: Any, called: str, version: dict[str, Any], region: str) -> Iterator[Check]:
    """Say what is billed while no execution runs."""
    from botocore.exceptions import ClientError

    snapshots = int(version.get("SnapStart", {}).get("OptimizationStatus") == "On")
    provisioned = 0
    function, _, qualifier = called.rpartition(":")
    if ":function:" in function:
        try:
            provisioned = functions.get_provisioned_concurrency_config(
                FunctionName=function, Qualifier=qualifier
            )["RequestedProvisionedConcurrentExecutions"]
        except (ClientError, NotImplementedError):
            provisioned = 0  # none is configured, or it may not be asked
    if not (snapshots or provisioned):
        return
    what = f"{provisioned} sandboxes kept warm" if provisioned else "1 snapshot cached"
    try:
        dollars = kept_ready(
            version["MemorySize"],
            provisioned=provisioned,
            snapshots=snapshots,
            region=region,
            architecture=version.get("Architectures", ["arm64"])[0],
        ).total
    except InvalidInput as error:
        yield Check("idle cost", "warning", f"{what}, at an unknown price: {error}")
        return
    yield Check(
        "idle cost",
        "warning",
        f"{what}: ${dollars:,.2f} a month while nothing runs (older versions with a snapshot, too)",
    )


def _in_use(connection: Connection, function: str | None) -> int:
    """Return the most functions at once of the last minutes, 0 where that cannot be asked."""
    now = datetime.now(UTC)
    answer = asked(
        "concurrency",
        "cloudwatch:GetMetricStatistics",
        lambda: connection.service("cloudwatch").get_metric_statistics(
            Namespace="AWS/Lambda",
            MetricName="ConcurrentExecutions",
            Dimensions=[{"Name": "FunctionName", "Value": function}] if function else [],
            StartTime=now - timedelta(minutes=5),
            EndTime=now,
            Period=60,
            Statistics=["Maximum"],
        ),
    )
    points = [] if isinstance(answer, Check) else answer["Datapoints"]
    return max((int(point["Maximum"]) for point in points), default=0)
