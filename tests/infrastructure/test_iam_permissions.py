"""What each function's role allows is what its code calls: nothing missing, nothing unused.

The steps run against a real S3 server through everything they do (fresh, repeated, refused,
overwritten, incomplete, failed), and every request they make is recorded.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cosmicai import model_cache, storage
from cosmicai.errors import CosmicAIError
from cosmicai_workbench.cloud.template import _Reader
from s3_stack import BUCKET, ROOT, MeanEngine, Stack, running_stack
from samcli.yamlhelper import yaml_parse

SURVEY = "survey-data"
PARAMETERS = {"BucketName": BUCKET, "DataBucketName": SURVEY}
TEMPLATE = ROOT / "template.yaml"
REAL_LOAD = model_cache.load
RESULTS = "result-partition-100MB/1GB/1"

ACTIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObjects": "s3:DeleteObject",
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

    def add(self, action: str, bucket: str, key: str | None = None) -> None:
        arn = f"arn:aws:s3:::{bucket}" + (f"/{key}" if key is not None else "")
        with self.lock:
            self.calls.setdefault(self.function, set()).add((action, arn))

    def before(self, params: dict[str, Any], model: Any, context: dict[str, Any], **_: Any) -> None:
        context["recorded"] = (model.name, params)

    def after(self, http_response: Any, context: dict[str, Any], **_: Any) -> None:
        name, params = context["recorded"]
        bucket = params["Bucket"]
        if not self.function:
            return
        if name == "ListObjectsV2":
            self.add("s3:ListBucket", bucket)
        elif name == "DeleteObjects":
            for item in params["Delete"]["Objects"]:
                self.add("s3:DeleteObject", bucket, item["Key"])
        else:
            self.add(ACTIONS[name], bucket, params["Key"])
            if name == "PutObject" and "IfMatch" in params:
                self.add("s3:GetObject", bucket, params["Key"])  # S3 wants it to compare
            if http_response.status_code == 404:
                self.add("s3:ListBucket", bucket)  # without it, S3 answers 403 instead


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
        events = storage.client().meta.events
        events.register("provide-client-params.s3", recorder.before)
        events.register("after-call.s3", recorder.after)
        storage.client().create_bucket(Bucket=SURVEY)
        stack.input["data_bucket"] = SURVEY
        stack.put_model()
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
    with recorder.of("InitializeFunction"):
        stack.initialize("third", overwrite=True)


def statements(
    function: str, parameters: dict[str, str], effect: str = "Allow"
) -> list[tuple[str, str]]:
    """Return action and resource pattern of everything the function's role allows, or denies."""
    document = yaml_parse(TEMPLATE.read_text())
    reader = _Reader(TEMPLATE, document, "cosmicai", parameters)
    policies = document["Resources"][function]["Properties"]["Policies"]
    found = []
    for policy in policies:
        for statement in reader._resolve(policy["Statement"]):
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


FUNCTIONS = ["InitializeFunction", "ModelInferenceFunction", "SummarizeFunction"]


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
    ],
)
def test_no_function_may_change_the_data_or_the_model(function: str, kept: str) -> None:
    allowed = statements(function, PARAMETERS)
    denied = statements(function, PARAMETERS, "Deny")
    for action in ("s3:PutObject", "s3:DeleteObject"):
        call = (action, f"arn:aws:s3:::{kept}")
        assert not matches(allowed, call) or matches(denied, call)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_bucket_of_the_stacks_own_is_treated_as_one_that_was_brought(function: str) -> None:
    brought = statements(function, {"BucketName": "cosmicai-bucket"})
    created = statements(function, {"BucketName": ""})
    assert created == brought
