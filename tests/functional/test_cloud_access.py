"""Who may reach a local cloud, tried as an attacker would."""

import http.client
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from cosmicai_workbench.cloud.local import LocalCloud
from cosmicai_workbench.cloud.sandbox import loopback_host
from cosmicai_workbench.cloud.session import local_session
from cosmicai_workbench.cloud.state import is_free

TEMPLATE = Path(__file__).parent / "small_stack/template.yaml"
BUCKET = "cosmicai-results"
INVOKE = "/2015-03-31/functions/cosmicai-ProbeFunction/invocations"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    root = tmp_path_factory.mktemp("state")
    with LocalCloud(template=TEMPLATE, root=root, concurrency=1) as local:
        client(local, "s3").put_object(Bucket=BUCKET, Key="secret", Body=b"galaxies")
        yield local


def client(cloud: LocalCloud, service: str, **options: Any) -> Any:
    session = local_session(cloud.status.variables)
    return session.client(service, endpoint_url=cloud.status.endpoint, config=Config(**options))


def address(cloud: LocalCloud) -> str:
    return cloud.status.endpoint.removeprefix("http://")


def ask(
    cloud: LocalCloud, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Send a request as it is; return status, headers in lower case and body."""
    connection = http.client.HTTPConnection(address(cloud), timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {key.lower(): value for key, value in answer.getheaders()}, content


def signed(
    cloud: LocalCloud, method: str, path: str, service: str = "s3", **headers: str
) -> dict[str, str]:
    """Return the headers of a request that is signed with the cloud's own keys."""
    keys = cloud.status.keys
    request = AWSRequest(method, f"{cloud.status.endpoint}{path}", headers)
    credentials = Credentials(keys.access_key, keys.secret_key)
    SigV4Auth(credentials, service, "us-east-1").add_auth(request)
    return dict(request.headers.items())


REQUESTS = {
    "list buckets": ("GET", "/"),
    "read an object": ("GET", f"/{BUCKET}/secret"),
    "write an object": ("PUT", f"/{BUCKET}/evil"),
    "delete an object": ("DELETE", f"/{BUCKET}/secret"),
    "invoke a function": ("POST", INVOKE),
    "wipe moto": ("POST", "/moto-api/reset"),
    "read moto": ("GET", "/moto-api/data.json"),
    "open moto's page": ("GET", "/moto-api/"),
}
PAGES = {
    "no credentials": {},
    "a page's fetch": {"Origin": "https://evil.example"},
    "a page without an origin": {"Origin": "null"},
    "a page's form": {"Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site"},
    "DNS rebinding": {"Host": "evil.example"},
}


@pytest.mark.parametrize("request_line", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("headers", PAGES.values(), ids=PAGES)
def test_strangers_are_refused(
    cloud: LocalCloud, request_line: tuple[str, str], headers: dict[str, str]
) -> None:
    status, answered, body = ask(cloud, *request_line, headers)
    assert status == 403, body
    assert b"galaxies" not in body
    assert not any(name.startswith("access-control-") for name in answered)


@pytest.mark.parametrize("path", ["/", INVOKE, f"/{BUCKET}/secret"])
def test_a_preflight_gives_no_page_leave(cloud: LocalCloud, path: str) -> None:
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization",
        "Access-Control-Request-Private-Network": "true",
    }
    status, answered, _ = ask(cloud, "OPTIONS", path, asked)
    assert status == 403
    assert not any(name.startswith("access-control-") for name in answered)


@pytest.mark.parametrize(
    "extra",
    [
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
    ],
)
def test_even_signed_requests_are_refused_from_pages_and_for_other_hosts(
    cloud: LocalCloud, extra: dict[str, str]
) -> None:
    headers = signed(cloud, "GET", f"/{BUCKET}/secret", **extra)
    assert ask(cloud, "GET", f"/{BUCKET}/secret", {**headers, **extra})[0] == 403


@pytest.mark.parametrize("path", ["/moto-api/reset", "/Moto-API/reset", "/moto-api"])
def test_the_keys_give_no_administration_of_moto(cloud: LocalCloud, path: str) -> None:
    status, _, body = ask(cloud, "POST", path, signed(cloud, "POST", path))
    assert status == 403, body
    assert client(cloud, "s3").get_object(Bucket=BUCKET, Key="secret")["Body"].read()


def test_the_cloud_does_answer_what_is_signed(cloud: LocalCloud) -> None:
    headers = signed(cloud, "GET", f"/{BUCKET}/secret")
    assert ask(cloud, "GET", f"/{BUCKET}/secret", headers)[::2] == (200, b"galaxies")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda headers: headers | {"X-Amz-Date": "20200101T000000Z"}, b"TooSkewed"),
        (lambda headers: headers | {"X-Amz-Date": "yesterday"}, b"TooSkewed"),
        (lambda headers: headers | {"Authorization": "Bearer token"}, b"MissingAuth"),
        (
            lambda headers: (
                headers | {"Authorization": headers["Authorization"].replace("host;", "")}
            ),
            b"TooSkewed",
        ),
        (
            lambda headers: headers | {"Authorization": headers["Authorization"][:-1] + "x"},
            b"MissingAuth",
        ),
    ],
    ids=["old", "no date", "another scheme", "host not signed", "broken"],
)
def test_what_is_not_signed_now_and_whole_is_refused(
    cloud: LocalCloud, change: Any, code: bytes
) -> None:
    headers = signed(cloud, "GET", f"/{BUCKET}/secret")
    status, _, body = ask(cloud, "GET", f"/{BUCKET}/secret", change(headers))
    assert status == 403
    assert code in body


