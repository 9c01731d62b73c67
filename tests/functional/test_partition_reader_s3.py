"""Partitions streamed from S3: early, bounded, one version only, through faults."""

from __future__ import annotations

import threading
import time
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cosmicai import storage
from cosmicai.errors import CorruptPartition, PartitionNotFound, TransientStorageError
from cosmicai.partition import sources
from cosmicai.partition.reader import open_partition, opened_ahead
from cosmicai.partition.sources import S3Object
from cosmicai_workbench.data.partition_writer import PartitionWriter
from throttled_s3 import ThrottledS3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

RETRIES_OFF = {"retries": {"total_max_attempts": 1}}


def expected(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Galaxies whose every value tells which galaxy it is."""
    index = np.arange(start, start + count, dtype=np.float32)
    image = np.broadcast_to(index[:, None, None, None], (count, 5, 32, 32))
    return image, np.broadcast_to(index[:, None] + 0.5, (count, 5)), index + 0.25


def write(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with PartitionWriter(path, count, {}) as writer:
        for start in range(0, count, 1000):
            image, magnitude, redshift = expected(min(1000, count - start), start)
            writer.write(np.ascontiguousarray(image), np.ascontiguousarray(magnitude), redshift)
    return path


def check(client: S3Client, count: int, batch_size: int, key: str = "1.pt") -> int:
    """Read it all, compare it with what was written; return the number of requests."""
    with open_partition(S3Object("bucket", key, client), batch_size=batch_size) as reader:
        assert reader.num_samples == count
        done = 0
        for batch in reader:
            image, magnitude, redshift = expected(len(batch), done)
            assert batch.start == done
            np.testing.assert_array_equal(batch.image, image)
            np.testing.assert_array_equal(batch.magnitude, magnitude)
            np.testing.assert_array_equal(batch.redshift, redshift)
            done += len(batch)
        assert done == count
        assert reader.s3 is not None
        return reader.s3.requests


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BACKOFF_SECONDS", (0.001, 0.01))


@pytest.mark.parametrize(
    ("count", "batch_size"), [(1, 4), (51, 8), (2000, 32), (2000, 512), (2000, 700)]
)
def test_every_galaxy_comes_once_in_order(tmp_path: Path, count: int, batch_size: int) -> None:
    path = write(tmp_path / "bucket" / "1.pt", count)
    with ThrottledS3(tmp_path) as s3:
        requests = check(s3.client(), count, batch_size)

        assert requests == len(s3.state.requests)
        assert s3.state.served_bytes < path.stat().st_size + 2e6  # nothing is read twice but head


def test_a_small_partition_takes_one_request(tmp_path: Path) -> None:
    write(tmp_path / "bucket" / "1.pt", 40)
    with ThrottledS3(tmp_path) as s3:
        assert check(s3.client(), 40, 16) == 1


def test_statistics_count_every_request(tmp_path: Path) -> None:
    write(tmp_path / "bucket" / "1.pt", 1000)
    with ThrottledS3(tmp_path, latency_ms=20) as s3:
        with open_partition(S3Object("bucket", "1.pt", s3.client()), batch_size=256) as reader:
            assert len(list(reader)) == 4
            found = reader.s3
        assert found is not None
        assert found.requests == len(s3.state.requests)
        mean = found.total_seconds / found.requests
        assert 0.02 <= found.min_seconds <= mean <= found.max_seconds
        assert found.retries == 0


def test_the_first_batch_is_out_before_the_last_byte_has_come(tmp_path: Path) -> None:
    path = write(tmp_path / "bucket" / "1.pt", 5000)
    with (
        ThrottledS3(tmp_path, mb_per_second=200) as s3,
        open_partition(S3Object("bucket", "1.pt", s3.client()), batch_size=256) as reader,
    ):
        next(iter(reader))

        assert s3.state.served_bytes < path.stat().st_size / 2


def test_no_more_than_the_blocks_ahead_is_read_for_a_slow_consumer(tmp_path: Path) -> None:
    path = write(tmp_path / "bucket" / "1.pt", 5000)
    with (
        ThrottledS3(tmp_path) as s3,
        open_partition(S3Object("bucket", "1.pt", s3.client()), batch_size=64) as reader,
    ):
        next(iter(reader))
        time.sleep(0.5)

        assert s3.state.served_bytes < path.stat().st_size / 3


@pytest.mark.parametrize("batch_size", [32, 512])
def test_memory_does_not_grow_with_the_partition(tmp_path: Path, batch_size: int) -> None:
    write(tmp_path / "bucket" / "1.pt", 10_000)  # 205 MB
    with ThrottledS3(tmp_path) as s3:
        client = s3.client()
        tracemalloc.start()
        try:
            with open_partition(S3Object("bucket", "1.pt", client), batch_size=batch_size) as r:
                for _ in r:
                    pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert peak < 80e6


# -- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        ["503"],
        ["reset"],
        ["cut"],
        ["ok", "cut", "503", "reset"],
        ["ok", "ok", "cut", "cut", "cut", "cut"],
        ["ok", "ok", *["503", "ok"] * 5],
    ],
    ids=" ".join,
)
def test_passing_faults_are_retried(
    tmp_path: Path, fast_retries: None, faults: Iterable[str]
) -> None:
    write(tmp_path / "bucket" / "1.pt", 1500)
    with ThrottledS3(tmp_path, faults=faults) as s3:
        check(s3.client(**RETRIES_OFF), 1500, 256)

        assert not s3.state.faults


def test_a_retry_asks_only_for_what_is_missing(tmp_path: Path, fast_retries: None) -> None:
    path = write(tmp_path / "bucket" / "1.pt", 1500)
    with ThrottledS3(tmp_path, faults=["ok", "ok", "cut", "cut"]) as s3:
        check(s3.client(**RETRIES_OFF), 1500, 256)

        assert s3.state.served_bytes < path.stat().st_size + 2e6


def test_a_stalled_answer_is_given_up_and_asked_for_again(
    tmp_path: Path, fast_retries: None
) -> None:
    write(tmp_path / "bucket" / "1.pt", 500)
    with ThrottledS3(tmp_path, faults=["ok", "ok", "stall"]) as s3:
        started = time.monotonic()
        check(s3.client(**RETRIES_OFF, read_timeout=1), 500, 256)

        assert time.monotonic() - started < 10


def test_a_trickling_answer_is_given_up(
    tmp_path: Path, fast_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "REQUEST_SECONDS", 0.3)
    write(tmp_path / "bucket" / "1.pt", 500)
    with (
        ThrottledS3(tmp_path, mb_per_second=2) as s3,
        pytest.raises(TransientStorageError, match="it took over"),
    ):
        check(s3.client(**RETRIES_OFF), 500, 256)


def test_faults_without_end_are_named_and_bounded(tmp_path: Path, fast_retries: None) -> None:
    write(tmp_path / "bucket" / "1.pt", 500)
    with ThrottledS3(tmp_path, faults=["503"] * 1000) as s3:
        with pytest.raises(TransientStorageError, match=r"s3://bucket/1\.pt.*5 attempts.*SlowDown"):
            check(s3.client(**RETRIES_OFF), 500, 256)

        assert len(s3.state.requests) == storage.ATTEMPTS


@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize(("fault", "message"), [("replace", "changed"), ("delete", "deleted")])
def test_a_partition_changed_in_the_middle_is_an_error_never_a_mix(
    tmp_path: Path, step: int, fault: str, message: str
) -> None:
    write(tmp_path / "bucket" / "1.pt", 2000)
    with (
        ThrottledS3(tmp_path, faults=["ok"] * step + [fault]) as s3,
        pytest.raises(CorruptPartition, match=rf"s3://bucket/1\.pt was {message} while"),
    ):
        check(s3.client(), 2000, 256)


def test_a_missing_object_and_an_empty_one_are_named(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "empty.pt").touch()
    with ThrottledS3(tmp_path) as s3:
        client = s3.client()
        with pytest.raises(PartitionNotFound, match=r"s3://bucket/3\.pt does not exist"):
            open_partition(S3Object("bucket", "3.pt", client), batch_size=4)
        with pytest.raises(CorruptPartition, match=r"s3://bucket/empty\.pt is empty"):
            open_partition(S3Object("bucket", "empty.pt", client), batch_size=4)


def test_closing_stops_the_threads_soon(tmp_path: Path) -> None:
    write(tmp_path / "bucket" / "1.pt", 3000)
    with ThrottledS3(tmp_path, mb_per_second=20) as s3:
        with open_partition(S3Object("bucket", "1.pt", s3.client()), batch_size=512) as reader:
            next(iter(reader))
        wait_until(lambda: not reading_threads())


# -- several in turn ----------------------------------------------------------------------------


def sources_of(tmp_path: Path, client: S3Client, counts: list[int]) -> list[S3Object]:
    for number, count in enumerate(counts):
        write(tmp_path / "bucket" / f"{number}.pt", count)
    return [S3Object("bucket", f"{number}.pt", client) for number in range(len(counts))]


@pytest.mark.parametrize("counts", [[], [700], [700, 3, 900]])
def test_partitions_opened_ahead_come_in_order(tmp_path: Path, counts: list[int]) -> None:
    with ThrottledS3(tmp_path) as s3:
        sources = sources_of(tmp_path, s3.client(), counts)
        with opened_ahead(sources, batch_size=256) as readers:
            found = [[len(batch) for batch in reader] for reader in readers]

    assert [sum(sizes) for sizes in found] == counts


def test_the_first_block_and_the_next_partition_come_without_asking(tmp_path: Path) -> None:
    with ThrottledS3(tmp_path) as s3:
        sources = sources_of(tmp_path, s3.client(), [700, 700])
        with opened_ahead(sources, batch_size=256) as readers:
            wait_until(lambda: s3.state.served_bytes > 256 * 20_480)  # no reader asked for yet
            served = s3.state.served_bytes
            batches = iter(next(readers))
            wait_until(lambda: s3.state.served_bytes > served + 256 * 20_480)
            assert len(next(batches)) == 256


def test_an_error_of_a_later_partition_comes_in_its_turn(tmp_path: Path) -> None:
    with ThrottledS3(tmp_path) as s3:
        first, _ = sources_of(tmp_path, s3.client(), [700, 3])
        missing = S3Object("bucket", "9.pt", first.client)
        with opened_ahead([first, missing], batch_size=256) as readers:
            assert len(list(next(readers))) == 3
            with pytest.raises(PartitionNotFound, match=r"9\.pt"):
                next(readers)


@pytest.mark.parametrize("asked", [0, 1])
def test_leaving_early_leaves_no_thread(tmp_path: Path, asked: int) -> None:
    with ThrottledS3(tmp_path, mb_per_second=20) as s3:
        sources = sources_of(tmp_path, s3.client(), [2000, 2000])
        with opened_ahead(sources, batch_size=512) as readers:
            for _ in range(asked):
                next(iter(next(readers)))
        wait_until(lambda: not reading_threads())


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "partition" in thread.name]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, reading_threads()
        time.sleep(0.02)


def test_moto_serves_a_partition_as_s3_does(tmp_path: Path) -> None:
    """Ranges, If-Match and ETags of the local cloud's S3."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            region_name="us-east-1",
            aws_access_key_id="none",
            aws_secret_access_key="none",
        )
        client.create_bucket(Bucket="bucket")
        client.upload_file(str(write(tmp_path / "1.pt", 800)), "bucket", "folder/1.pt")
        check(client, 800, 128, "folder/1.pt")
        client.put_object(Bucket="bucket", Key="empty.pt", Body=b"")
        with pytest.raises(CorruptPartition, match="is empty"):
            open_partition(S3Object("bucket", "empty.pt", client), batch_size=4)
        with open_partition(S3Object("bucket", "folder/1.pt", client), batch_size=128) as reader:
            client.put_object(Bucket="bucket", Key="folder/1.pt", Body=b"other")
            with pytest.raises(CorruptPartition, match="was changed while"):
                list(reader)
    finally:
        server.stop()
