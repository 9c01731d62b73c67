"""What the init phase of Model Inference costs, in the built layers and the runtime's image.

    make test-sam                        # once: Docker has the images of both architectures
    python benchmarks/cold_import.py [--repeat 5] [--json]

Each measurement is a new process in a new container, with the layers on its path as Lambda has
them, and files in the page cache. The architectures and the imports take turns. One architecture is
emulated: its seconds say nothing about Lambda's processors, and its memory is the emulator's too.
Of it only the ratio to an import of NumPy is kept, to be held against the same ratio natively.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from measuring import machine, spread

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "cold_import.json"
NATIVE = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]
# Processor seconds of one import, and the peak memory of a process that did nothing else.
MEASURE = """
import json, time
start = time.process_time()
{statement}
seconds = time.process_time() - start
peak = open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]
print(json.dumps({{"seconds": seconds, "mib": int(peak) / 1024}}))
"""
IMPORTS = {
    "numpy": "import numpy",
    "app": "import app",
    "app and engine": "import app, cosmicai.engines.openvino_engine",
}
LAYERS = ("CosmicAILayer", "OpenVINOLayer")
ENVIRONMENT = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_LAMBDA_FUNCTION_NAME": "model-inference",
    "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:2000",  # as on Lambda: the tracer is on
    "OPENBLAS_NUM_THREADS": "1",
    "POWERTOOLS_METRICS_NAMESPACE": "CosmicAI",
    "POWERTOOLS_SERVICE_NAME": "model_inference",
}


def build(folder: Path, architecture: str) -> None:
    """Build Model Inference and its layers for an architecture."""
    command = [str(Path(sys.executable).with_name("sam")), "build", "ModelInferenceFunction"]
    command += ["--build-dir", str(folder), "--parameter-overrides", f"Architecture={architecture}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SAM_CLI_TELEMETRY": "0"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)


def measure(folder: Path, architecture: str, statement: str) -> dict[str, float]:
    """Run one import in a container of its own."""
    paths = ["/build/ModelInferenceFunction", *(f"/build/{layer}/python" for layer in LAYERS)]
    variables = {**ENVIRONMENT, "PYTHONPATH": ":".join([*paths, "/var/runtime"])}
    command = ["docker", "run", "--rm", "--volume", f"{folder}:/build:ro"]
    command += ["--platform", {"x86_64": "linux/amd64", "arm64": "linux/arm64"}[architecture]]
    command += [word for item in variables.items() for word in ("--env", "=".join(item))]
    command += ["--entrypoint", "/usr/bin/python3.13"]
    command += [f"public.ecr.aws/lambda/python:3.13-{architecture}"]
    command += ["-c", MEASURE.format(statement=statement)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the results as well")
    arguments = parser.parse_args()
    architectures = ("x86_64", "arm64")
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    versions = {}
    with tempfile.TemporaryDirectory() as scratch:
        for architecture in architectures:
            folder = Path(scratch, architecture)
            build(folder, architecture)
            versions[architecture] = [
                info.stem
                for info in sorted(folder.glob("*/python/*.dist-info"))
                if info.name.startswith(("numpy-", "openvino-", "aws_lambda", "pydantic-"))
            ]
        for _ in range(arguments.repeat):
            for name, statement in IMPORTS.items():
                for architecture in architectures:
                    one = measure(Path(scratch, architecture), architecture, statement)
                    found.setdefault((architecture, name), []).append(one)
    results = {
        "benchmark": "cold_import",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions,
        "python": "3.13, stand-in image of Debian trixie",
        "n": arguments.repeat,
        "seconds": {name: spread([m["seconds"] for m in found[NATIVE, name]]) for name in IMPORTS},
        "mib": {name: spread([m["mib"] for m in found[NATIVE, name]]) for name in IMPORTS},
        # Of one round each: what slows the machine for a while slows both.
        "times an import of numpy": {
            f"{architecture}{'' if architecture == NATIVE else ', emulated'}": {
                name: spread(
                    [
                        each["seconds"] / numpy["seconds"]
                        for each, numpy in zip(
                            found[architecture, name], found[architecture, "numpy"], strict=True
                        )
                    ]
                )
                for name in IMPORTS
                if name != "numpy"
            }
            for architecture in architectures
        },
    }
    text = json.dumps(results, indent=2)
    RESULTS.write_text(text + "\n")
    if arguments.json:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
