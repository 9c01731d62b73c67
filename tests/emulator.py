"""AWS emulated by `ministack`, with IAM enforced, and the project as it is deployed there.

What the emulator cannot create is taken out here, and only here. What it does otherwise than AWS:
the error of a function that raises is called Runtime.HandlerError, whatever was raised, and Step
Functions cannot call `aws-sdk:s3:putObject`, so that a failed rank is found missing, not recorded.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samcli.yamlhelper import yaml_dump, yaml_parse

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SAM = ROOT / ".sam-cli/bin"
NATIVE = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""The emulator runs the functions on this machine's own processor."""
STACK = "cosmicai"
_START_SECONDS = 60

MISSING_TYPES = {
    "AWS::Logs::QueryDefinition": "no saved queries",
}
MISSING_RESOURCES = {
    "BucketPolicy": "with IAM enforced, it takes its own plain HTTP for an outsider's",
}


def _lacks(name: str, resource: dict[str, Any]) -> bool:
    """Tell whether the emulator lacks a resource; alarms on metric math are among them."""
    math = resource["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in resource["Properties"]
    return math or name in MISSING_RESOURCES or resource["Type"] in MISSING_TYPES


def project(folder: Path) -> Path:
    """Copy what git tracks, and take out what the emulator lacks."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    for path in (folder / "template.yaml", *(folder / "infrastructure").glob("*.yaml")):
        template = yaml_parse(path.read_text())
        template["Resources"] = {
            name: resource
            for name, resource in template["Resources"].items()
            if not _lacks(name, resource)
        }
        path.write_text(yaml_dump(template))
    with_the_native_library(folder / "layers")
    if NATIVE == "x86_64":
        without_torch(folder / "layers/pytorch_fmi/layer.toml")
    return folder


def with_the_native_library(layers: Path) -> None:
    """Put the native engine's library into the layer that holds the rest of its package.

    Lambda unpacks all layers into one folder; the emulator puts each on Python's path, where a
    package is in one of them only.
    """
    native = tomllib.loads((layers / "native/layer.toml").read_text())
    settings = layers / "cosmicai/layer.toml"
    lines = [f'{key} = "{native[key]}"' for key in ("native", "library")]
    settings.write_text("\n".join([*lines, settings.read_text()]))


def without_torch(settings: Path) -> None:
    """Build the layer without PyTorch: its CPU build for x86_64 is on PyTorch's own index alone."""
    text = settings.read_text().replace(', "../{architecture}/pytorch_fmi.txt"', "")
    text = re.sub(r"\n\[pack\].*", "\n", text, flags=re.DOTALL)
    text = re.sub(r'^"(torch|functorch|torchgen).*\n', "", text, flags=re.MULTILINE)
    settings.write_text(text)


def environment(endpoint: str) -> dict[str, str]:
    """Return the environment of commands that take the emulator for AWS, and know nothing else."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("AWS_") and key not in ("VIRTUAL_ENV", "PYTHONPATH")
    }
    return {
        **kept,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "SAM_CLI_TELEMETRY": "0",
        # The newcomer's: aws-sam-cli in an environment of its own, and the system's commands.
        "PATH": f"{SAM}:{os.environ['PATH']}",
    }


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Start the emulator; yield its address, and stop it at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    settings = {
        "AUTH": "true",  # policies are evaluated on every call
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "TMPDIR": str(folder),
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    log = folder / "ministack.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [str(ROOT / ".ministack/bin/python"), "-m", "ministack"],
            cwd=folder,
            env={**inherited, **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_it_answers(server, endpoint, log)
        yield endpoint
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        server.kill()
        server.wait()


def wait_until_it_answers(server: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            opener.open(f"{endpoint}/_ministack/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"the emulator does not answer:\n{log.read_text()[-4000:]}")


def command(
    cwd: Path, variables: dict[str, str], *words: str, errors: bool = True, timeout: float = 600
) -> str:
    """Run a command that must succeed; return what it printed, to standard error too if asked."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(words)}\n{output}"
    return output if errors else done.stdout
