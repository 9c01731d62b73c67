"""One bucket through a bad network: retried, recognised, or a named error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from cosmicai import storage
from cosmicai.errors import (
    InvalidInput,
    ObjectNotFound,
    PreconditionFailed,
    StorageDenied,
    TransientStorageError,
)
from cosmicai.storage import Store
from faulty_s3 import FaultyS3, Request
from s3_stack import BUCKET, running_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CALLS: dict[str, Callable[[Store, Path], object]] = {
    "read": lambda store, _: store.read("there"),
    "part": lambda store, _: store.read("there", span=(2, 9)),
    "content": lambda store, _: store.read_content("there"),
    "download": lambda store, folder: store.download("there", folder / "file"),
    "list": lambda store, _: list(store.list()),
    "many": lambda store, _: list(store.read_many(["there", "there"])),
}
WRITES: dict[str, Callable[[Store], object]] = {
    "write": lambda store: store.write("new", b"new"),
    "if none": lambda store: store.write("new", b"new", if_none_match=True),
    "if match": lambda store: store.write("there", b"new", if_match=store.head("there").etag),
    "delete": lambda store: store.delete(["there"]),
}


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyS3]:
    for stack in running_stack(monkeypatch, tmp_path):
        storage.store(BUCKET).write("there", b"0123456789" * 1000)
        with FaultyS3(stack.endpoint) as proxy:
            monkeypatch.setattr(storage, "BACKOFF_SECONDS", (0.001, 0.01))
            yield proxy


@pytest.fixture
def store(proxy: FaultyS3) -> Store:
    return Store(storage.make_client(endpoint=proxy.endpoint), BUCKET)


def first(count: int, fault: str, method: str = "") -> Callable[[Request], str | None]:
    """Disturb the first so many requests of a method."""
    left = [count]

    def decide(request: Request) -> str | None:
        if not left[0] or (method and request.method != method):
            return None
        left[0] -= 1
        return fault

    return decide


@pytest.mark.parametrize("fault", ["refused", "broken", "reset", "lost", "cut"])
@pytest.mark.parametrize("call", CALLS)
def test_reads_survive_what_is_transient(
    proxy: FaultyS3, store: Store, tmp_path: Path, call: str, fault: str
) -> None:
    expected = CALLS[call](store, tmp_path)
    proxy.session.fault = first(3, fault)
    assert CALLS[call](store, tmp_path) == expected


@pytest.mark.parametrize("fault", ["refused", "reset", "cut"])
@pytest.mark.parametrize("call", CALLS)
def test_what_never_works_is_transient_by_name_after_five_attempts(
    proxy: FaultyS3, store: Store, tmp_path: Path, call: str, fault: str
) -> None:
    proxy.session.fault = lambda _: fault
    proxy.session.requests.clear()
    with pytest.raises(TransientStorageError, match=f"s3://{BUCKET}/"):
        CALLS[call](store, tmp_path)
    objects = 2 if call == "many" else 1
    assert len(proxy.session.requests) <= objects * storage.ATTEMPTS, "retries multiply"


@pytest.mark.parametrize("fault", ["refused", "reset", "lost", "cut"])
@pytest.mark.parametrize("call", WRITES)
def test_writes_survive_lost_answers(proxy: FaultyS3, store: Store, call: str, fault: str) -> None:
    proxy.session.fault = first(2, fault, "POST" if call == "delete" else "PUT")
    WRITES[call](store)
    proxy.session.fault = lambda _: None
    found = {item.key: store.read(item.key) for item in store.list()}
    assert found.get("new") in {None, b"new"}
    assert (call == "delete") == (found.get("there") is None)


def test_a_lost_condition_is_told_from_a_lost_answer(proxy: FaultyS3, store: Store) -> None:
    etag = store.write("new", b"mine", if_none_match=True, owner="me")
    assert store.write("new", b"mine", if_none_match=True, owner="me") == etag
    for change in ({"owner": "you"}, {"body": b"yours", "owner": "me"}):
        with pytest.raises(PreconditionFailed, match="new changed meanwhile"):
            store.write("new", **{"body": b"mine", **change}, if_none_match=True)  # type: ignore[arg-type]
    with pytest.raises(PreconditionFailed, match="absent was deleted"):
        store.write("absent", b"x", if_match=etag)
    with pytest.raises(ObjectNotFound, match="no-such-bucket"):
        Store(store.client, "no-such-bucket").write("x", b"x", if_match=etag)


@pytest.mark.parametrize(
    ("call", "permission"),
    [
        (lambda s: s.read("a/b"), r"s3:GetObject on arn:aws:s3:::cosmicai-data/a/b .*ListBucket"),
        (lambda s: list(s.list("a/")), r"s3:ListBucket on arn:aws:s3:::cosmicai-data:"),
        (lambda s: s.write("a/b", b""), r"s3:PutObject on arn:aws:s3:::cosmicai-data/a/b:"),
        (lambda s: s.delete(["a/b"]), r"s3:DeleteObject on arn:aws:s3:::cosmicai-data/"),
        (lambda s: s.head("a/b"), r"access to s3://cosmicai-data/a/b is denied"),
    ],
)
def test_a_denial_names_the_permission_and_is_not_retried(
    proxy: FaultyS3, store: Store, call: Callable[[Store], object], permission: str
) -> None:
    proxy.session.fault = lambda _: "denied"
    with pytest.raises(StorageDenied, match=permission):
        call(store)
    assert len(proxy.session.requests) == 1


@pytest.mark.parametrize("call", ["read", "content", "many", "download"])
def test_an_object_that_is_too_large_is_not_read(store: Store, tmp_path: Path, call: str) -> None:
    def answer(**_: object) -> dict[str, object]:
        return {"ContentLength": 50_000_000_000, "Body": body, "ETag": "", "Metadata": {}}

    body = SimpleNamespace(read=pytest.fail, iter_chunks=pytest.fail, closed=False)
    body.close = lambda: setattr(body, "closed", True)
    absurd = Store(SimpleNamespace(get_object=answer), BUCKET)  # type: ignore[arg-type]
    calls = {**CALLS, "download": lambda s, folder: s.download("there", folder / "file", most=10)}
    with pytest.raises(InvalidInput, match=r"there has 50000000000 bytes, and at most \d+ were"):
        calls[call](absurd, tmp_path)
    assert body.closed
    assert not list(tmp_path.iterdir())


def test_an_object_of_the_largest_size_is_read(store: Store, tmp_path: Path) -> None:
    assert len(store.read("there", most=10_000)) == 10_000
    store.download("there", tmp_path / "file", most=10_000)
    assert (tmp_path / "file").stat().st_size == 10_000
    for call in (store.read, store.read_content):
        with pytest.raises(InvalidInput, match="there has 10000 bytes, and at most 9999 were"):
            call("there", most=9_999)
