"""`sam build`, then `sam local invoke` of every function with its sample event: `make test-sam`.

Functions run natively on x86_64, and those that need its libraries on arm64 too, emulated where it
must be. S3 is a real server on this machine. PyTorch is built for arm64 alone: its x86_64 CPU build
is on PyTorch's own index, which this test does not ask for. Invoke FMI never imports it, so on
x86_64 it runs from a copy of the application whose layer goes without.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cosmicai
import numpy as np
import pytest
from cosmicai.inference import run_rank
from cosmicai.partition.reader import open_partition
from cosmicai.schema import ManifestItem, parse
from fmi_support import TOKEN, free_port, start_rendezvous, stop
from s3_stack import make_galaxies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[2]
EVENTS = ROOT / "events"
MODEL = ROOT / "models" / "astromae-small"
BUCKET = "cosmicai-data"
GALAXIES = 6
ARCHITECTURES = os.environ.get("COSMICAI_TEST_SAM", "").split()
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "SAM_CLI_TELEMETRY": "0",
    "SAM_CLI_CONTAINER_CONNECTION_TIMEOUT": "300",  # emulated, the emulator starts slowly
}
NATIVE = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARCHITECTURES, reason="needs Docker: run by `make test-sam`"),
]


def event(name: str, **changes: Any) -> dict[str, Any]:
    return {**json.loads((EVENTS / f"{name}.json").read_text()), **changes}


@pytest.fixture(scope="module")
def bridge() -> str:
    """The host's address on the bridge between containers and host."""
    command = ["docker", "network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}"]
    inspected = subprocess.run(command, capture_output=True, text=True, check=True)
    network = json.loads(inspected.stdout)[0]
    # A bridge that Docker laid out itself names no gateway: it is the first address.
    return network.get("Gateway") or str(ipaddress.ip_network(network["Subnet"])[1])


