"""What a simulated execution is made of: the work, the service's limits, the measured times."""

from typing import Annotated

from cosmicai.facts import MAX_CHILDREN
from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Frozen):
    """Limits of the services, each a documented default (September 2026) or an account's own.

    Sources: AWS Lambda developer guide, "Lambda quotas" and "Lambda scaling behavior" (every
    function gains at most 1,000 execution environments every 10 seconds, refilled continuously,
    never saved up); AWS Step Functions developer guide, "Map state in Distributed mode" (10,000
    child executions at once); Amazon S3 user guide, "Best practices design patterns" (5,500 reads
    per second for each prefix).
    """

    concurrency: int = Field(default=1000, ge=1)
    """Execution environments at once: 1,000 in a new account."""
    burst: int = Field(default=1000, ge=1)
    """New environments that Lambda gives at once; also the most it ever holds ready."""
    ramp: float = Field(default=100.0, gt=0)
    """New environments a second after the burst."""
    map_concurrency: int = Field(default=MAX_CHILDREN, ge=1, le=MAX_CHILDREN)
    """Child executions of the Distributed Map at once (its ``MaxConcurrency``)."""
    dispatch_rate: float = Field(default=250.0, gt=0)
    """Children that the Map starts in a second. AWS documents no figure; calibrate it."""
    child_seconds: float = Field(default=300.0, gt=0)
    """Longest life of an EXPRESS child, retries and waits included."""
    execution_seconds: float = Field(default=7200.0, gt=0)
    """The state machine's ``TimeoutSeconds``."""
    s3_reads_per_second: float = Field(default=5500.0, gt=0)
    """GET requests per second on one prefix; further ones wait."""


class Work(_Frozen):
    """What the execution has to do."""

    ranks: int = Field(ge=1)
    samples_per_rank: int = Field(ge=0)
    bytes_per_rank: int = Field(ge=0)
    barrier: bool = False
    """Every rank waits for the last one (FMI)."""


class Profile(_Frozen):
    """Times of one system, calibrated from measured ranks (see ``simulation.calibration``)."""

    source: str
    """Which measurements this came from."""
    vcpus: float = Field(gt=0)
    """Compute the ranks were measured with."""
    initialize_seconds: Seconds
    initialize_seconds_per_rank: Seconds = 0.0
    summarize_seconds: Seconds
    summarize_seconds_per_rank: Seconds = 0.0
    cold_start_seconds: Annotated[tuple[Seconds, ...], Field(min_length=1)]
    """Measured cold starts; a simulated one is drawn from them."""
    invoke_seconds: Seconds = 0.05
    """From the child's start to the handler's, in a warm sandbox."""
    rank_seconds_fixed: Seconds = 0.0
    """Time of a rank that does not grow with its data (model to the sandbox, writing results)."""
    read_bytes_per_second: float = Field(gt=0)
    """S3 to one rank."""
    s3_requests_per_rank: float = Field(default=1.0, ge=0)
    predict_seconds_per_sample: float = Field(ge=0)
    """Median over ranks."""
    jitter: Annotated[tuple[float, ...], Field(min_length=1)]
    """Measured predict times over their median: the stragglers are in here."""
    failure_probability: float = Field(default=0.0, ge=0, lt=1)
    """A transient failure of an attempt."""

    def at(self, vcpus: float) -> "Profile":
        """Return the profile on another amount of compute.

        Prediction time is taken to fall in proportion, which overestimates more than about six
        threads and underestimates nothing else: reading and cold starts are left as they are.
        """
        scale = self.vcpus / vcpus
        return self.model_copy(
            update={
                "vcpus": vcpus,
                "predict_seconds_per_sample": self.predict_seconds_per_sample * scale,
            }
        )
