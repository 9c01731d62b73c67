"""What Summarize takes at ten thousand ranks whose records hold the quality of p(z).

    python benchmarks/summarize.py [--ranks 10000] [--json benchmarks/results/summarize.json]

An S3 server in a process of its own holds the records; Summarize runs in another, without NumPy, as
in its function. Its seconds are the server's; its memory is its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measuring import machine

ROOT = Path(__file__).parents[1]
BUCKET = "cosmicai-data"
EXECUTION = {
    "id": "arn:aws:states:us-east-1:123456789012:execution:cosmicai:measured",
    "name": "measured",
    "start_time": "2026-11-26T09:00:00Z",
}
SUMMARIZE = """
import json, sys, time
from cosmicai.machine import peak_memory_mb
from cosmicai.schema import SummarizeEvent, parse
from cosmicai.summarize import summarize
started = time.perf_counter()
summary = summarize(parse(SummarizeEvent, json.load(sys.stdin)))
print(json.dumps({"status": summary.status, "ranks": summary.ranks_received,
    "galaxies": summary.num_samples, "peak_mb": peak_memory_mb(),
    "seconds": time.perf_counter() - started, "numpy": "numpy" in sys.modules}))
"""


def serve(ranks: int) -> None:
    """Serve an execution whose ranks are done; say where, and how large a record is."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    from cosmicai import keys, storage
    from cosmicai.initialize import initialize
    from cosmicai.model.architectures import bundle_files
    from cosmicai.schema import InitializeEvent, ManifestItem, parse

    storage.client().create_bucket(Bucket=BUCKET)
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    content = json.loads((ROOT / "events/seed-100MB-1GB.json").read_text())
    content |= {"file_limit": ranks, "result_path": "results/measured"}
    for file in bundle_files(ROOT / "models/astromae-small"):
        key = keys.model_file(content["S3_object_name"], file.name)
        storage.store(BUCKET).write(key, file.read_bytes())
    for number in range(1, ranks + 1):
        backend.put_object(BUCKET, f"{content['data_prefix']}/{number}.pt", b"x")
    event = {"execution": EXECUTION, "input": content}
    plan = initialize(parse(InitializeEvent, event))
    record, size = record_of_a_rank(plan.world_size), 0
    path = plan.result_path
    for item in storage.store(BUCKET).read_json(plan.manifest_key):
        rank, task = item["RANK"], parse(ManifestItem, item)
        done = backend.put_object(BUCKET, keys.predictions(path, rank), b"x")
        own = record | {
            "rank": rank,
            "data_path": task.DATA_PATH,
            "result_path": path,
            "num_bytes": 1,
            "task_digest": task.digest,
            "predictions_key": keys.predictions(path, rank),
            "predictions_etag": done.etag.strip('"'),
        }
        body = storage.json_bytes(own)
        backend.put_object(BUCKET, keys.rank(path, rank), body)
        size = len(body)
    print(json.dumps({"endpoint": os.environ["AWS_ENDPOINT_URL"], "event": event, "bytes": size}))
    sys.stdout.flush()
    sys.stdin.read()  # until the other end closes it


def record_of_a_rank(ranks: int) -> dict[str, Any]:
    """Return the record of a rank with 5,113 galaxies whose model gives 180 bins."""
    import numpy as np
    from cosmicai.inference import measured_fields
    from cosmicai.model.interface import Interface
    from cosmicai.prediction import Predictor
    from cosmicai.schema import RankRecord
    from distributions import BATCH, GALAXIES, OUTPUTS, Ready

    rng, output = np.random.default_rng(0), OUTPUTS["180 bins"]
    predictor = Predictor(Ready(output), digest="0" * 64, interface=Interface(output=output))
    image = np.zeros((GALAXIES, 5, 32, 32), np.float32)
    magnitude = rng.uniform(14, 22, (GALAXIES, 5)).astype(np.float32)
    columns = (predictions := predictor.predict(image, magnitude)).arrays([])
    error = rng.normal(0, 0.03, GALAXIES).astype(np.float32)
    columns["true_redshift"] = columns["redshift"] + error
    now = datetime.now(UTC)
    record = RankRecord(
        **measured_fields(predictions, columns, BATCH),
        result_path="",
        data_path=None,
        execution=EXECUTION["id"],
        rank=0,
        world_size=ranks,
        engine="native",
        precision="float32",
        threads=2,
        model_digest=predictor.digest,
        memory_limit_mb=3008,
        cold_start=True,
        request_id="measured",
        started_at=now,
        finished_at=now,
        model_load_seconds=1.0,
        process_cpu_seconds=1.0,
        billed_duration_ms=1000,
        predictions_key="",
        predictions_etag="",
    )
    return record.model_dump(mode="json", by_alias=True)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.ranks)
        return
    words = [sys.executable, __file__, "--serve", "--ranks", str(arguments.ranks)]
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            **credentials,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
            "TMPDIR": folder,
        }
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        pipes["stderr"] = subprocess.DEVNULL  # a line for each request
        with subprocess.Popen(words, env=environment, **pipes) as server:
            lines = iter(server.stdout)  # type: ignore[arg-type]
            told = json.loads(next(line for line in lines if line.startswith('{"endpoint')))
            started = time.perf_counter()
            outcome = subprocess.run(
                [sys.executable, "-c", SUMMARIZE],
                env={**environment, "AWS_ENDPOINT_URL": told["endpoint"]},
                input=json.dumps(told["event"]),
                capture_output=True,
                text=True,
                check=True,
            )
            server.stdin.close()  # type: ignore[union-attr]
    found = json.loads(outcome.stdout.splitlines()[-1])
    report = {
        "machine": machine("boto3", "moto"),
        "bytes_of_a_record": told["bytes"],
        "wall_seconds": time.perf_counter() - started,
        **found,
    }
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