@pytest.fixture(scope="module")
def server(bridge: str) -> Iterator[str]:
    """An S3 server that containers reach."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=bridge, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://{bridge}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def s3(server: str, tmp_path_factory: pytest.TempPathFactory) -> S3Client:
    """A client of the server, which holds the model and the partitions of the sample events."""
    import boto3
    from cosmicai_workbench.data.partition_writer import write_partition

    os.environ.update(
        AWS_ENDPOINT_URL=server,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_DEFAULT_REGION="us-east-1",
    )
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    sample = event("initialize")["input"]
    for file in ("model.safetensors", "config.json"):
        client.upload_file(str(MODEL / file), BUCKET, f"{sample['S3_object_name']}/{file}")
    folder = tmp_path_factory.mktemp("partitions")
    for number in range(1, int(sample["file_limit"]) + 1):
        path = folder / f"{number}.pt"
        write_partition(path, make_galaxies(GALAXIES, number), {})
        client.upload_file(str(path), BUCKET, f"{sample['data_prefix']}/{number}.pt")
    return client


class Builds:
    """What `sam build` makes, once for each architecture and engine."""

    def __init__(self, folder: Path, source: Path = ROOT) -> None:
        self._folder = folder
        self._source = source
        self._made: dict[tuple[str, ...], Path] = {}
        self._invoked = itertools.count()

    def template(self, function: str, architecture: str, engine: str) -> Path:
        """Build a function with its layers and return the built template."""
        key = (function, architecture, engine)
        if key not in self._made:
            build = self._folder / "-".join(key)
            command = [str(BIN / "sam"), "build", function, "--build-dir", str(build), "--cached"]
            command += ["--cache-dir", str(self._folder / f"cache-{architecture}")]
            command += ["--parameter-overrides"]
            command += [f"Architecture={architecture}", f"Engine={engine}"]
            start = time.monotonic()
            done = subprocess.run(
                command,
                cwd=self._source,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            print(f"\nsam build {function} ({architecture}): {time.monotonic() - start:.0f} s")
            # `sam local` passes on only variables that the template names.
            template = build / "template.yaml"
            document = template.read_text()
            assert "POWERTOOLS_LOG_LEVEL:" in document
            template.write_text(
                document.replace(
                    "POWERTOOLS_LOG_LEVEL:",
                    "AWS_ENDPOINT_URL: ''\n        FMI_TOKEN: ''\n        POWERTOOLS_LOG_LEVEL:",
                    1,
                )
            )
            self._made[key] = template
        return self._made[key]

    def invoke(
        self,
        function: str,
        payload: dict[str, Any],
        architecture: str,
        engine: str = "native",
        **settings: str,
    ) -> dict[str, Any]:
        """Invoke a function in its container and return its response."""
        template = self.template(function, architecture, engine)
        number = next(self._invoked)
        payload_file = self._folder / f"event-{number}.json"
        payload_file.write_text(json.dumps(payload))
        variables = self._folder / f"variables-{number}.json"
        settings["AWS_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
        variables.write_text(json.dumps({"Parameters": settings}))
        command = [str(BIN / "sam"), "local", "invoke", function, "--template", str(template)]
        command += ["--event", str(payload_file), "--env-vars", str(variables)]
        command += ["--skip-pull-image", "--region", "us-east-1"]
        command += ["--parameter-overrides", f"Architecture={architecture}", f"Engine={engine}"]
        # Emulated code takes tens of times as long; the time-out is not what is tested here.
        if architecture != NATIVE:
            relax_timeouts(template)
        start = time.monotonic()
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=1000,
        )
        print(f"{function} ({architecture}): {time.monotonic() - start:.1f} s")
        report = [line for line in done.stderr.splitlines() if line.startswith("REPORT")]
        print(*report)
        assert done.returncode == 0, done.stderr
        response = json.loads(done.stdout.strip().splitlines()[-1])
        assert "errorType" not in response, (response, done.stderr[-4000:])
        return response


def relax_timeouts(template: Path) -> None:
    from samcli.yamlhelper import yaml_parse

    document = yaml_parse(template.read_text())
    for resource in document["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["Timeout"] = 900
    template.write_text(json.dumps(document))  # JSON is YAML


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    return Builds(tmp_path_factory.mktemp("builds"))


def without_torch(folder: Path) -> Path:
    """Copy what `sam build` reads, with a PyTorch/FMI layer that holds no PyTorch."""
    for name in ("layers", "packages", "functions", "infrastructure", "statemachine"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("template.yaml", "samconfig.toml"):
        shutil.copy(ROOT / name, folder)
    layer = folder / "layers" / "pytorch_fmi" / "layer.toml"
    layer.write_text(
        'requirements = ["requirements.txt"]\npackages = ["../../packages/fmilib/fmilib"]\n'
    )
    return folder


def write_record(rank: str, **keys: Any) -> None:
    """Run a rank on this machine, so that S3 holds the record that a function reads."""
    keys |= {"RANK": rank, "DATA_PATH": f"100MB/{int(rank) + 1}.pt", "ENGINE": "plain"}
    run_rank(parse(ManifestItem, event("model_inference", **keys)), f"request-{rank}")


def predicted(s3: S3Client, tmp_path: Path) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Return the columns of rank 0, as its function wrote them."""
    sample = event("model_inference")
    local = tmp_path / "0.npz"
    s3.download_file(BUCKET, f"{sample['RESULT_PATH']}/predictions/0.npz", str(local))
    with np.load(local, allow_pickle=False) as archive:
        return dict(archive)


def expected(s3: S3Client, tmp_path: Path) -> cosmicai.Predictions:
    """Return what the plain model predicts on this machine."""
    partition = tmp_path / "1.pt"
    s3.download_file(BUCKET, event("model_inference")["DATA_PATH"], str(partition))
    model = cosmicai.open_model(MODEL, engine="plain", threads=1)
    with open_partition(partition, batch_size=GALAXIES) as reader:
        (batch,) = reader
        return model.predict(batch.image, batch.magnitude)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initialize(builds: Builds, s3: S3Client, architecture: str) -> None:
    sample = event("initialize")
    sample["execution"]["id"] += f"-{architecture}"
    sample["input"] |= {"result_path": f"results/plans/{architecture}"}
    plan = builds.invoke("InitializeFunction", sample, architecture)
    assert plan["world_size"] == 11
    stored = s3.get_object(Bucket=BUCKET, Key=plan["manifest_key"])["Body"].read()
    assert [item["RANK"] for item in json.loads(stored)] == list(range(11))


