"""The contracts between the steps, each defined once, as pydantic models.

Unknown keys are errors everywhere, so that a misspelt key is reported instead of ignored.
Use :func:`parse`, which turns pydantic's report into one :class:`~cosmicai.errors.InvalidInput`
that names every offending key.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from cosmicai.cost import CostBreakdown
from cosmicai.engines.registry import (
    engine_name,
    find_engine,
    precision_name,
)
from cosmicai.errors import InvalidInput, load_json, problems_of, readable
from cosmicai.facts import MAX_CHILDREN, OUTLIER_LIMIT, WIDE_OUTLIER_LIMIT
from cosmicai.fmi_channels import channel_name

ValueT = TypeVar("ValueT", str, int)

_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

SCRIPTS: dict[str, bool] = {"inference.py": False, "inference_fmi.py": True}
"""Built-in entries by base name (compared without case): does the entry use FMI?

Code is never downloaded and run: a payload's ``script`` only chooses one of these.
"""

EngineName = Annotated[str, AfterValidator(engine_name)]
Precision = Annotated[str, AfterValidator(precision_name)]
FmiChannel = Annotated[str, AfterValidator(channel_name)]


def _integer(value: object) -> object:
    """Accept an integer or its decimal text (published payloads write ``"11"``); nothing else."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("expected an integer, or an integer written as a string")


def hidden_characters(text: str) -> str:
    """Name the kind of characters in a text that a reader of it would not see, or return ''.

    They would act on terminals, break lines of logs, or reorder what is shown.
    """
    if any(unicodedata.category(character) == "Cc" for character in text):
        return "control characters"
    if any(unicodedata.category(character) in {"Zl", "Zp", "Cs"} for character in text):
        return "line separators or lone surrogates"
    if any(unicodedata.bidirectional(character) in _REORDERING for character in text):
        return "characters that reverse the direction of text"
    return ""


def _path(value: object) -> object:
    """Normalise an S3 folder or key: no slash at either end, no empty or dotted steps."""
    if not isinstance(value, str):
        return value  # pydantic names the wrong type
    path = value.strip("/")
    if not path:
        raise ValueError("expected a folder in S3, found nothing")
    if any(step in {"", ".", ".."} for step in path.split("/")):
        raise ValueError("expected a plain S3 folder, without '//', '.' or '..' steps")
    if hidden := hidden_characters(path):
        raise ValueError(f"expected a plain S3 folder, without {hidden}")
    return path


def listed(value: ValueT | list[ValueT] | None) -> list[ValueT]:
    """Return one, several or no values as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


Integer = Annotated[int, BeforeValidator(_integer)]
Path = Annotated[str, BeforeValidator(_path), Field(min_length=1, max_length=900)]
Bucket = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]$")]


def uses_fmi(script: str) -> bool:
    """Say whether a payload's ``script`` asks for FMI.

    Raises
    ------
    ValueError
        If its base name is not one of the built-in entries.
    """
    name = script.rsplit("/", 1)[-1]
    try:
        return SCRIPTS[name.casefold()]
    except KeyError:
        raise ValueError(
            f"{name!r} is not a built-in entry; allowed: inference.py (without FMI), "
            "inference_FMI.py (with FMI). Code is never downloaded and run"
        ) from None


class Contract(BaseModel):
    """Base of every contract: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


ContractT = TypeVar("ContractT", bound=Contract)


