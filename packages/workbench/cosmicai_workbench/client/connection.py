"""Where an execution runs: clients of AWS or of a local cloud, and the names a stack gives."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from cosmicai.errors import CosmicAIError, InvalidInput
from cosmicai.storage import Store, make_client

from cosmicai_workbench.cloud.session import local_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient

PARALLEL_TRANSFERS = 16


class StackNotFound(CosmicAIError):
    """There is no such stack, or no credentials to look it up with."""


class LookupRefused(CosmicAIError):
    """AWS did not answer a look-up; the message says which, and why."""


@dataclass(frozen=True)
class Connection:
    """Clients of the services that an execution is driven by, and the stack's outputs."""

    s3: S3Client
    states: SFNClient
    outputs: Mapping[str, str]
    service: Callable[..., Any]
    """Makes a client of another service, by boto3's name of it."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Parameters that the stack was deployed with."""

    def store(self, bucket: str) -> Store:
        """Return one of the place's buckets."""
        return Store(self.s3, bucket)

    @property
    def state_machine(self) -> str:
        """ARN of the state machine."""
        return self.outputs["StateMachineArn"]


def connect(
    stack: str,
    *,
    variables: Mapping[str, str] | None = None,
    profile: str | None = None,
    region: str | None = None,
) -> Connection:
    """Connect to the stack of a given name.

    Parameters
    ----------
    variables
        Environment of a local cloud (``Status.variables``); None means AWS, with the usual
        credentials of boto3.

    Raises
    ------
    StackNotFound
        If there is no such stack, or AWS cannot be reached.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    options: dict[str, Any] = {
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"total_max_attempts": 4, "mode": "standard"},
        "max_pool_connections": 2 * PARALLEL_TRANSFERS,
    }
    endpoint, config = None, Config(**options)
    try:
        if variables is None:
            session = boto3.Session(profile_name=profile, region_name=region)
        else:
            endpoint, session = variables["AWS_ENDPOINT_URL"], local_session(variables)
        formation = session.client("cloudformation", endpoint_url=endpoint, config=config)
        found = formation.describe_stacks(StackName=stack)["Stacks"][0]
        outputs = {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])}
        connection = Connection(
            s3=make_client(session, endpoint=endpoint),
            states=session.client("stepfunctions", endpoint_url=endpoint, config=config),
            outputs=outputs,
            service=partial(session.client, endpoint_url=endpoint, config=config),
            parameters={
                each["ParameterKey"]: each.get("ParameterValue", "")
                for each in found.get("Parameters", [])
            },
        )
    except ClientError as error:
        raise StackNotFound(
            f"stack {stack!r}: {error.response['Error'].get('Message', error)}; deploy it by "
            "`sam deploy`, or give its name with --stack"
        ) from error
    except BotoCoreError as error:
        raise StackNotFound(f"stack {stack!r} cannot be looked up: {error}") from error
    if "StateMachineArn" not in outputs:
        raise InvalidInput(f"stack {stack!r} is not CosmicAI's: it has no output StateMachineArn")
    return connection


@contextmanager
def lookups(what: str) -> Iterator[None]:
    """Turn botocore's errors into one line that says what could not be looked up."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise LookupRefused(f"{what} could not be looked up: {error}") from error
