"""Invoke FMI against real servers: what the ranks agree on, who is named, and Summarize's check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import fmilib
import pytest
from cosmicai import fmi_channels, keys, quality, storage
from cosmicai.collective import run_collective
from cosmicai.errors import FmiTimeout, IncompleteResults, InvalidInput
from cosmicai.schema import CollectiveEvent, CollectiveResult, RankRecord, parse
from flat_numbers import same_numbers
from fmi_support import TOKEN, Servers
from fmilib import backend as registry
from s3_stack import BUCKET, ROOT, Context, Stack, load_handler, running_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cosmicai.schema import Plan

PATH = "result-partition-100MB/1GB/1"
WORLD = {"script": "inference_FMI.py", "world_size": 4}  # three partitions: one rank has no data


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, servers: Servers) -> Iterator[Stack]:
    for stack in running_stack(monkeypatch, tmp_path):
        stack.put_model()
        stack.put_partitions(["1.pt", "2.pt", "3.pt"])
        direct = servers.configuration("Direct")["backends"]["Direct"]
        monkeypatch.setenv("FMI_RENDEZVOUS", f"{direct['host']}:{direct['port']}")
        monkeypatch.setenv("FMI_TOKEN", TOKEN)
        yield stack


def meet(
    plan: Plan, ranks: list[int] | None = None, seconds: float = 30.0, **change: Any
) -> list[Any]:
    """Run the collective of some ranks at once; return answers or errors."""
    items = storage.store(BUCKET).read_json(plan.manifest_key)
    chosen = [items[rank] for rank in ranks] if ranks is not None else items
    found: list[Any] = [None] * len(chosen)

    def run(place: int) -> None:
        try:
            event = parse(CollectiveEvent, {**chosen[place], **change})
            found[place] = run_collective(event, seconds)
        except Exception as error:  # noqa: BLE001 - looked at by the test
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(chosen))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.mark.parametrize("channel", ["direct", "redis", "s3"])
def test_all_ranks_agree_and_summarize_uses_it(
    stack: Stack, servers: Servers, monkeypatch: pytest.MonkeyPatch, channel: str
) -> None:
    if channel == "redis":
        redis = servers.configuration("Redis")["backends"]["Redis"]
        monkeypatch.setenv("FMI_REDIS_URL", f"redis://{redis['host']}:{redis['port']}/0")
    plan = stack.initialize(fmi_channel=channel, **WORLD)
    stack.run_ranks(plan)
    answers = meet(plan)
    assert [answer["rank"] for answer in answers] == [0, 1, 2, 3]
    agreed = parse(CollectiveResult, stack.read("fmi.json"))
    records = [parse(RankRecord, stack.read(f"{rank}.json")) for rank in range(4)]
    assert records[3].num_samples == 0
    assert agreed.sums["num_samples"] == 18
    assert agreed.seconds["total_cpu_time"] == sum(r.total_cpu_time for r in records)
    assert agreed.maxima["total_cpu_time"] == max(r.total_cpu_time for r in records)
    merged = quality.figures(quality.merge(r.quality for r in records))
    assert same_numbers(agreed.quality, merged, rel=1e-12)
    summary = stack.summarize(fmi_channel=channel, **WORLD)
    assert summary.status == "SUCCEEDED"
    assert summary.fmi == agreed
    assert not list(storage.store(BUCKET).list(keys.fmi_messages(PATH) + "/"))
    # EXPRESS children run at least once: a rank that runs again finds that it has.
    assert meet(plan, [2]) == [{"rank": 2, "world_size": 4, "num_samples": 18}]


def test_summarize_refuses_figures_that_do_not_fit_the_records(stack: Stack) -> None:
    plan = stack.initialize(fmi_channel="direct", **WORLD)
    stack.run_ranks(plan)
    meet(plan)
    agreed = stack.read("fmi.json")
    agreed["sums"]["num_samples"] += 1
    storage.store(BUCKET).write_json(keys.fmi(PATH), agreed)
    with pytest.raises(IncompleteResults, match="num_samples 19 in fmi"):
        stack.summarize(fmi_channel="direct", **WORLD)


@pytest.mark.parametrize("channel", ["direct", "s3"])
def test_the_error_handler_of_a_failed_rank_fails_the_others_at_once(
    stack: Stack, channel: str
) -> None:
    plan = stack.initialize(fmi_channel=channel, **WORLD)
    stack.run_ranks(plan)
    results: list[Any] = []
    waiting = threading.Thread(target=lambda: results.extend(meet(plan, [0, 1, 3])))
    waiting.start()
    handler = load_handler("invoke_fmi").handler
    item = storage.store(BUCKET).read_json(plan.manifest_key)[2]
    failure = {"Error": "CorruptPartition", "Cause": '{"errorMessage": "3.pt is cut short"}'}
    assert handler({**item, "failure": failure}, Context())["aborted"]
    waiting.join(20)
    assert not waiting.is_alive()
    for error in results:
        assert isinstance(error, fmilib.FmiAborted)
        assert "rank 2 failed: CorruptPartition: 3.pt is cut short" in str(error)
    # Who comes later does not wait either.
    (late,) = meet(plan, [3])
    assert isinstance(late, fmilib.FmiAborted | FmiTimeout)


def test_an_absent_rank_is_named_before_the_function_times_out(stack: Stack) -> None:
    plan = stack.initialize("absent", fmi_channel="direct", **WORLD)
    stack.run_ranks(plan)
    errors = meet(plan, [0, 1, 2], seconds=3.0)
    for error in errors:
        assert isinstance(error, FmiTimeout)
        assert "rank 3" in str(error)


def test_ranks_log_in_to_redis_by_the_stacks_secret_with_the_rights_of_its_valkey(
    stack: Stack, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    import redis
    from samcli.yamlhelper import yaml_parse

    valkey = yaml_parse((ROOT / "infrastructure/valkey.yaml").read_text())["Resources"]
    server = servers.configuration("Redis")["backends"]["Redis"]
    rights = valkey["User"]["Properties"]["AccessString"].split()
    password = "p@ss/word:with%signs"
    administrator = redis.Redis(server["host"], server["port"])
    administrator.execute_command("ACL", "SETUSER", "fmi", f">{password}", *rights)
    login = json.dumps({"username": "fmi", "password": password})
    secrets = boto3.client("secretsmanager")
    arn = secrets.create_secret(Name="login", SecretString=login)["ARN"]
    monkeypatch.setenv("FMI_REDIS_URL", f"redis://{server['host']}:{server['port']}")
    monkeypatch.setenv("FMI_REDIS_SECRET", arn)
    plan = stack.initialize(fmi_channel="redis", **WORLD)
    stack.run_ranks(plan)
    assert [answer["rank"] for answer in meet(plan)] == [0, 1, 2, 3]

    secrets.put_secret_value(SecretId=arn, SecretString="only-a-password")
    again = stack.initialize("again", fmi_channel="redis", overwrite=True, **WORLD)
    stack.run_ranks(again)
    (error,) = meet(again, [0])
    assert isinstance(error, InvalidInput)
    assert "username" in str(error)
    assert "only-a-password" not in str(error)


def test_a_channel_of_the_test_works_from_the_execution_input_on(stack: Stack) -> None:
    memory = registry.find("Memory")
    opened: list[int] = []

    def open_toy(settings: Any, member: fmilib.Member) -> Any:
        opened.append(member.rank)
        return memory.open(settings, member)

    fmilib.register(memory._replace(name="Toy", open=open_toy, settings={"greeting": str}))
    fmi_channels.register(fmi_channels.FmiChannel("toy", lambda *_: {"Toy": {"greeting": "hi"}}))
    plan = stack.initialize(fmi_channel="toy", **WORLD)
    stack.run_ranks(plan)
    assert [answer["rank"] for answer in meet(plan)] == [0, 1, 2, 3]
    assert sorted(opened) == [0, 1, 2, 3]
    summary = stack.summarize(fmi_channel="toy", **WORLD)
    assert summary.status == "SUCCEEDED"
    assert summary.fmi is not None
    assert summary.fmi.channel == "toy"


def test_a_channel_of_another_package_works_from_the_command_line_on(tmp_path: Path) -> None:
    content = json.loads((ROOT / "events/execution-fmi.json").read_text())
    (tmp_path / "input.json").write_text(json.dumps(content | {"fmi_channel": "toy"}))
    code = (
        "import fmilib, json, pathlib, sys;"
        "from cosmicai.fmi_channels import find_channel;"
        "from cosmicai_workbench.client.execution import check_input;"
        "content = check_input(json.loads(pathlib.Path('input.json').read_text()));"
        "backends = find_channel(content.fmi_channel).backend(None, None);"
        "comm = fmilib.Communicator(0, 1, {'backends': backends}, 'collective', session='s');"
        "print(content.fmi_channel, comm.allreduce(2, fmilib.func(fmilib.op.sum)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests/toy_channel")}
    outcome = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.stdout.strip() == "toy 2", outcome.stderr


def test_an_unknown_channel_is_refused_by_name_and_never_taken_for_s3(stack: Stack) -> None:
    with pytest.raises(InvalidInput, match=r"fmi_channel.*expected one of direct, redis, s3"):
        stack.initialize(fmi_channel="s4", **WORLD)
    plan = stack.initialize(fmi_channel="s3", **WORLD)
    (item, *_) = storage.store(BUCKET).read_json(plan.manifest_key)
    with pytest.raises(InvalidInput, match="FMI_CHANNEL"):
        parse(CollectiveEvent, {**item, "FMI_CHANNEL": "Redis"})
    with pytest.raises(fmilib.FmiConfigError, match="unknown backend 'S4'"):
        fmilib.Communicator(0, 1, {"backends": {"S4": {}}}, "x")


def test_the_template_offers_the_registered_channels(stack: Stack) -> None:
    from samcli.yamlhelper import yaml_parse

    parameters = yaml_parse((ROOT / "template.yaml").read_text())["Parameters"]
    offered = parameters["FmiChannel"]
    assert set(offered["AllowedValues"]) == set(fmi_channels.channel_names()) - {"toy"}
    assert offered["Default"] == fmi_channels.DEFAULT_CHANNEL


def test_a_channel_without_a_server_is_refused(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FMI_REDIS_URL", raising=False)
    plan = stack.initialize(fmi_channel="redis", **WORLD)
    stack.run_ranks(plan)
    (error,) = meet(plan, [0])
    assert isinstance(error, InvalidInput)
    assert "FMI_REDIS_URL is empty" in str(error)


def test_what_the_ranks_agreed_on_gone_or_at_odds_fails_the_execution(
    stack: Stack,
) -> None:
    plan = stack.initialize(fmi_channel="s3", **WORLD)
    stack.run_ranks(plan)
    assert not [answer for answer in meet(plan) if isinstance(answer, Exception)]
    agreed = stack.read("fmi.json")
    agreed["sums"]["num_samples"] += 1
    storage.store(BUCKET).write_json(keys.fmi(PATH), agreed)
    with pytest.raises(IncompleteResults, match="agreed on num_samples 19"):
        stack.summarize(fmi_channel="s3", **WORLD)
    assert stack.read("summary.json")["status"] == "FAILED"
    failure = {"Error": "IncompleteResults", "Cause": "at odds"}
    assert stack.summarize(fmi_channel="s3", failure=failure, **WORLD).status == "FAILED"
    storage.store(BUCKET).delete([keys.fmi(PATH)])
    with pytest.raises(IncompleteResults, match=r"fmi\.json, which rank 0 wrote, is not"):
        stack.summarize(fmi_channel="s3", **WORLD)
