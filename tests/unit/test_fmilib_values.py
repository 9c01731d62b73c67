"""fmilib without a network: codec, evaluation order, trees, model, configuration, proofs."""

from __future__ import annotations

import functools
import json
import math
import operator
import subprocess
import sys
from typing import Any
from unittest import mock

import fmilib as fmi
import numpy as np
import pytest
from fmilib import codec, operations
from fmilib.channels import s3
from fmilib.collectives.trees import children, parent
from fmilib.config import Configuration
from fmilib.costs import CostModel
from fmilib.frame import Header, Packet, pack_bundle, pack_header, unpack_bundle
from fmilib.rendezvous import protocol, punching
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

NAN = float("nan")
FILE = {
    "backends": {
        "S3": {"enabled": "true", "bucket_name": "b", "s3_region": "eu-central-1",
               "timeout": "100", "max_timeout": "1000"},
        "Redis": {"enabled": True, "host": "127.0.0.1", "port": 6379, "timeout": 1,
                  "max_timeout": 2000},
        "Direct": {"enabled": False, "host": "127.0.0.1", "port": 10000, "max_timeout": 1000},
    },
    "model": {
        "FaaS": {"gib_second_price": 0.0000166667},
        "S3": {"bandwidth": "50.0", "overhead": "40.4", "download_price": 4.3e-7,
               "upload_price": 5.4e-6},
        "Redis": {"bandwidth_single": 100.0, "bandwidth_multiple": 400.0, "overhead": 5.2,
                  "include_infrastructure_costs": "true"},
    },
}  # fmt: skip


def fold(values: list[Any], function: fmi.func) -> Any:
    return codec.decode(operations.reduce([codec.encode(v) for v in values], function))


def test_importing_fmilib_loads_neither_numpy_nor_torch_nor_a_client() -> None:
    code = (
        "import sys, fmilib, fmilib.fmi_operations, fmilib.channels.direct, fmilib.channels.redis;"
        "print([m for m in ('numpy', 'torch', 'boto3', 'redis', 'asyncio', 'cosmicai')"
        " if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer


@given(st.integers(-(2**63), 2**63 - 1))
def test_64_bit_integers_survive(value: int) -> None:
    packet = codec.encode(value, fmi.types(fmi.datatypes.int))
    assert codec.decode(packet) == value


@given(
    hnp.arrays(
        dtype=st.one_of(
            hnp.integer_dtypes(endianness="<"), hnp.unsigned_integer_dtypes(endianness="<"),
            hnp.floating_dtypes(endianness="<", sizes=(16, 32, 64)), hnp.boolean_dtypes(),
            hnp.complex_number_dtypes(endianness="<", sizes=(64, 128)),
        ),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    )
)  # fmt: skip
def test_arrays_of_any_dtype_and_shape_survive(array: np.ndarray) -> None:
    packet = codec.encode(array)
    back = codec.decode(Packet(packet.code, bytes(packet.data), packet.count, packet.description))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_arrays_are_sent_without_a_copy() -> None:
    array = np.arange(1000.0)
    data = codec.encode(array).data
    assert np.shares_memory(np.frombuffer(data, "f8"), array)


@pytest.mark.parametrize("values", [[2**62, 2**62], [-(2**63), -1]])
def test_integer_overflow_is_reported_not_wrapped(values: list[int]) -> None:
    total = fmi.func(fmi.op.sum)
    with pytest.raises(fmi.FmiOverflow):
        fold(values, total)
    with pytest.raises(fmi.FmiOverflow):
        fold([[v] * 3 for v in values], total)
    with pytest.raises(fmi.FmiOverflow):
        fold([np.array([v]) for v in values], total)
    with pytest.raises(fmi.FmiOverflow):
        codec.encode(2**63)


@given(st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62)),
                min_size=1, max_size=8))  # fmt: skip
def test_products_of_arrays_overflow_exactly_when_python_says_so(pairs: list[Any]) -> None:
    a, b = (np.array([p[i] for p in pairs]) for i in (0, 1))
    fits = all(-(2**63) <= x * y < 2**63 for x, y in pairs)
    if fits:
        assert fold([a, b], fmi.func(fmi.op.prod)).tolist() == [x * y for x, y in pairs]
    else:
        with pytest.raises(fmi.FmiOverflow):
            fold([a, b], fmi.func(fmi.op.prod))


