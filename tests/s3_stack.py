"""A stack's storage for tests: a real S3 server, a bucket, partitions, and a stand-in engine."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai import inference, keys, model_cache, storage
from cosmicai.initialize import initialize
from cosmicai.model.architectures import bundle_files
from cosmicai.prediction import Predictor
from cosmicai.schema import InitializeEvent, ManifestItem, Plan, SummarizeEvent, Summary, parse
from cosmicai.summarize import summarize
from cosmicai_workbench.data.partition_writer import write_partition
from cosmicai_workbench.data.synthesis import Galaxies
from model_fill import SMALL, filled_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import pytest
    from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
BUCKET = "cosmicai-data"
ARN = "arn:aws:states:us-east-1:123456789012:execution:cosmicai-inference:"


class MeanEngine:
    """Predicts a twentieth of the mean pixel, with no model at all."""

    name = "mean"

    def predict(
        self, image: NDArray[np.float32], magnitude: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return image.mean(axis=(1, 2, 3)) / np.float32(20) + magnitude.sum(axis=1) * np.float32(0)


@dataclass
class Context:
    """What Lambda passes beside the event."""

    function_name: str = "function"
    memory_limit_in_mb: int = 2048
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:function"
    aws_request_id: str = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@dataclass
class Stack:
    """One bucket, and the steps as the state machine calls them."""

    folder: Path
    endpoint: str = ""
    input: dict[str, Any] = field(
        default_factory=lambda: json.loads((ROOT / "events/seed-100MB-1GB.json").read_text())
    )

    def put_model(self) -> None:
        filled_bundle(SMALL, self.folder / "model")
        for file in bundle_files(self.folder / "model"):
            storage.store(BUCKET).write(f"Anomaly Detection/{file.name}", file.read_bytes())

    def put_partitions(self, names: list[str], galaxies: int = 6, **change: Any) -> None:
        for number, name in enumerate(names):
            path = self.folder / name
            write_partition(path, make_galaxies(galaxies, seed=number, **change), {"from": "test"})
            storage.store(self.input["data_bucket"]).write(f"100MB/{name}", path.read_bytes())

    def execution(self, name: str) -> dict[str, Any]:
        return {"id": ARN + name, "name": name, "start_time": "2026-11-22T09:00:00Z"}

    def initialize(self, name: str = "first", **change: Any) -> Plan:
        event = {"execution": self.execution(name), "input": {**self.input, **change}}
        return initialize(parse(InitializeEvent, event))

    def manifest(self, plan: Plan) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = storage.store(plan.bucket).read_json(plan.manifest_key)
        return items

    def run_ranks(self, plan: Plan, ranks: list[int] | None = None) -> list[dict[str, Any]]:
        items = self.manifest(plan)
        return self.run_items([item for item in items if ranks is None or item["RANK"] in ranks])

    def run_items(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [inference.run_rank(parse(ManifestItem, item), "request-1") for item in items]

    def fail_rank(self, plan: Plan, rank: int, error: str, message: str) -> None:
        """Write what the state machine writes when a rank fails for good."""
        item = self.manifest(plan)[rank]
        cause = json.dumps({"errorMessage": message, "errorType": error})
        document = {
            "execution": item["EXECUTION"],
            "rank": item["RANK"],
            "failure": {"Error": error, "Cause": cause},
        }
        storage.store(plan.bucket).write_json(item["FAILURE_KEY"], document)

    def summarize(self, name: str = "first", **change: Any) -> Summary:
        failure = change.pop("failure", None)
        event = {"execution": self.execution(name), "input": {**self.input, **change}}
        return summarize(parse(SummarizeEvent, {**event, "failure": failure}))

    def read(self, file: str) -> Any:
        return storage.store(BUCKET).read_json(f"{self.input['result_path']}/{file}")

    def files(self) -> dict[str, str]:
        """Return file → ETag under the result path."""
        prefix = keys.folder(self.input["result_path"])
        return {
            item.key.removeprefix(prefix): item.etag for item in storage.store(BUCKET).list(prefix)
        }


def make_galaxies(count: int, seed: int = 0, **change: Any) -> Galaxies:
    """Galaxies whose redshift a MeanEngine nearly gets right."""
    rng = np.random.default_rng(seed)
    redshift = rng.uniform(0.05, 0.4, count).astype(np.float32)
    image = np.broadcast_to(20 * redshift[:, None, None, None], (count, 5, 32, 32)).copy()
    image += rng.normal(0, 0.1, image.shape).astype(np.float32)
    magnitude = rng.normal(18, 1, (count, 5)).astype(np.float32)
    arrays = {"image": image, "magnitude": magnitude, "redshift": redshift, **change}
    return Galaxies(**arrays, parent=np.arange(count))


def running_stack(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Stack]:
    """Serve S3 for the length of a test; the environment points to it."""
    from moto.moto_api._internal import moto_api_backend

    endpoint = _endpoint()
    moto_api_backend.reset()  # one server for the whole process, empty for every test
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "2048")
    storage.client.cache_clear()
    try:
        storage.client().create_bucket(Bucket=BUCKET)
        monkeypatch.setattr(
            model_cache,
            "load",
            lambda item, threads: (Predictor(MeanEngine(), digest="digest"), 0.0),
        )
        yield Stack(folder, endpoint)
    finally:
        storage.client().close()
        storage.client.cache_clear()


@functools.cache
def _endpoint() -> str:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    atexit.register(server.stop)
    _, port = server.get_host_and_port()
    return f"http://127.0.0.1:{port}"


def put_many(names: list[str]) -> None:
    """Put partitions of one byte straight into the server's state: thousands in a second."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for name in names:
        backend.put_object(BUCKET, f"100MB/{name}", b"x")


def load_handler(step: str) -> ModuleType:
    """Import ``functions/<step>/app.py`` as Lambda does: by its path."""
    path = ROOT / "functions" / step / "app.py"
    spec = importlib.util.spec_from_file_location(f"{step}_app", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