class ExecutionInput(Contract):
    """What a user starts an execution with: the published system's nine keys, and optional ones."""

    bucket: Bucket = Field(description="Bucket of the model bundle and of the results.")
    file_limit: Annotated[Integer, Field(ge=1)] = Field(
        description="At most this many partitions, the first in natural order."
    )
    batch_size: Annotated[Integer, Field(ge=1, le=65_536)] = Field(
        description="Galaxies per batch, the unit of reported times; engines compute small batches "
        "together and large ones in parts."
    )
    object_type: Literal["folder"] = Field(description="What S3_object_name is: a folder.")
    S3_object_name: Path = Field(
        description="Folder of the model bundle (config.json and the files of its architecture) "
        "in bucket."
    )
    script: str = Field(
        description="Built-in entry, by base name: inference.py, or inference_FMI.py for FMI."
    )
    result_path: Path = Field(description="Folder in bucket that this execution alone writes to.")
    data_bucket: Bucket = Field(description="Bucket of the partitions.")
    data_prefix: Path = Field(description="Folder of the partitions (*.pt) in data_bucket.")

    world_size: Annotated[Integer, Field(ge=1, le=100_000)] | None = Field(
        default=None,
        description="Number of ranks; default one per partition. Fewer ranks share consecutive "
        "partitions out evenly; with more, the last ones get no data and still take part.",
    )
    overwrite: bool = Field(
        default=False,
        strict=True,
        description="Take over a result_path that another execution holds, and clear its files.",
    )
    resume: Annotated[str, Field(pattern=r"^arn:", max_length=2048)] | None = Field(
        default=None,
        description="ARN of an earlier execution that holds the result_path: run only its missing "
        "ranks, and keep the results of the others.",
    )
    engine: EngineName | None = Field(
        default=None,
        description="Inference engine; default the stack's parameter, or one that runs the model.",
    )
    precision: Precision = Field(default="float32", description="Arithmetic of the engine.")
    max_concurrency: Annotated[Integer, Field(ge=1, le=MAX_CHILDREN)] | None = Field(
        default=None, description="Ranks at once; default and upper bound the stack's parameter."
    )
    tolerated_failure_percentage: Annotated[float, Field(ge=0, le=100)] | None = Field(
        default=None,
        description="Up to this share of ranks may fail and leave a result marked partial; "
        "default the stack's parameter.",
    )
    fmi_channel: FmiChannel | None = Field(
        default=None, description="How ranks exchange messages; default the stack's parameter."
    )

    @field_validator("script")
    @classmethod
    def _known_script(cls, script: str) -> str:
        uses_fmi(script)
        return script

    @model_validator(mode="after")
    def _results_apart(self) -> ExecutionInput:
        sources = {"S3_object_name": (self.bucket, self.S3_object_name)}
        sources["data_prefix"] = (self.data_bucket, self.data_prefix)
        for key, (bucket, folder) in sources.items():
            one, other = f"{folder}/", f"{self.result_path}/"
            if bucket == self.bucket and (one.startswith(other) or other.startswith(one)):
                raise ValueError(
                    f"result_path must differ from {key} ({folder!r}), and neither may lie inside "
                    "the other"
                )
        return self

    @model_validator(mode="after")
    def _keep_or_clear(self) -> ExecutionInput:
        if self.resume and self.overwrite:
            raise ValueError("resume keeps what overwrite would clear: give one of them")
        return self

    @model_validator(mode="after")
    def _offered_precision(self) -> ExecutionInput:
        if self.engine is not None:  # the stack's default is checked where it is known
            try:
                find_engine(self.engine).check(self.precision)
            except InvalidInput as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def fmi(self) -> bool:
        """Whether the ranks exchange messages after inference."""
        return uses_fmi(self.script)


class Execution(Contract):
    """Which run of the state machine a step serves, from the Step Functions context object."""

    id: str = Field(min_length=1, description="ARN of the execution: its identity.")
    name: str = Field(description="Name of the execution: the last step of its ARN.")
    start_time: datetime = Field(description="When the execution started.")
    state_machine: str | None = Field(default=None, description="ARN of the state machine.")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        """Fill in a missing name: the local interpreter's context object has none."""
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("id"), str):
            return {**data, "name": data["id"].rsplit(":", 1)[-1]}
        return data