def test_unsigned_and_small_integers_overflow_at_their_own_range() -> None:
    with pytest.raises(fmi.FmiOverflow):
        fold([np.array([255], "u1"), np.array([1], "u1")], fmi.func(fmi.op.sum))
    with pytest.raises(fmi.FmiOverflow):
        fold([np.array([100], "i1"), np.array([100], "i1")], fmi.func(fmi.op.sum))


@pytest.mark.parametrize("operation", [fmi.op.max, fmi.op.min])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_nan_makes_max_and_min_nan_wherever_it_stands(operation: fmi.op, place: int) -> None:
    values = [1.0, 2.0, 3.0]
    values[place] = NAN
    function = fmi.func(operation)
    assert math.isnan(fold(values, function))
    assert math.isnan(fold([[v] for v in values], function)[0])
    assert math.isnan(fold([np.array([v]) for v in values], function)[0])


@given(st.lists(st.lists(st.floats(width=64), min_size=3, max_size=3), min_size=1, max_size=9))
def test_lists_fold_alike_with_and_without_numpy(rows: list[list[float]]) -> None:
    packets = [codec.encode(row, fmi.types(fmi.datatypes.double_list)) for row in rows]
    for operation in (fmi.op.sum, fmi.op.prod):
        function = fmi.func(operation)
        fast, steps = operations.reduce(packets, function), operations.scan(packets, function)
        with mock.patch.object(operations, "_has_numpy", return_value=False):
            plain = operations.reduce(packets, function)
        for last in (fast, list(steps)[-1]):
            for a, b in zip(codec.decode(plain), codec.decode(last), strict=True):
                assert a == b or (math.isnan(a) and math.isnan(b))


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=12))
def test_evaluation_is_a_left_fold_in_rank_order(values: list[int]) -> None:
    function = fmi.func(fmi.op.custom, lambda a, b: 2 * a - b, False, False)
    assert fold(values, function) == functools.reduce(lambda a, b: 2 * a - b, values)
    prefixes = operations.scan([codec.encode(v) for v in values], function)
    wanted = [functools.reduce(lambda a, b: 2 * a - b, values[: i + 1]) for i in range(len(values))]
    assert [codec.decode(p) for p in prefixes] == wanted


def test_a_custom_function_on_lists_works_element_by_element_as_in_the_binding() -> None:
    function = fmi.func(fmi.op.custom, lambda a, b: 2 * a + 2 * b, True, True)
    assert fold([[42, 14], [1, 2]], function) == [86, 32]


def test_ranks_with_other_types_or_shapes_are_named() -> None:
    packets = [codec.encode(np.zeros(6)), codec.encode(np.zeros((2, 3)))]
    with pytest.raises(fmi.FmiMismatch, match="rank 1 holds"):
        operations.reduce(packets, fmi.func(fmi.op.sum))


