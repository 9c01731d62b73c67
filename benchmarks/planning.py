"""How long Initialize takes, and how much memory, to plan very many partitions.

Initialize runs in a process of its own, over HTTP, against a stand-in for S3 that answers
listings of any length at once: what is measured is our code, boto3, and the loopback interface.
Amazon's S3 adds some 50 ms a page of 1,000 keys (5 s for 100,000), which is not measured here.

    python benchmarks/planning.py [--partitions 100000] [--repeat 5] [--json]

Writes ``benchmarks/results/planning.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from measuring import machine, spread

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/planning.json"
PAGE = 1000
LIMITS = {"seconds": 10.0, "peak_rss_mb": 512.0}

CHILD = """
import json, resource, sys, time
started = time.perf_counter()
from cosmicai.initialize import initialize
from cosmicai.schema import InitializeEvent, parse
plan = initialize(parse(InitializeEvent, json.loads(sys.stdin.read())))
print(json.dumps({
    "seconds": time.perf_counter() - started,
    "cpu_seconds": time.process_time(),
    "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    "world_size": plan.world_size,
}), file=sys.stderr)
"""


class StandIn(BaseHTTPRequestHandler):
    """As much of S3 as Initialize uses."""

    protocol_version = "HTTP/1.1"
    partitions = 0
    bundle = Path()
    keys: tuple[str, ...] = ()
    manifest_bytes = 0

    def answer(self, body: bytes, status: int = 200, etag: str = "0" * 32) -> None:
        """Send a response."""
        self.send_response(status)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        """Answer as to GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer a listing, or a file of the model."""
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if "list-type" in query:
            self.list(query)
            return
        file = self.bundle / Path(url.path).name
        if not file.is_file():
            self.answer(b"<Error><Code>NoSuchKey</Code></Error>", 404)
            return
        body = file.read_bytes()
        if span := self.headers.get("Range"):
            first, last = span.removeprefix("bytes=").split("-")
            self.answer(body[int(first) : int(last) + 1], 206)
        else:
            self.answer(body)

    def list(self, query: dict[str, list[str]]) -> None:
        """Answer one page of a listing."""
        keys = self.keys if query["prefix"][0].startswith("data/") else ()
        start = int(query.get("continuation-token", ["0"])[0])
        page = keys[start : start + PAGE]
        more = start + PAGE < len(keys)
        token = f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>" if more else ""
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>104857600</Size>"
            "<LastModified>2026-11-22T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{'0' * 32}&quot;</ETag></Contents>"
            for key in page
        )
        self.answer(
            (
                "<ListBucketResult>"
                f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}"
                "</ListBucketResult>"
            ).encode()
        )

    def do_PUT(self) -> None:
        """Take anything."""
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        if self.path.endswith("manifest.json"):
            type(self).manifest_bytes = length
        self.answer(b"")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def measure(partitions: int, repeat: int) -> dict[str, object]:
    """Plan so many partitions, so often."""
    sys.path.insert(0, str(ROOT / "tests"))
    from model_fill import SMALL, filled_bundle

    StandIn.keys = tuple(sorted(f"data/{number}.pt" for number in range(1, partitions + 1)))
    event = {
        "execution": {"id": "arn:aws:states:::execution:x:y", "start_time": "2026-11-22T00:00:00Z"},
        "input": {
            "bucket": "bucket", "file_limit": partitions, "batch_size": 512,
            "object_type": "folder", "S3_object_name": "model", "script": "inference.py",
            "result_path": "results", "data_bucket": "bucket", "data_prefix": "data",
        },
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        StandIn.bundle = filled_bundle(SMALL, Path(folder)).path
        server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        runs = []
        for _ in range(repeat):
            child = subprocess.run(
                [sys.executable, "-c", CHILD],
                input=json.dumps(event), env=environment, text=True, capture_output=True,
                timeout=300, check=True,
            )  # fmt: skip
            runs.append(json.loads(child.stderr.splitlines()[-1]))
        server.shutdown()
    return {
        "benchmark": "planning",
        "partitions": partitions,
        "n": repeat,
        "seconds": spread([run["seconds"] for run in runs]),
        "cpu_seconds": spread([run["cpu_seconds"] for run in runs]),
        "peak_rss_mb": spread([run["peak_rss_mb"] for run in runs]),
        "manifest_mb": StandIn.manifest_bytes / 1e6,
        "limits": LIMITS,
        "machine": machine(),
    }


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_args()
    results = measure(arguments.partitions, arguments.repeat)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{results['partitions']} partitions, n = {results['n']}")
    for name in ("seconds", "cpu_seconds", "peak_rss_mb"):
        found = results[name]
        assert isinstance(found, dict)
        limit = f", limit {LIMITS[name]:g}" if name in LIMITS else ""
        spread = f"({found['min']:.2f} to {found['max']:.2f})"
        print(f"  {name}: median {found['median']:.2f} {spread}{limit}")


if __name__ == "__main__":
    main()
