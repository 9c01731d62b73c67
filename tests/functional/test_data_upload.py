"""Uploads against a real S3 server: skipped, resumed, refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import s3_stack
from cosmicai import storage
from cosmicai.errors import InvalidInput
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data import uploading
from cosmicai_workbench.data.uploading import (
    MAX_PARTS,
    PART_BYTES,
    parse_s3_url,
    part_size,
    s3_client,
    upload_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUCKET = s3_stack.BUCKET


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for _ in s3_stack.running_stack(monkeypatch, tmp_path):
        yield


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["data", "upload", *words, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def large_file(path: Path, parts: int = 3) -> bytes:
    content = b"".join(bytes([number]) * PART_BYTES for number in range(parts)) + b"end"
    path.write_bytes(content)
    return content


def test_folder_arrives_and_is_not_sent_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 10):
        (tmp_path / f"{number}.pt").write_bytes(b"galaxies %d" % number)
    (tmp_path / "2.catalogue.csv").write_text("index,object_id,ra,dec\n")
    (tmp_path / "notes.txt").write_text("stays here")
    target = f"s3://{BUCKET}/sets/25MB"
    first = run(capsys, str(tmp_path), target)
    assert [item["key"] for item in first["objects"]] == [
        f"sets/25MB/{name}" for name in ("1.pt", "2.pt", "10.pt", "2.catalogue.csv")
    ]
    assert storage.store(BUCKET).read("sets/25MB/10.pt") == b"galaxies 10"
    assert run(capsys, str(tmp_path), target)["sent"] == 0

    (tmp_path / "2.pt").write_bytes(b"galaxies 3")  # same size, other content
    assert run(capsys, str(tmp_path), target)["sent"] == len(b"galaxies 3")
    assert storage.store(BUCKET).read("sets/25MB/2.pt") == b"galaxies 3"


def test_large_file_goes_in_parts_and_what_boto3_wrote_is_recognised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "1.pt"
    content = large_file(path)
    assert run(capsys, str(path), f"s3://{BUCKET}")["sent"] == len(content)
    assert storage.store(BUCKET).read("1.pt") == content
    assert run(capsys, str(path), f"s3://{BUCKET}")["sent"] == 0
    s3_client().upload_file(str(path), BUCKET, "theirs/1.pt")
    assert run(capsys, str(path), f"s3://{BUCKET}/theirs")["sent"] == 0


def test_interrupted_upload_goes_on_from_its_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "1.pt"
    content = large_file(path)
    s3 = s3_client()
    send = s3.upload_part

    def fail_at_third(**request: Any) -> Any:
        if request["PartNumber"] == 3:
            raise KeyboardInterrupt
        return send(**request)

    monkeypatch.setattr(uploading, "PARALLEL_PARTS", 1)
    monkeypatch.setattr(s3, "upload_part", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        upload_files(s3, {(BUCKET, "set/1.pt"): path})
    assert not [*storage.store(BUCKET).list("set/")]  # nothing half-written under the key

    upload = s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"][0]["UploadId"]
    parts = s3.list_parts(Bucket=BUCKET, Key="set/1.pt", UploadId=upload)["Parts"]
    there = sum(part["Size"] for part in parts)
    assert there >= 2 * PART_BYTES
    report = run(capsys, str(path), f"s3://{BUCKET}/set")
    assert report["sent"] == len(content) - there
    assert storage.store(BUCKET).read("set/1.pt") == content
    assert not s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_unfinished_upload_of_other_content_is_not_mixed_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3 = s3_client()
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="set/1.pt")["UploadId"]
    for number in range(1, 6):
        body = b"x" * PART_BYTES if number < 5 else b"tail"
        s3.upload_part(Bucket=BUCKET, Key="set/1.pt", UploadId=upload, PartNumber=number, Body=body)
    path = tmp_path / "1.pt"
    content = large_file(path)
    assert run(capsys, str(path), f"s3://{BUCKET}/set")["sent"] == len(content)
    assert storage.store(BUCKET).read("set/1.pt") == content


def test_missing_bucket_and_bad_words_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.pt").write_bytes(b"galaxies")
    for words, reason in (
        ([str(tmp_path), "s3://absent/set"], "absent"),
        ([str(tmp_path), "bucket/set"], "s3://BUCKET/PREFIX"),
        ([str(tmp_path / "none"), f"s3://{BUCKET}"], ".pt"),
    ):
        assert main(["data", "upload", *words]) == 2
        assert reason in capsys.readouterr().err


def test_file_that_changes_while_it_is_sent_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "1.pt"
    large_file(path)
    s3 = s3_client()
    create = s3.create_multipart_upload

    def change(**request: Any) -> Any:
        path.write_bytes(b"y" * path.stat().st_size)
        return create(**request)

    monkeypatch.setattr(s3, "create_multipart_upload", change)
    with pytest.raises(InvalidInput, match="changed while"):
        upload_files(s3, {(BUCKET, "1.pt"): path})


@pytest.mark.parametrize("other", ["3.pt", "1.catalogue.csv", "old-9.pt"])
def test_another_data_set_in_the_folder_is_refused_or_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.pt").write_bytes(b"galaxies %d" % number)
    store = storage.store(BUCKET)
    kept = ["set/notes.txt", "set/sub/5.pt", "set-2/7.pt"]
    for key in (f"set/{other}", *kept):
        store.write(key, b"there before")
    target = f"s3://{BUCKET}/set"
    assert main(["data", "upload", str(tmp_path), target]) == 2
    assert f"e.g. s3://{BUCKET}/set/{other}" in capsys.readouterr().err
    assert len([*store.list()]) == 4, "nothing was uploaded"
    run(capsys, str(tmp_path / "1.pt"), target)  # one file is an addition
    run(capsys, str(tmp_path), target, "--replace")
    assert {item.key for item in store.list()} == {"set/1.pt", "set/2.pt", *kept}
    run(capsys, str(tmp_path), target)


def test_others_stay_where_the_upload_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = storage.store(BUCKET)
    store.write("set/9.pt", b"there before")
    (tmp_path / "1.pt").write_bytes(b"galaxies")

    def fail(*arguments: Any, **options: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage.Store, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        upload_files(s3_client(), {(BUCKET, "set/1.pt"): tmp_path / "1.pt"}, others="remove")
    assert [item.key for item in store.list()] == ["set/9.pt"]


def test_addresses_and_part_sizes() -> None:
    assert parse_s3_url("s3://bucket/a/b/") == ("bucket", "a/b/")
    assert parse_s3_url("s3://bucket") == ("bucket", "")
    assert part_size(PART_BYTES) == PART_BYTES
    size = 200 * 2**30
    assert -(-size // part_size(size)) <= MAX_PARTS