def test_a_signature_is_good_for_its_own_request_only(cloud: LocalCloud) -> None:
    headers = signed(cloud, "GET", f"/{BUCKET}/other")
    for method, path in (("GET", f"/{BUCKET}/secret"), ("DELETE", f"/{BUCKET}/other")):
        status, _, body = ask(cloud, method, path, headers)
        assert status == 403
        assert b"SignatureDoesNotMatch" in body
    headers = signed(cloud, "POST", INVOKE, "lambda")
    assert ask(cloud, "POST", INVOKE, headers, b'{"other": "payload"}')[0] == 403


CALLS = {
    "s3": lambda service: service.list_buckets(),
    "lambda": lambda service: service.invoke(FunctionName="cosmicai-ProbeFunction"),
    "stepfunctions": lambda service: service.list_state_machines(),
    "cloudformation": lambda service: service.describe_stacks(),
}


@pytest.mark.parametrize("service", CALLS)
def test_wrong_keys_are_named_in_the_words_of_aws(cloud: LocalCloud, service: str) -> None:
    known, secret = cloud.status.keys.access_key, "wrong"
    codes = {
        (known, secret): ("SignatureDoesNotMatch", "InvalidSignatureException"),
        ("AKIAOTHER", secret): ("InvalidAccessKeyId", "UnrecognizedClientException"),
    }
    for (access_key, secret_key), expected in codes.items():
        wrong = boto3.client(
            service,
            endpoint_url=cloud.status.endpoint,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
        )
        with pytest.raises(ClientError) as refused:
            CALLS[service](wrong)
        assert refused.value.response["Error"]["Code"] in expected
        assert refused.value.response["Error"]["Message"]


def test_an_unsigned_client_is_told_where_the_keys_are(cloud: LocalCloud) -> None:
    anonymous = boto3.client(
        "s3",
        endpoint_url=cloud.status.endpoint,
        region_name="us-east-1",
        config=Config(signature_version=UNSIGNED, proxies={}),
    )
    with pytest.raises(ClientError, match="cosmicai local status --env"):
        anonymous.list_buckets()


@pytest.mark.parametrize(
    "key", ["plain", "with space/ü+%&=~*'()", "a//b", "deep/../dots", "colon:semi;comma,@$!"]
)
def test_keys_of_any_characters_are_signed_and_read(cloud: LocalCloud, key: str) -> None:
    s3 = client(cloud, "s3")
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"1", Metadata={"a-b": "x  y"})
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"1"
    pages = s3.list_objects_v2(Bucket=BUCKET, Prefix=key, EncodingType="url")
    assert pages["KeyCount"] == 1


def test_every_cloud_has_keys_of_its_own(cloud: LocalCloud, tmp_path: Path) -> None:
    with LocalCloud(template=TEMPLATE, root=tmp_path, concurrency=1) as other:
        assert other.status.keys != cloud.status.keys
        crossed = {**cloud.status.variables, "AWS_ENDPOINT_URL": other.status.endpoint}
        s3 = local_session(crossed).client("s3", endpoint_url=other.status.endpoint)
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            s3.list_buckets()


