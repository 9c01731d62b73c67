"""What each function's role allows is what its code calls: nothing missing, nothing unused.

The steps run against a real S3 server through everything they do (fresh, repeated, refused,
overwritten, incomplete, failed), and every request they make is recorded.
"""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from cosmicai import model_cache, storage
from cosmicai.collective import run_collective
from cosmicai.errors import CosmicAIError
from cosmicai.facts import BAND_NAMES
from cosmicai.model.architectures import bundle_files
from cosmicai.model.interface import ImageInput, Inputs, PointOutput
from cosmicai.model.onnx_config import OnnxConfig
from cosmicai.schema import CollectiveEvent, parse
from cosmicai_workbench.cloud.template import _Reader
from model_fill import CALIBRATION
from s3_stack import BUCKET, ROOT, MeanEngine, Stack, running_stack
from samcli.yamlhelper import yaml_parse

SURVEY = "survey-data"
# The widest roles: inputs as published write all over their bucket.
PARAMETERS = {"BucketName": BUCKET, "DataBucketName": SURVEY, "ResultPrefix": ""}
TEMPLATE = ROOT / "template.yaml"
REAL_LOAD = model_cache.load
RESULTS = "result-partition-100MB/1GB/1"

ACTIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
}

Call = tuple[str, str]
"""Action and ARN."""


@dataclass
class Recorder:
    """Requests by function."""

    calls: dict[str, set[Call]] = field(default_factory=dict)
    function: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def of(self, function: str) -> Iterator[None]:
        self.function = function
        try:
            yield
        finally:
            self.function = ""

    def record(self, name: str, params: dict[str, Any], status: int) -> None:
        if not self.function:
            return
        bucket = params["Bucket"]
        whole = f"arn:aws:s3:::{bucket}"
        if name == "ListObjectsV2":
            found = [("s3:ListBucket", whole)]
        elif name == "DeleteObjects":
            objects = params["Delete"]["Objects"]
            found = [("s3:DeleteObject", f"{whole}/{item['Key']}") for item in objects]
        else:
            arn = f"{whole}/{params['Key']}"
            found = [(ACTIONS[name], arn)]
            if name == "PutObject" and "IfMatch" in params:
                found.append(("s3:GetObject", arn))  # S3 wants it to compare
            if "Tagging" in params:
                found.append(("s3:PutObjectTagging", arn))
            if status == 404:
                found.append(("s3:ListBucket", whole))  # without it, S3 answers 403 instead
        with self.lock:
            self.calls.setdefault(self.function, set()).update(found)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Record the calls of every boto3 client of this process."""
        call = BaseClient._make_api_call

        def recorded(client: BaseClient, name: str, params: dict[str, Any]) -> Any:
            try:
                answer = call(client, name, params)
            except ClientError as error:
                self.record(name, params, error.response["ResponseMetadata"]["HTTPStatusCode"])
                raise
            self.record(name, params, 200)
            return answer

        monkeypatch.setattr(BaseClient, "_make_api_call", recorded)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder()
    for stack in running_stack(monkeypatch, tmp_path):
        monkeypatch.setattr(model_cache, "load", REAL_LOAD)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr(
            "cosmicai.engines.base.load_engine", lambda *arguments, **options: MeanEngine()
        )
        model_cache._load.cache_clear()
        recorder.watch(monkeypatch)
        storage.client().create_bucket(Bucket=SURVEY)
        stack.input["data_bucket"] = SURVEY
        stack.put_model()
        storage.store(BUCKET).write_json("Anomaly Detection/calibration.json", CALIBRATION)
        stack.put_partitions(["1.pt", "2.pt"])
        run_everything(stack, recorder)
        model_cache._load.cache_clear()
        yield recorder


def run_everything(stack: Stack, recorder: Recorder) -> None:
    def attempt(call: Callable[..., Any], *arguments: Any, **change: Any) -> None:
        with pytest.raises(CosmicAIError):
            call(*arguments, **change)

    with recorder.of("InitializeFunction"):
        attempt(stack.initialize, data_prefix="nowhere")
        attempt(stack.initialize, S3_object_name="nowhere")
        plan = stack.initialize("first")
        stack.initialize("first")
        attempt(stack.initialize, "second")
    items = stack.manifest(plan)
    with recorder.of("ModelInferenceFunction"):
        stack.run_items(items[:1])
        stack.run_items(items[:1])
        attempt(stack.run_items, [{**items[1], "DATA_PATH": "100MB/gone.pt"}])
    stack.fail_rank(plan, 1, "CorruptPartition", "is cut off")
    with recorder.of("SummarizeFunction"):
        attempt(stack.summarize, "first")
        stack.summarize("first", failure={"Error": "IncompleteResults", "Cause": "{}"})
    with recorder.of("ModelInferenceFunction"):
        stack.run_items(items[1:])
    with recorder.of("SummarizeFunction"):
        stack.summarize("first")
        stack.summarize(
            "nobody",
            result_path="never/claimed",
            failure={"Error": "PartitionNotFound", "Cause": "{}"},
        )
    storage.store(BUCKET).write(f"{RESULTS}/fmi/{'0' * 20}/abort", b"by a crashed collective")
    with recorder.of("InitializeFunction"):
        stack.initialize("resumed", resume=plan.execution.id)
        stack.initialize("third", overwrite=True)
    meet(stack, recorder)
    run_a_graph(stack, recorder)


def run_a_graph(stack: Stack, recorder: Recorder) -> None:
    """Run a model that was imported from ONNX, whose bundle has other files."""
    import openvino as ov
    from openvino import opset13 as op

    folder = stack.folder / "graph"
    folder.mkdir()
    image = op.parameter([-1, 5, 32, 32], np.float32, name="image")
    image.output(0).set_names({"image"})
    mean = op.reduce_mean(image, np.array([1, 2, 3]), keep_dims=False)
    mean.output(0).set_names({"z"})
    ov.save_model(ov.Model([mean], [image]), folder / "model.xml", compress_to_fp16=False)
    inputs = Inputs(image=ImageInput(bands=BAND_NAMES, side=32))
    config = OnnxConfig(inputs=inputs, output=PointOutput(tensors=("z",)))
    (folder / "config.json").write_text(config.to_json())
    for file in bundle_files(folder):
        storage.store(BUCKET).write(f"graph/{file.name}", file.read_bytes())
    change = {"S3_object_name": "graph", "engine": "openvino", "result_path": "of/a/graph"}
    with recorder.of("InitializeFunction"):
        plan = stack.initialize("graph", **change)
    with recorder.of("ModelInferenceFunction"):
        stack.run_ranks(plan)


def meet(stack: Stack, recorder: Recorder) -> None:
    """Run the collective of two ranks, and the abort of another two, over S3."""
    for name, failure in (("meets", None), ("aborts", {"Error": "CorruptPartition"})):
        change = {"script": "inference_FMI.py", "fmi_channel": "s3", "result_path": f"fmi/{name}"}
        items = stack.manifest(stack.initialize(name, **change))
        with recorder.of("ModelInferenceFunction"):
            stack.run_items(items)
        events = [parse(CollectiveEvent, {**item, "failure": failure}) for item in items]
        with recorder.of("InvokeFmiFunction"), ThreadPoolExecutor(2) as pool:
            list(pool.map(run_collective, events, [30.0, 30.0]))


def statements(
    function: str, parameters: dict[str, str], effect: str = "Allow"
) -> list[tuple[str, str]]:
    """Return action and resource pattern of everything the function's role allows, or denies."""
    document = yaml_parse(TEMPLATE.read_text())
    reader = _Reader(TEMPLATE, document, "cosmicai", parameters)
    role = document["Resources"][function.replace("Function", "Role")]["Properties"]
    policies = [policy["PolicyDocument"]["Statement"] for policy in role["Policies"]]
    found = []
    for policy in policies:
        # Writing to the function's own log group is Lambda's doing, not the code's.
        own = [statement for statement in policy if statement.get("Sid") != "WriteLogs"]
        for statement in reader._resolve(own):
            if statement["Effect"] == effect:
                actions, resources = (
                    [value] if isinstance(value, str) else value
                    for value in (statement["Action"], statement["Resource"])
                )
                found += [(action, resource) for action in actions for resource in resources]
    return found


