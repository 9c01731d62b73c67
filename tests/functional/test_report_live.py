"""A report in the browser while a run goes on: what it tells, and whom."""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from cosmicai.errors import InvalidInput
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.client.connection import Connection
from cosmicai_workbench.client.execution import latest_execution
from cosmicai_workbench.place import Place
from cosmicai_workbench.report.content import Section
from cosmicai_workbench.report.following import Following
from cosmicai_workbench.report.live import shown_live
from cosmicai_workbench.report.page import Page
from cosmicai_workbench.report.server import Live, serving
from moto import mock_aws
from run_folders import START, make_run

BUCKET = "cosmicai-data"
NAME = "synthetic"
ARN = f"arn:aws:states:eu-west-1:123456789012:execution:cosmicai:{NAME}"
PATH = f"results/{NAME}"


def get(live: Live, path: str | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(live.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.request("GET", parts.path if path is None else path, headers=headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def page(title: str = "a run") -> Page:
    return Page(title, "just now", [], [Section("now", "Now", "Nothing yet.")])


def test_only_who_has_the_token_and_names_this_machine_is_answered() -> None:
    with serving(page(), "starting") as live:
        status, headers, body = get(live)
        assert (status, b"<h1>a run</h1>" in body) == (200, True)
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Frame-Options"] == "DENY"
        assert "connect-src 'self'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
        port = urlsplit(live.url).port
        assert urlsplit(live.url).hostname == "127.0.0.1"
        assert get(live, Host=f"localhost:{port}")[0] == 200
        for path in ("/", "/state", "/x/", "/" + "A" * 32 + "/", "//", "x://[/", "/%2e%2e/"):
            assert get(live, path)[0] == 404
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", ""):
            assert get(live, Host=host)[0] == 403
        token = urlsplit(live.url).path.strip("/")
        assert len(token) >= 32
        connection = http.client.HTTPConnection(urlsplit(live.url).netloc, timeout=10)
        connection.request("POST", urlsplit(live.url).path)
        assert connection.getresponse().status == 501
    with pytest.raises(ConnectionRefusedError):
        get(live)


def test_news_come_once_and_the_last_page_is_waited_for() -> None:
    with serving(page(), "starting") as live:
        state = urlsplit(live.url).path + "state"
        first = json.loads(get(live, state)[2])
        assert first["status"] == "starting"
        assert "Nothing yet." in first["main"]
        live.tell("3 of 4 ranks done")
        same = json.loads(get(live, f"{state}?seen={first['version']}")[2])
        assert same == {"version": first["version"], "status": "3 of 4 ranks done", "done": False}
        live.show(page("the end"), "done", done=True)
        asked = threading.Timer(0.2, get, (live, state))
        asked.start()
        live.wait_until_seen(30)
        asked.join()
        last = json.loads(get(live, f"{state}?seen={first['version']}")[2])
        assert (last["done"], last["title"]) == (True, "the end")


def test_nobody_is_waited_for_where_no_browser_asked() -> None:
    with serving(page(), "starting") as live:
        live.show(page(), "done", done=True)
        live.wait_until_seen(600)


class States:
    """Step Functions, of one execution."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content, self.names = content, [NAME]

    def describe_execution(self, executionArn: str) -> dict[str, Any]:  # noqa: N803
        name = executionArn.rsplit(":", 1)[-1]
        text = json.dumps(self.content)
        return {"name": name, "status": "RUNNING", "input": text, "startDate": START}

    def list_executions(self, **_: Any) -> dict[str, Any]:
        return {
            "executions": [
                {"executionArn": name, "startDate": datetime(2026, 1, day, tzinfo=UTC)}
                for day, name in enumerate(self.names, start=1)
            ]
        }


@pytest.fixture
def place() -> Iterator[Place]:
    with mock_aws():
        client = boto3.client(
            "s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        client.create_bucket(Bucket=BUCKET)
        content = {
            "bucket": BUCKET,
            "file_limit": 8,
            "batch_size": 128,
            "object_type": "folder",
            "S3_object_name": "models/small",
            "script": "inference.py",
            "result_path": PATH,
            "data_bucket": BUCKET,
            "data_prefix": "25MB",
        }
        states: Any = States(content)
        yield Place(Connection(client, states, {"StateMachineArn": "arn:x"}, SimpleNamespace), 0.1)


def put(place: Place, name: str, body: bytes | str) -> None:
    place.connection.s3.put_object(Bucket=BUCKET, Key=f"{PATH}/{name}", Body=body)


def plan(place: Place, ranks: int, execution: str = ARN) -> None:
    states: Any = place.connection.states
    document = {
        "execution": {"id": execution, "name": NAME, "start_time": START.isoformat()},
        "input": states.content,
        "bucket": BUCKET,
        "result_path": PATH,
        "manifest_key": f"{PATH}/manifest.json",
        "map_results_prefix": f"{PATH}/map",
        "world_size": ranks,
        "num_partitions": ranks,
        "num_bytes": 1,
        "planned_ranks": ranks,
        "max_concurrency": ranks,
        "tolerated_failure_percentage": 0,
        "engine": "torch",
        "fmi": False,
        "model_version": "1",
        "warnings": [],
    }
    put(place, "plan.json", json.dumps(document))
    items = [{"RANK": rank, "DATA_PATH": f"25MB/{rank + 1}.pt"} for rank in range(ranks)]
    put(place, "manifest.json", json.dumps(items))


def test_the_page_grows_with_what_ranks_leave(place: Place, tmp_path: Path) -> None:
    run = make_run(tmp_path, ranks=4, samples=50, straggler=None)
    following = Following(place.connection, ARN, tmp_path / "scratch")
    assert not following.look()
    assert following.status == "planning the ranks"
    assert following.page().title == NAME

    plan(place, 4)
    following.look()
    assert following.status == "0 of 4 ranks done"

    for rank in (0, 1):
        put(place, f"{rank}.json", (run / f"{rank}.json").read_bytes())
        predictions = (run / "predictions" / f"{rank}.npz").read_bytes()
        put(place, f"predictions/{rank}.npz", predictions)
    assert following.look()
    assert not following.look()
    assert following.status == "2 of 4 ranks done"
    cards = {card.label: card.value for card in following.page().sections[0].cards}
    assert (cards["Ranks done"], cards["Galaxies"]) == ("2 of 4", "100")
    assert any(picture.plot.name == "run-nz" for picture in following.page().pictures)

    failure = {"execution": ARN, "rank": 2, "failure": {"Error": "CorruptPartition", "Cause": "x"}}
    put(place, "failures/2.json", json.dumps(failure))
    assert following.look()
    assert following.status == "2 of 4 ranks done, 1 failed"
    (alert,) = (each for each in following.page().alerts if "ranks failed" in each.title)
    assert alert.items == ("rank 2 (25MB/3.pt): CorruptPartition: x",)


@pytest.mark.parametrize("manifest", ["[{", "3", '[{"DATA_PATH": "1.pt"}]', '[{"RANK": "x"}]'])
def test_a_damaged_manifest_is_told_and_read_again(
    place: Place, tmp_path: Path, manifest: str
) -> None:
    following = Following(place.connection, ARN, tmp_path / "scratch")
    plan(place, 2)
    put(place, "manifest.json", manifest)
    with pytest.raises(InvalidInput, match=r"manifest\.json is damaged"):
        following.look()
    plan(place, 2)
    following.look()
    assert following.status == "0 of 2 ranks done"


def test_what_another_execution_left_under_the_path_is_not_shown(
    place: Place, tmp_path: Path
) -> None:
    run = make_run(tmp_path, ranks=2, samples=50)
    following = Following(place.connection, ARN, tmp_path / "scratch")
    plan(place, 2, execution=ARN + "-earlier")
    assert not following.look()
    plan(place, 2)
    record = json.loads((run / "0.json").read_bytes())
    put(place, "0.json", json.dumps({**record, "execution": ARN + "-earlier"}))
    put(place, "1.json", "{")
    assert not following.look()
    assert following.status == "0 of 2 ranks done"


def test_a_browser_sees_the_run_and_then_its_final_report(place: Place, tmp_path: Path) -> None:
    run = make_run(tmp_path, ranks=1, samples=50)
    plan(place, 1)
    told: list[str] = []
    seen: list[str] = []

    def browse() -> None:
        live = Live(told[0], "")
        path = urlsplit(told[0]).path + "state"
        while True:
            answer = json.loads(get(live, path)[2])
            if answer["status"] not in seen[-1:]:
                seen.append(answer["status"])
            if answer["done"]:
                return

    with shown_live(place, ARN, told.append, browser=False) as last:
        reader = threading.Thread(target=browse)
        reader.start()
        put(place, "predictions/0.npz", (run / "predictions/0.npz").read_bytes())
        put(place, "0.json", (run / "0.json").read_bytes())
        for _ in range(200):
            if "1 of 1 ranks done" in seen:
                break
            threading.Event().wait(0.1)
        last(page("the end"))
        reader.join(30)
    assert seen[-2:] == ["1 of 1 ranks done", "done"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32,}/", told[0])


def test_the_latest_execution_is_watched_by_default(place: Place) -> None:
    states: Any = place.connection.states
    states.names = ["arn:one", "arn:two"]
    assert latest_execution(place.connection) == "arn:two"
    states.names = []
    with pytest.raises(InvalidInput, match="no execution to watch"):
        latest_execution(place.connection)


def test_report_needs_a_run_that_is_watched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--report", "--no-watch"]) == 2
    assert "--no-watch" in capsys.readouterr().err