class ManifestItem(Contract):
    """One rank's task: the published system's upper-case keys, and further ones."""

    S3_BUCKET: Bucket = Field(description="Bucket of the model bundle and of the results.")
    S3_OBJECT_NAME: Path = Field(description="Folder of the model bundle.")
    SCRIPT: str = Field(description="The built-in entry, as in the input.")
    S3_OBJECT_TYPE: Literal["folder"]
    WORLD_SIZE: Annotated[Integer, Field(ge=1)]
    RANK: Annotated[Integer, Field(ge=0)]
    DATA_BUCKET: Bucket
    DATA_PREFIX: Path
    DATA_PATH: str | list[str] | None = Field(description="Key of the partition, keys, or none.")
    DATA_ETAG: str | list[str] | None = Field(
        default=None,
        description="ETags of the partitions when they were planned, in the order of DATA_PATH; "
        "none reads whatever is there.",
    )
    DATA_SIZE: int | list[int] | None = Field(
        default=None, description="Their sizes in bytes, likewise."
    )
    RESULT_PATH: Path
    BATCH_SIZE: Annotated[Integer, Field(ge=1)]

    EXECUTION: str = Field(min_length=1, description="ARN of the execution that planned this.")
    EXECUTION_NAME: str = Field(min_length=1)
    MODEL_VERSION: str = Field(description="ETags of the bundle's two files when it was planned.")
    ENGINE: EngineName
    PRECISION: Precision = "float32"
    FMI: bool = Field(default=False, description="Whether Invoke FMI follows.")
    FMI_CHANNEL: FmiChannel | None = None
    FAILURE_KEY: str = Field(description="Where the state machine records this rank's failure.")
    KEPT: bool = Field(
        default=False,
        description="Whether the record of an earlier, resumed execution is this rank's result.",
    )

    @model_validator(mode="after")
    def _rank_in_world(self) -> ManifestItem:
        if self.RANK >= self.WORLD_SIZE:
            raise ValueError(f"RANK {self.RANK} is outside of WORLD_SIZE {self.WORLD_SIZE}")
        for name in ("DATA_ETAG", "DATA_SIZE"):
            given = len(listed(getattr(self, name)))
            if given and given != len(self.data_paths):
                raise ValueError(
                    f"{name}: one for each of the {len(self.data_paths)} partitions expected, "
                    f"found {given}"
                )
        return self

    @property
    def data_paths(self) -> list[str]:
        """Keys of the partitions of this rank, possibly none."""
        return listed(self.DATA_PATH)

    @property
    def data_etags(self) -> list[str] | list[None]:
        """Planned ETags of the partitions, each None if they were not planned."""
        return listed(self.DATA_ETAG) or [None] * len(self.data_paths)

    @property
    def data_sizes(self) -> list[int]:
        """Planned sizes of the partitions in bytes; none if they were not planned."""
        return listed(self.DATA_SIZE)

    @property
    def digest(self) -> str:
        """SHA-256 of the task: equal for equal items, whatever order their keys came in."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Claim(Contract):
    """``claim.json``: which execution holds the result path."""

    execution: str = Field(min_length=1, description="ARN of the execution that holds the path.")
    resumes: list[str] = Field(
        default=[], description="ARNs of the earlier executions whose results it keeps."
    )
    claimed_at: datetime
    cleared: bool = Field(description="Whether the files of an earlier execution are gone.")
    attempt: str = Field(default="", description="Which attempt of Initialize wrote the claim.")
    plan_sha256: str = Field(
        default="", description="Digest of plan.json; empty until the execution is planned."
    )


class Plan(Contract):
    """What Initialize decided: the output of its state, and ``plan.json``."""

    execution: Execution
    input: ExecutionInput
    bucket: Bucket
    result_path: Path
    manifest_key: str
    map_results_prefix: str = Field(description="Where the Map's ResultWriter writes.")
    world_size: int = Field(ge=1)
    num_partitions: int = Field(ge=1)
    num_bytes: int = Field(ge=0, description="Total size of the planned partitions.")
    resumes: list[str] = Field(
        default=[], description="ARNs of the earlier executions whose results are kept."
    )
    manifest_etag: str = Field(default="", description="ETag of the manifest as planned.")
    planned_ranks: int = Field(
        ge=1, description="Items of the manifest: world_size, or fewer in one that resumes another."
    )
    max_concurrency: int = Field(ge=1)
    tolerated_failure_percentage: float = Field(ge=0, le=100, description="Of world_size.")
    map_tolerated_failure_percentage: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="The same number of ranks, as share of planned_ranks.",
    )
    engine: EngineName
    fmi: bool
    model_version: str
    warnings: list[str] = Field(description="What the user should know, e.g. gaps in numbering.")
    initialize_seconds: float = Field(default=0.0, ge=0, description="Time that planning took.")
    initialize_memory_mb: int = Field(default=0, ge=0, description="Its function's memory size.")


class Failure(Contract):
    """A caught error, as Step Functions passes it on."""

    Error: str
    Cause: str = ""

    @property
    def message(self) -> str:
        """The reason in words: Lambda wraps it in JSON as ``errorMessage``."""
        try:
            cause = json.loads(self.Cause)
        except ValueError:
            cause = None
        wrapped = isinstance(cause, dict) and "errorMessage" in cause
        return readable(str(cause["errorMessage"]) if wrapped else self.Cause)


class InitializeEvent(Contract):
    """Event of the Initialize function; the input is checked in the step itself."""

    execution: Execution
    input: dict[str, Any]


class SummarizeEvent(Contract):
    """Event of the Summarize function: after the Map, or (with ``failure``) instead of it."""

    execution: Execution
    input: dict[str, Any]
    failure: Failure | None = None


class CollectiveEvent(ManifestItem):
    """Event of the Invoke FMI function: a rank's item; with ``failure``, why it gave up."""

    failure: Failure | None = None