def test_a_function_that_raises_is_reported() -> None:
    function = fmi.func(fmi.op.custom, lambda a, b: a // 0)
    with pytest.raises(fmi.FmiReductionError, match="ZeroDivisionError"):
        fold([1, 2], function)


@given(st.integers(1, 200), st.integers(0, 199), st.sampled_from([2, 3, 32]))
def test_a_tree_reaches_every_rank_once(size: int, root: int, degree: int) -> None:
    root %= size
    reached = [root]
    for rank in reached:
        for child in children(rank, root, size, degree):
            assert parent(child, root, size, degree) == rank
            reached.append(child)
    assert sorted(reached) == list(range(size))
    assert parent(root, root, size, degree) is None


@given(st.dictionaries(st.integers(0, 2**32 - 1), st.binary(max_size=20), max_size=5))
def test_bundles_survive(entries: dict[int, bytes]) -> None:
    packets = {rank: Packet(6, data, len(data), b"d") for rank, data in entries.items()}
    back = unpack_bundle(pack_bundle(packets))
    assert {rank: bytes(p.data) for rank, p in back.items()} == entries
    assert all(p.description == b"d" for p in back.values())


def test_a_truncated_bundle_is_a_mismatch() -> None:
    whole = pack_bundle({rank: Packet(6, b"value", 5, b"d") for rank in range(3)})
    entry = len(whole) // 3
    for size in set(range(1, len(whole))) - {entry, 2 * entry}:  # those end between entries
        with pytest.raises(fmi.FmiMismatch, match="bundle"):
            unpack_bundle(whole[:size])


def test_a_header_says_whose_and_which_message_it_is() -> None:
    packet = Packet(1, b"12345678", 1, b"abc")
    header = Header(pack_header(packet, 8, 3, 0xC0FFEE, 2, 2**64 - 1, 77, 5))
    assert (header.kind, header.sender, header.comm, header.epoch) == (8, 3, 0xC0FFEE, 2)
    assert (header.session, header.op, header.step) == (2**64 - 1, 77, 5)
    assert (header.nbytes, header.count, header.description_size) == (8, 1, 3)
    with pytest.raises(fmi.FmiMismatch):
        Header(b"\0" * 64)


def test_the_cpp_librarys_file_is_read(tmp_path: Any) -> None:
    path = tmp_path / "fmi.json"
    path.write_text(json.dumps(FILE))
    configuration = Configuration(path)
    assert sorted(configuration.backends) == ["Redis", "S3"]
    assert configuration.timeout == 2.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backends": None}, "'backends' is missing"),
        ({"backends": {"Tcp": {}}}, "unknown backend 'Tcp'"),
        ({"backends": {"Direct": {"host": "h"}}}, r"Direct\.port is missing"),
        ({"backends": {"Direct": {"host": "h", "port": "x"}}}, "is a number, not 'x'"),
        ({"backends": {"Direct": {"host": "h", "port": 1, "prot": 2}}}, "unknown key Direct.prot"),
        ({"backends": {"Direct": {"enabled": "no"}}}, "is true or false"),
        ({"backends": {"Direct": {"enabled": False}}}, "no backend is enabled"),
    ],
)
def test_a_bad_configuration_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(fmi.FmiConfigError, match=words):
        Configuration({**FILE, **change})


