"""The spending guard of a sweep in a stack: priced as the stack's functions are."""

import re

import boto3
import deployed_stack
import moto
from cosmicai_workbench.cli.main import main

EXPERIMENT = """
name = "dear"
repetitions = 100
cost_limit_dollars = 1000.0
[fixed]
partition = "1MB"
[grid]
batch_size = [32, 64]
"""
BUCKET = "survey"


def expected_dollars(monkeypatch, tmp_path, capsys, memory_mb: int, *, allowed: bool) -> float:
    """Deploy a stack of a memory size and return what a sweep there is expected to cost."""
    with monkeypatch.context() as patch, moto.mock_aws():
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(key, "test")
        patch.setenv("AWS_DEFAULT_REGION", deployed_stack.REGION)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        deployed_stack.deploy(InferenceMemorySize=str(memory_mb))
        if allowed:
            deployed_stack.answer_for_moto(patch)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        for key in ("m/model.safetensors", "m/config.json"):
            s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
        s3.put_object(Bucket=BUCKET, Key="1MB/1.pt", Body=b"x" * 2**20)
        source = tmp_path / "dear.toml"
        source.write_text(EXPERIMENT)
        words = ["sweep", str(source), "--stack", deployed_stack.STACK, "--bucket", BUCKET]
        assert main([*words, "--model-name", "m", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "200 of 200 executions" in printed
    return float(re.search(r"expected cost \$([\d.]+)", printed)[1])


def test_the_estimate_is_of_the_stack_whether_or_not_the_account_may_be_asked(
    monkeypatch, tmp_path, capsys
):
    arguments = (monkeypatch, tmp_path, capsys)
    small = expected_dollars(*arguments, 2048, allowed=True)
    large = expected_dollars(*arguments, 10_240, allowed=True)
    assert 0 < small < large
    # The stack's own outputs then say which memory its functions have.
    assert expected_dollars(*arguments, 2048, allowed=False) == small
    assert expected_dollars(*arguments, 10_240, allowed=False) == large