class RankFailure(Contract):
    """``failures/<rank>.json``: written by the state machine when a rank fails for good."""

    execution: str
    rank: int = Field(ge=0)
    failure: Failure
    child: str = Field(default="", description="ARN of the Map's child that ran the rank.")


class Statistics(Contract):
    """Mergeable statistics of some galaxies' redshifts; see :mod:`cosmicai.quality`."""

    count: int = Field(default=0, ge=0, description="Galaxies with finite true and predicted z.")
    sum_true: float = Field(default=0.0, description="Sum of z.")
    sum_true_squared: float = Field(default=0.0, description="Sum of z².")
    sum_error: float = Field(default=0.0, description="Sum of Δz.")
    sum_relative: float | None = Field(
        default=None, description="Sum of Δz/(1+z); None in records that were written without it."
    )
    sum_absolute_error: float = Field(default=0.0, description="Sum of |Δz|.")
    sum_squared_error: float = Field(default=0.0, description="Sum of Δz².")
    outliers: int = Field(
        default=0, ge=0, description=f"Galaxies with |Δz|/(1+z) > {OUTLIER_LIMIT}."
    )
    below: int = Field(default=0, ge=0, description="Galaxies under the histogram's range.")
    above: int = Field(default=0, ge=0, description="Galaxies over the histogram's range.")
    histogram: str = Field(default="", description="Packed counts of Δz/(1+z) in fixed bins.")
    intervals: int = Field(default=0, ge=0, description="Galaxies of those that have intervals.")
    within_68: int = Field(default=0, ge=0, description="True redshifts in the 68 % interval.")
    within_95: int = Field(default=0, ge=0, description="True redshifts in the 95 % interval.")
    distributions: int = Field(default=0, ge=0, description="Galaxies of those that have p(z).")
    sum_crps: float = Field(default=0.0, description="Sum of ∫ (F(x) - [x >= z])² dx.")
    sum_density: float = Field(default=0.0, description="Sum of p(true redshift).")
    sum_squared_density: float = Field(default=0.0, description="Sum of ∫ p(z)² dz.")
    pit: str = Field(default="", description="Packed counts of the PIT in fixed bins.")


class QualityStatistics(Statistics):
    """Statistics of all galaxies, and of those in each fixed bin that holds any, by its number."""

    by_redshift: dict[int, Statistics] = Field(
        default={}, description="Bin of predicted redshift → statistics."
    )
    by_magnitude: dict[int, Statistics] = Field(
        default={}, description="Bin of r magnitude → statistics."
    )