def matches(permissions: list[tuple[str, str]], call: Call) -> bool:
    return any(action == call[0] and covers(pattern, call[1]) for action, pattern in permissions)


def covers(pattern: str, arn: str) -> bool:
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(expression, arn) is not None


FUNCTIONS = [
    "InitializeFunction",
    "ModelInferenceFunction",
    "InvokeFmiFunction",
    "SummarizeFunction",
]


def test_every_call_is_allowed_and_every_permission_is_used(recorder: Recorder) -> None:
    missing: list[tuple[str, ...]] = []
    unused: list[tuple[str, ...]] = []
    for function in FUNCTIONS:
        allowed = statements(function, PARAMETERS)
        denied = statements(function, PARAMETERS, "Deny")
        calls = recorder.calls[function]
        missing += [
            (function, *call)
            for call in sorted(calls)
            if not matches(allowed, call) or matches(denied, call)
        ]
        unused += [
            (function, *permission)
            for permission in allowed
            if not any(matches([permission], call) for call in calls)
        ]
    assert missing == []
    assert unused == []


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "kept",
    [
        f"{SURVEY}/100MB/1.pt",
        f"{BUCKET}/100MB/1.pt",
        f"{BUCKET}/Anomaly Detection/model.safetensors",
        f"{BUCKET}/Anomaly Detection/config.json",
        f"{BUCKET}/Anomaly Detection/calibration.json",
    ],
)
def test_no_function_may_change_the_data_or_the_model(function: str, kept: str) -> None:
    allowed = statements(function, PARAMETERS)
    denied = statements(function, PARAMETERS, "Deny")
    for action in ("s3:PutObject", "s3:DeleteObject"):
        call = (action, f"arn:aws:s3:::{kept}")
        assert not matches(allowed, call) or matches(denied, call)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_by_default_functions_write_results_and_nothing_else(function: str) -> None:
    written = [
        resource
        for action, resource in statements(function, {"BucketName": BUCKET})
        if action in ("s3:PutObject", "s3:DeleteObject", "s3:PutObjectTagging")
    ]
    assert written
    assert [
        each for each in written if not each.startswith(f"arn:aws:s3:::{BUCKET}/results/")
    ] == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_bucket_of_the_stacks_own_is_treated_as_one_that_was_brought(function: str) -> None:
    brought = statements(function, {"BucketName": "cosmicai-bucket"})
    created = statements(function, {"BucketName": ""})
    assert created == brought