def test_only_the_owner_can_read_the_keys(cloud: LocalCloud) -> None:
    assert stat.S_IMODE(cloud.folder.stat().st_mode) == 0o700
    secret = cloud.status.keys.secret_key
    for path in cloud.folder.rglob("*"):
        if path.is_file() and secret in path.read_text(errors="replace"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for entry in Path("/proc").glob("[0-9]*/cmdline"):  # other users can read these
        try:
            assert secret.encode() not in entry.read_bytes()
        except OSError:
            continue


def test_the_cloud_listens_on_the_loopback_interface_only(cloud: LocalCloud) -> None:
    client(cloud, "lambda").invoke(FunctionName="cosmicai-ProbeFunction")
    found = {host for host in listening(cloud.status.process_id) if not host.startswith("127.")}
    assert not found


def test_no_page_can_guess_where_a_sandbox_listens(cloud: LocalCloud) -> None:
    client(cloud, "lambda").invoke(FunctionName="cosmicai-ProbeFunction")
    # The server (guarded) and the rendezvous server (with a token) are on the well-known address.
    assert listening(cloud.status.process_id).count("127.0.0.1") == 2
    assert len({loopback_host() for _ in range(1000)}) > 990


def listening(parent: int) -> list[str]:
    """Return the IPv4 and IPv6 addresses that a process and its descendants listen on."""
    tree, inodes = {parent}, set()
    for _ in range(4):
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) in tree:
                tree.add(int(entry.parent.name))
    assert len(tree) >= 2  # the server, and a sandbox at least
    for process in tree:
        for descriptor in Path(f"/proc/{process}/fd").glob("*"):
            try:
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            found.append(socket.inet_ntoa(bytes.fromhex(fields[1].split(":")[0])[::-1]))
    for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            found.append(fields[1])
    assert found
    return found


SETTINGS_OF_A_USER = {
    "a proxy": {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
    "a proxy for all": {"ALL_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
    "a missing profile": {"AWS_PROFILE": "missing"},
    "another endpoint": {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "eu-west-1"},
    "FIPS": {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
    "a session": {"AWS_SESSION_TOKEN": "token", "AWS_ACCESS_KEY_ID": "ASIA"},
}


@pytest.mark.parametrize("settings", SETTINGS_OF_A_USER.values(), ids=SETTINGS_OF_A_USER)
def test_the_users_settings_for_aws_break_no_local_cloud(
    settings: dict[str, str], tmp_path: Path
) -> None:
    program = f"""
import json, time
from pathlib import Path
from cosmicai_workbench.cloud.local import LocalCloud
from cosmicai_workbench.cloud.sandbox import loopback_host
from cosmicai_workbench.client.connection import connect

with LocalCloud(template=Path({str(TEMPLATE)!r}), root=Path("state"), concurrency=1) as cloud:
    place = connect(cloud.status.stack, variables=cloud.status.variables)
    place.s3.put_object(Bucket={BUCKET!r}, Key="k", Body=json.dumps([{{"rank": 0}}]))
    arn = place.states.start_execution(
        stateMachineArn=place.state_machine,
        input=json.dumps({{"bucket": {BUCKET!r}, "key": "k", "concurrency": 1}}),
    )["executionArn"]
    while (ended := place.states.describe_execution(executionArn=arn))["status"] == "RUNNING":
        time.sleep(0.05)
    print(ended["status"])
"""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text("[broken")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "SUCCEEDED", done.stderr


def test_a_killed_clouds_files_are_removed_by_the_next(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from cosmicai_workbench.cloud.local import LocalCloud
from cosmicai_workbench.cloud.sandbox import loopback_host
cloud = LocalCloud(template=Path({str(TEMPLATE)!r}), root=Path({str(tmp_path)!r}), concurrency=1)
status = cloud.start()
(cloud.folder / "tmp/left").write_text("behind")
print(cloud.folder, flush=True)
os.kill(status.process_id, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    folder = Path(killed.stdout.strip())
    deadline = time.monotonic() + 60
    while not is_free(folder):  # a killed process is not gone at once
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (folder / "cloud.json").exists()
    assert (folder / "tmp/left").exists()
    with LocalCloud(template=TEMPLATE, root=tmp_path, concurrency=1):
        assert not (folder / "cloud.json").exists()
        assert not (folder / "tmp").exists()
        assert (folder / "server.log").exists()


def test_sandboxes_have_a_home_of_their_own_that_goes_with_the_cloud(tmp_path: Path) -> None:
    with LocalCloud(template=TEMPLATE, root=tmp_path, concurrency=1) as cloud:
        answer = client(cloud, "lambda").invoke(
            FunctionName="cosmicai-ProbeFunction", Payload=json.dumps({"mode": "environment"})
        )
        environment = json.load(answer["Payload"])
        assert environment["HOME"] == environment["TMPDIR"] == str(cloud.folder / "tmp")
        assert stat.S_IMODE((cloud.folder / "tmp").stat().st_mode) == 0o700
    assert not (cloud.folder / "tmp").exists()