class Figures(Contract):
    """Figures of merit of galaxies with a known redshift; None where undefined.

    Δz is predicted minus true redshift. docs/quality.md has the equations and their sources.
    """

    num_galaxies: int = Field(description="Galaxies with a known and a predicted redshift.")
    mae: float | None = Field(default=None, description="Mean of |Δz|.")
    mse: float | None = Field(default=None, description="Mean of Δz².")
    bias: float | None = Field(default=None, description="Mean of Δz/(1+z).")
    nmad: float | None = Field(
        default=None, description="1.4826 · median |Δz/(1+z) - median(Δz/(1+z))|."
    )
    r2: float | None = Field(default=None, description="Coefficient of determination.")
    outlier_fraction: float | None = Field(
        default=None, description=f"Share with |Δz|/(1+z) > {OUTLIER_LIMIT}."
    )
    outlier_fraction_15: float | None = Field(
        default=None, description=f"Share with |Δz|/(1+z) > {WIDE_OUTLIER_LIMIT}."
    )
    outlier_fraction_3sigma: float | None = Field(
        default=None, description="Share with |Δz|/(1+z) > 3 · nmad."
    )
    num_intervals: int = Field(default=0, description="Galaxies with intervals.")
    coverage_68: float | None = Field(
        default=None, description="Share of true redshifts in the 68 % interval."
    )
    coverage_95: float | None = Field(
        default=None, description="Share of true redshifts in the 95 % interval."
    )
    under_covered: tuple[Literal[68, 95], ...] = Field(
        default=(), description="Intervals that hold fewer true redshifts than chance explains."
    )
    num_distributions: int = Field(default=0, description="Galaxies with p(z).")
    pit_histogram: tuple[int, ...] = Field(
        default=(), description="Galaxies by their PIT, in equal bins from 0 to 1."
    )
    pit_ks: float | None = Field(
        default=None, description="Kolmogorov-Smirnov distance of the PIT from uniform."
    )
    pit_cvm: float | None = Field(
        default=None, description="Cramér-von Mises statistic T of the PIT against uniform."
    )
    crps: float | None = Field(default=None, description="Mean of ∫ (F(x) - [x >= z])² dx.")
    cde_loss: float | None = Field(
        default=None, description="Mean of ∫ p(x)² dx - 2 · mean of p(z)."
    )


class BinFigures(Figures):
    """Figures of merit of the galaxies in one bin."""

    low: float | None = Field(description="Lower edge, in the bin; None for the first.")
    high: float | None = Field(description="Upper edge, outside of it; None for the last.")