@pytest.mark.parametrize(
    ("engine", "architecture"),
    [
        pytest.param(engine, architecture, id=f"{engine}-{architecture}")
        for engine, architecture in [
            ("native", "x86_64"),
            ("native", "arm64"),
            ("openvino", "arm64"),
            ("torch", "arm64"),
        ]
        if architecture in ARCHITECTURES
    ],
)
def test_model_inference_predicts_what_this_machine_predicts(
    builds: Builds, s3: S3Client, tmp_path: Path, engine: str, architecture: str
) -> None:
    payload = event("model_inference", ENGINE=engine)
    # A rank whose record is there does nothing again: none may be left of another architecture.
    for key in (f"{payload['RESULT_PATH']}/0.json", f"{payload['RESULT_PATH']}/predictions/0.npz"):
        s3.delete_object(Bucket=BUCKET, Key=key)
    builds.invoke("ModelInferenceFunction", payload, architecture, engine)
    stored = s3.get_object(Bucket=BUCKET, Key=f"{payload['RESULT_PATH']}/0.json")["Body"].read()
    record = json.loads(stored)
    assert (record["architecture"], record["engine"]) == (architecture, engine)
    found, wanted = predicted(s3, tmp_path), expected(s3, tmp_path)
    for column in ("redshift", "z_lo68", "z_hi95"):
        np.testing.assert_allclose(found[column], wanted[column], rtol=0, atol=1e-4, err_msg=column)
    assert np.array_equal(found["flags"], wanted["flags"])


@pytest.mark.skipif("arm64" not in ARCHITECTURES, reason="needs arm64")
def test_invoke_fmi_sample_event(builds: Builds, s3: S3Client) -> None:
    write_record("0")
    answer = builds.invoke("InvokeFmiFunction", event("invoke_fmi"), "arm64")
    assert answer == {"rank": 0, "world_size": 1, "num_samples": GALAXIES}


@pytest.mark.skipif(NATIVE not in ARCHITECTURES, reason="two ranks at once run natively")
def test_ranks_in_containers_meet_at_the_rendezvous(
    s3: S3Client, bridge: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The direct channel: two containers, which connect to one another."""
    builds = Builds(tmp_path_factory.mktemp("fmi"), without_torch(tmp_path_factory.mktemp("app")))
    keys = {"WORLD_SIZE": 2, "RESULT_PATH": "results/fmi/direct", "FMI_CHANNEL": "direct"}
    for rank in ("0", "1"):
        write_record(rank, **keys)
    port = free_port()
    rendezvous = start_rendezvous(port, host=bridge)
    settings = {"FMI_RENDEZVOUS": f"{bridge}:{port}", "FMI_TOKEN": TOKEN}
    builds.template("InvokeFmiFunction", NATIVE, "native")

    def meet(rank: str) -> dict[str, Any]:
        payload = event("invoke_fmi", RANK=rank, **keys)
        return builds.invoke("InvokeFmiFunction", payload, NATIVE, **settings)

    try:
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(meet, ("0", "1")))
    finally:
        stop(rendezvous)
    assert answers == [
        {"rank": 0, "world_size": 2, "num_samples": 2 * GALAXIES},
        {"rank": 1, "world_size": 2},
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES[:1])
def test_summarize(builds: Builds, s3: S3Client, architecture: str) -> None:
    sample = event("initialize")
    sample["input"] |= {"overwrite": True}  # the tests above left results of the same events
    plan = builds.invoke("InitializeFunction", sample, architecture)
    manifest = s3.get_object(Bucket=BUCKET, Key=plan["manifest_key"])["Body"].read()
    for item in json.loads(manifest):
        run_rank(parse(ManifestItem, item), f"request-{item['RANK']}")
    summary = builds.invoke("SummarizeFunction", event("summarize"), architecture)
    assert summary["status"] == "SUCCEEDED"
    assert summary["ranks_received"] == 11
    failure = builds.invoke("SummarizeFunction", event("summarize-failure"), architecture)
    assert failure["status"] == "FAILED"