def test_a_missing_or_broken_file_is_refused_by_name(tmp_path: Any) -> None:
    with pytest.raises(fmi.FmiConfigError, match="cannot read"):
        Configuration(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(fmi.FmiConfigError, match="is not JSON"):
        Configuration(tmp_path / "bad.json")


def test_the_environment_configures() -> None:
    found = Configuration.from_environment(
        {"FMI_RENDEZVOUS": "host:1234", "FMI_REDIS_URL": "redis://r", "FMI_S3": "s3://b/p/q"}
    )
    assert found.backends["Direct"] == {"host": "host", "port": 1234}
    assert found.backends["S3"] == {"bucket_name": "b", "prefix": "p/q"}
    with pytest.raises(fmi.FmiConfigError, match="set FMI_CONFIG"):
        Configuration.from_environment({})


def test_estimates_are_in_seconds_and_dollars() -> None:
    model = CostModel(FILE["model"], 1024)
    send = model.estimate("Direct", "send", 250_000_000, 2)
    assert send.seconds == pytest.approx(1.0 + 0.34e-3, rel=0.01)
    # 1 GiB for one second on two ranks, and the server's share.
    assert send.dollars == pytest.approx(2 * 1.0 * 0.0000166667 + 0.0134 / 1000, rel=0.01)
    put_and_get = model.estimate("S3", "send", 8, 2)
    assert put_and_get.seconds == pytest.approx(2 * 40.4e-3, rel=0.01)
    assert put_and_get.dollars == pytest.approx(
        5.4e-6 + 4.3e-7 + 2 * put_and_get.seconds * 0.0000166667, rel=0.01
    )


@pytest.mark.parametrize(
    ("operation", "ranks", "rounds", "puts", "gets"),
    [
        ("send", 2, 2, 1, 1),
        ("bcast", 1000, 2, 1, 999),
        ("scatter", 1000, 3, 1, 2 * 999),
        ("gather", 5, 5, 4, 4),
        ("reduce", 1000, 5 * 5, 999, 999),
        ("barrier", 1000, 5 * 5 + 2, 1000, 2 * 999),
        ("allreduce", 21, 2 * 5 + 2, 21, 2 * 20),
        ("scan", 5, 5 + 3, 5, 3 * 4),
    ],
)
def test_estimates_over_s3_count_the_documented_requests(
    operation: str, ranks: int, rounds: int, puts: int, gets: int
) -> None:
    prices = {"upload_price": 1.0, "download_price": 1e-6, "overhead": 1000.0, "bandwidth": 1e12}
    model = CostModel({"S3": prices, "FaaS": {"gib_second_price": 0.0}}, 256)
    estimate = model.estimate("S3", operation, 8, ranks)
    assert estimate.seconds == pytest.approx(rounds)
    assert estimate.dollars == pytest.approx(puts + 1e-6 * gets, rel=1e-12)


def test_waiting_ranks_stay_below_the_rate_that_s3_grants() -> None:
    assert s3.pauses(16, 0.01, 2000) == (0.01, 0.5)
    for ranks in (1000, 4000, 10_000):
        first, longest = s3.pauses(ranks, 0.01, 2000)
        assert first < longest
        assert ranks / (longest / 2) <= 4000  # no pause is shorter than a half
    assert s3.looks(0, 0.01, 0.5) == 1
    assert s3.looks(30, 0.01, 0.5) <= 3 + math.log2(50) + 2 * 30 / 0.5


@settings(max_examples=50)
@given(
    st.sampled_from(["send", "barrier", "bcast", "gather", "scatter", "allgather", "reduce",
                     "allreduce", "scan"]),
    st.integers(0, 10**9), st.integers(2, 1000),
)  # fmt: skip
def test_the_fast_hint_takes_the_least_time_and_the_cheap_one_the_least_price(
    operation: str, nbytes: int, ranks: int
) -> None:
    model = CostModel({}, 256)
    names = ["Direct", "Redis", "S3"]
    fast = model.rank(names, operation, nbytes, ranks, fmi.hints.fast)
    cheap = model.rank(names, operation, nbytes, ranks, fmi.hints.cheap)
    assert fast[0].seconds == min(e.seconds for e in fast)
    assert cheap[0].dollars == min(e.dollars for e in cheap)
    assert all(e.seconds > 0 and e.dollars > 0 for e in fast)
    assert model.rank(names[::-1], operation, nbytes, ranks, fmi.hints.fast) == fast


def test_both_ranks_agree_who_dials() -> None:
    public = (("1.1.1.1", 10), ("1.1.1.1", 10))
    behind = (("2.2.2.2", 20), ("10.0.0.2", 20))
    beside = (("2.2.2.2", 21), ("10.0.0.3", 21))
    far = (("3.3.3.3", 30), ("192.168.0.2", 30))
    assert punching.candidates(0, 1, [public, public]) == []
    assert punching.candidates(1, 0, [public, public]) == [(("1.1.1.1", 10), False)]
    assert punching.candidates(0, 1, [behind, public]) == [(("1.1.1.1", 10), False)]
    assert punching.candidates(1, 0, [behind, public]) == []
    assert punching.candidates(0, 1, [behind, far]) == [(("3.3.3.3", 30), True)]
    assert punching.candidates(1, 0, [behind, far]) == [(("2.2.2.2", 20), True)]
    assert len(punching.candidates(0, 1, [behind, beside])) == 2


def test_a_greeting_proves_session_and_ranks() -> None:
    key = protocol.peer_key("token", "session", "number")
    greeting = punching.hello(key, 5, 1, 2, 3, chosen=True)
    assert punching.read_hello(key, 5, 1, 3, greeting) == (2, True)
    for wrong in ((b"other key", 5, 1, 3), (key, 6, 1, 3), (key, 5, 2, 3), (key, 5, 1, 4)):
        assert punching.read_hello(*wrong, greeting) is None


def test_op_names_are_the_bindings() -> None:
    assert [m.name for m in fmi.datatypes] == ["int", "double", "int_list", "double_list"]
    assert [m.name for m in fmi.op] == ["sum", "prod", "max", "min", "custom"]
    assert [m.name for m in fmi.hints] == ["cheap", "fast"]
    with pytest.raises(TypeError, match=r"op\.custom"):
        fmi.func(fmi.op.sum, operator.add)


@pytest.mark.parametrize(
    ("value", "sent"), [(np.int64(7), 7), (np.float32(0.5), 0.5), (np.arange(4).sum(), 6)]
)
def test_numpys_numbers_are_sent_as_pythons(value: Any, sent: float) -> None:
    assert codec.decode(codec.encode(value)) == sent
    assert type(codec.decode(codec.encode(value))) is type(sent)