class Quality(Figures):
    """Figures of merit of all galaxies with a known redshift, and in bins that hold any."""

    by_redshift: tuple[BinFigures, ...] = Field(
        default=(), description="In bins of predicted redshift, from low to high."
    )
    by_magnitude: tuple[BinFigures, ...] = Field(
        default=(), description="In bins of r magnitude, from bright to faint."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_bias(cls, data: Any) -> Any:
        """Leave out the bias of earlier files, which was the mean of Δz."""
        if isinstance(data, dict) and "bias" in data and "num_intervals" not in data:
            return {name: value for name, value in data.items() if name != "bias"}
        return data


class CollectiveResult(Contract):
    """``fmi.json``: what the ranks agreed on, written by rank 0."""

    execution: str
    world_size: int = Field(ge=1)
    channel: str
    sums: dict[str, int] = Field(description="Counts, added over the ranks.")
    seconds: dict[str, float] = Field(description="Times, added over the ranks in rank order.")
    maxima: dict[str, float] = Field(description="The largest of any rank.")
    longest_wait_seconds: float = Field(ge=0, description="Of the rank that came first.")
    memory_limit_mb: int = Field(default=0, ge=0, description="The function's memory size.")
    quality_statistics: QualityStatistics
    quality: Quality


class Origin(Contract):
    """What a catalogue's users must know of the model and the galaxies it was given."""

    bands: tuple[str, ...] = Field(description="Of the images.")
    side: int = Field(ge=1, description="Pixels on a side of an image.")
    pixel_scale: float | None = Field(
        description="Arcseconds of a pixel, as the model says, or else the partitions."
    )
    photometric_system: str | None = Field(
        description="As the partitions say; several, joined by commas."
    )
    output: str = Field(description="Kind of the model's output, such as point or mixture.")
    training: str = Field(
        default="", description="Name of the training set; none where its ranges are unknown."
    )
    training_digest: str = Field(default="", description="Its SHA-256.")
    calibration: str = Field(default="", description="Name of the set the intervals are from.")
    calibration_digest: str = Field(default="", description="Its SHA-256.")
    calibrated_at: datetime | None = Field(default=None, description="When that was done.")


class RankRecord(Contract):
    """``<rank>.json``: the published fields to the letter (by alias), then further ones.

    Unlike the reference's, the times are wall time and the memory is the peak resident set:
    its CPU time counts nested operators twice, its memory adds up every allocation ever made.
    """

    total_cpu_time: float = Field(
        alias="total_cpu_time (seconds)",
        ge=0,
        description="Wall time of predicting all batches, without reading; what the analysis "
        "scripts divide by. (The processor time is process_cpu_seconds.)",
    )
    total_cpu_memory: float = Field(
        alias="total_cpu_memory (MB)",
        ge=0,
        description="Peak resident memory of the sandbox's process, in Lambda's MB (2^20 bytes).",
    )
    execution_time: float = Field(
        alias="execution_time (seconds/batch)", ge=0, description="total_cpu_time / num_batches."
    )
    num_batches: int = Field(ge=0, description="Batches predicted; the last may be short.")
    batch_size: int = Field(ge=1, description="Galaxies of a full batch.")
    device: str = Field(default="cpu", description="Always cpu: Lambda has no other.")
    throughput_bps: float = Field(
        ge=0, description="Bits of image and magnitudes predicted per second of total_cpu_time."
    )
    sample_persec: float = Field(ge=0, description="Galaxies per second of total_cpu_time.")
    result_path: str = Field(description="As in the input.")
    data_path: str | list[str] | None = Field(description="Key of the partition, keys, or none.")
    s3_num_requests: int = Field(default=0, ge=0, description="Requests that read partitions.")
    s3_total_time: float = Field(default=0.0, ge=0, description="Sum of their seconds.")
    s3_avg_time: float = Field(default=0.0, ge=0, description="Mean seconds of a request.")
    s3_min_time: float = Field(default=0.0, ge=0, description="Of the fastest request.")
    s3_max_time: float = Field(default=0.0, ge=0, description="Of the slowest request.")

    execution: str = Field(description="ARN of the execution this record belongs to.")
    rank: int = Field(ge=0, description="This rank, from 0.")
    world_size: int = Field(ge=1, description="Number of ranks.")
    num_samples: int = Field(ge=0, description="Galaxies read.")
    num_bytes: int = Field(ge=0, description="Size of the partitions read.")
    engine: str = Field(description="Which engine predicted.")
    precision: str = Field(description="Its arithmetic.")
    threads: int = Field(ge=1, description="vCPUs that the memory size pays for.")
    model_digest: str = Field(description="SHA-256 of the bundle; empty without data.")
    architecture: str = Field(description="Processor: arm64 or x86_64.")
    memory_limit_mb: int = Field(ge=0, description="The function's memory size; 0 if unknown.")
    cold_start: bool = Field(description="First rank of its sandbox.")
    request_id: str = Field(description="Of the Lambda invocation, as in its log.")
    started_at: datetime = Field(description="When the handler began.")
    finished_at: datetime = Field(description="When the predictions were written.")
    model_load_seconds: float = Field(ge=0, description="0 when the sandbox had it loaded.")
    wait_seconds: float = Field(ge=0, description="Time predicting stood still for data.")
    process_cpu_seconds: float = Field(ge=0, description="Processor time, user and system.")
    billed_duration_ms: int = Field(
        ge=0,
        description="Handler time up to this record, rounded up to 1 ms as Lambda bills. The "
        "REPORT log line is authoritative: it adds writing this file and a cold start's init.",
    )
    num_nonfinite_pixels: int = Field(
        default=0, ge=0, description="Pixels that are NaN, infinite, or beyond ±1e9."
    )
    num_nonfinite_magnitudes: int = Field(
        default=0,
        ge=0,
        description="Magnitudes and scalars that are NaN, infinite, or beyond ±1e9.",
    )
    num_unpredicted: int = Field(
        default=0, ge=0, description="Galaxies whose prediction is NaN: non-finite input or output."
    )
    flag_counts: dict[str, int] = Field(
        default={}, description="Galaxies with each flag, by its name; none where there are none."
    )
    origin: Origin | None = Field(
        default=None, description="Model and images, for the catalogue; none without galaxies."
    )
    data_etag: str | list[str] | None = Field(
        default=None, description="ETags of the partitions as they were read, as data_path."
    )
    predictions_key: str = Field(description="Where the predictions are.")
    predictions_etag: str = Field(description="Their ETag: Summarize trusts no other file.")
    task_digest: str = Field(
        default="", description="SHA-256 of the rank's manifest item: its instructions."
    )
    quality: QualityStatistics = Field(
        default=QualityStatistics(), description="Mergeable statistics of the redshifts."
    )


class FailedRank(Contract):
    """A rank that left no result, and why as far as anyone knows."""

    rank: int = Field(ge=0)
    data_path: str | list[str] | None
    data_etag: str | list[str] | None = Field(
        default=None, description="ETags of its partitions when they were planned, likewise."
    )
    error: str
    cause: str
    child: str = Field(default="", description="ARN of the Map's child that ran it, if known.")


class Summary(Contract):
    """``summary.json``: what an execution amounts to.

    ``status`` is SUCCEEDED only when every rank was received; PARTIAL when ranks are missing
    and the execution tolerates that many; FAILED otherwise.
    """

    status: Literal["SUCCEEDED", "PARTIAL", "FAILED"]
    execution: Execution
    input: dict[str, Any]
    failure: Failure | None = None
    warnings: list[str] = []
    world_size: int = Field(default=0, ge=0)
    ranks_received: int = Field(default=0, ge=0)
    ranks_kept: int = Field(
        default=0, ge=0, description="Of those received, results of earlier executions."
    )
    num_failed_ranks: int = Field(default=0, ge=0)
    failed_ranks: list[FailedRank] = []
    num_partitions: int = Field(default=0, ge=0)
    num_samples: int = Field(default=0, ge=0)
    num_bytes: int = Field(default=0, ge=0)
    num_nonfinite_pixels: int = Field(default=0, ge=0)
    num_nonfinite_magnitudes: int = Field(default=0, ge=0)
    num_unpredicted: int = Field(default=0, ge=0)
    flag_counts: dict[str, int] = Field(
        default={}, description="Galaxies with each flag, by its name; none where there are none."
    )
    origin: Origin | None = Field(default=None, description="Model and images, if all ranks agree.")
    wall_seconds: float = Field(default=0.0, ge=0, description="Start of execution to summary.")
    inference_seconds: float = Field(
        default=0.0, ge=0, description="First rank's start to last rank's finish."
    )
    samples_per_second: float = Field(
        default=0.0, ge=0, description="num_samples / inference_seconds."
    )
    throughput_bps: float = Field(default=0.0, ge=0, description="Sum of the ranks' throughputs.")
    peak_memory_mb: float = Field(default=0.0, ge=0, description="Largest of the ranks.")
    cold_starts: int = Field(default=0, ge=0)
    billed_seconds: float = Field(default=0.0, ge=0, description="Sum over the ranks.")
    engine: str | None = None
    model_digest: str | None = None
    quality: Quality | None = None
    cost: CostBreakdown | None = Field(
        default=None, description="Dollars, estimated from the records at list prices."
    )
    fmi: CollectiveResult | None = Field(default=None, description="What the ranks agreed on.")
    finished_at: datetime


def parse(model: type[ContractT], data: object) -> ContractT:
    """Validate ``data`` as ``model``.

    Raises
    ------
    InvalidInput
        Naming every key that is missing, unknown, or has a wrong value, and what was found.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(f"{model.__name__}: {problems_of(error, model)}") from None


def parse_json(model: type[ContractT], text: bytes, where: str) -> ContractT:
    """Validate JSON text as ``model``; ``where`` names the file in the message.

    Raises
    ------
    InvalidInput
        If it is not JSON, or not what the model describes; see :func:`parse`.
    """
    try:
        document = load_json(text)
    except ValueError as error:
        raise InvalidInput(f"{where} is damaged: it is not valid JSON ({error})") from None
    try:
        return parse(model, document)
    except InvalidInput as error:
        raise InvalidInput(f"{where} is damaged: {error}") from None
