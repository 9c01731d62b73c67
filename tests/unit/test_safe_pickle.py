"""A pickle is read as data: what is allowed comes out inert, and nothing else ever runs."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import pytest
from cosmicai.errors import UnsafePickle
from cosmicai.safe_pickle import (
    Global,
    MalformedPickle,
    Stub,
    build_ordered_dict,
    build_set,
    load,
    stub,
)
from hypothesis import given, settings
from hypothesis import strategies as st

ALLOWED = {
    "collections.OrderedDict": build_ordered_dict,
    "builtins.set": build_set,
    "__builtin__.set": build_set,
    "somewhere.Thing": stub("somewhere.Thing"),
}


class Runs:
    """Pickles to a call of anything."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> object:
        return self.call


def short_global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, -1, 255, 65_535, 2**31, -(2**31), 2**40, 1.5, True, False],
        {"a": (1, 2, 3, 4), "b": [], "c": {}, 3: ("x",)},
        "é" * 300,
        (),
        [[[[["deep"]]]]],
    ],
)
def test_plain_values_come_out_as_pickle_would_give_them(value: object, protocol: int) -> None:
    assert load(pickle.dumps(value, protocol=protocol), ALLOWED) == value


def test_an_ordered_dict_keeps_its_order() -> None:
    value = OrderedDict([("b", 1), ("a", 2)])

    loaded = load(pickle.dumps(value, protocol=2), ALLOWED)

    assert list(loaded.items()) == [("b", 1), ("a", 2)]


def test_an_allowed_class_becomes_an_inert_stub() -> None:
    data = b"\x80\x02" + short_global("somewhere.Thing") + b")\x81}X\x01\x00\x00\x00aK\x07sb."

    thing = load(data, ALLOWED)

    assert isinstance(thing, Stub)
    assert (thing.type_name, thing.state) == ("somewhere.Thing", {"a": 7})


def test_an_allowed_global_is_a_name_and_is_never_imported() -> None:
    value = load(b"\x80\x02" + short_global("somewhere.Thing") + b".", ALLOWED)

    assert value == Global("somewhere.Thing")


# -- nothing runs -------------------------------------------------------------------------------


def hostile_pickles(canary: Path) -> dict[str, bytes]:
    """Pickles that all create ``canary`` (or worse) when the standard unpickler reads them."""
    import os

    code = f"open({str(canary)!r}, 'w')"
    command = f"touch {canary}"
    text = b"X" + struct.pack("<I", len(code)) + code.encode()
    shell = b"X" + struct.pack("<I", len(command)) + command.encode()
    pickles = {
        f"os.system, protocol {p}": pickle.dumps(Runs(os.system, command), protocol=p)
        for p in (2, 3, 4, 5)
    }
    pickles |= {
        "eval": pickle.dumps(Runs(eval, code), protocol=2),
        "exec": pickle.dumps(Runs(exec, code), protocol=4),
        "inside a dict": pickle.dumps({"a": [Runs(eval, code)]}, protocol=2),
        "getattr": pickle.dumps(Runs(getattr, "", "join"), protocol=2),
        "INST": b"\x80\x02(" + shell + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(" + short_global("somewhere.Thing") + shell + b"o.",
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT2": b"\x80\x02\x83\x01\x00.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "NEWOBJ_EX": b"\x80\x04" + short_global("somewhere.Thing") + b")}\x92.",
        "dotted attribute of an allowed name": b"\x80\x04\x8c\x09somewhere"
        b"\x8c\x0eThing.__init__\x93.",
        "an allowed name in another module": b"\x80\x02" + short_global("else.Thing") + b".",
        "call of what a call returned": b"\x80\x02"
        + short_global("collections.OrderedDict")
        + b")R)R.",
        "call of text": b"\x80\x02" + text + b")R.",
        "call of a stub": b"\x80\x02" + short_global("somewhere.Thing") + b")\x81)R.",
        "attributes of an allowed global": b"\x80\x02"
        + short_global("somewhere.Thing")
        + b"}X\x08\x00\x00\x00__code__K\x01sb.",
        "attributes by slots": b"\x80\x02"
        + short_global("somewhere.Thing")
        + b")\x81N}X\x01\x00\x00\x00aK\x01s\x86b.",
        "attributes of a list": b"\x80\x02]}b.",
        "persistent id": b"\x80\x02K\x01Q.",
        "text persistent id": b"\x80\x02P1\n.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "protocol 0": pickle.dumps(Runs(os.system, command), protocol=0),
    }
    return pickles


@pytest.mark.parametrize("name", hostile_pickles(Path("canary")))
def test_a_hostile_pickle_is_refused_and_nothing_ran(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    with pytest.raises((UnsafePickle, MalformedPickle)):
        load(hostile_pickles(canary)[name], ALLOWED)

    assert not canary.exists()


def test_the_canary_would_have_appeared(tmp_path: Path) -> None:
    """The pickles of the test above do run where the standard unpickler reads them."""
    canary = tmp_path / "canary"

    pickle.loads(hostile_pickles(canary)["eval"])

    assert canary.exists()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (pickle.dumps(Runs(eval, "1"), protocol=2), "__builtin__.eval"),
        (pickle.dumps(Runs(eval, "1"), protocol=4), "builtins.eval"),
        (b"\x80\x02(ios\nsystem\n.", "INST of os.system"),
        (b"\x80\x02\x82\x01.", "EXT1"),
    ],
)
def test_the_message_names_what_was_refused(data: bytes, named: str) -> None:
    with pytest.raises(UnsafePickle, match=named):
        load(data, ALLOWED)


def test_a_builder_that_is_allowed_elsewhere_is_not_allowed_here() -> None:
    data = b"\x80\x02" + short_global("somewhere.Thing") + b"."

    with pytest.raises(UnsafePickle, match=r"somewhere\.Thing"):
        load(data, {})


# -- bombs --------------------------------------------------------------------------------------


def billion_laughs() -> bytes:
    """Nested tuples of 2^60 leaves, used as a dict key: hashing it would take for ever."""
    return b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x01s."


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.", id="text of 4 EB"),
        pytest.param(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", id="bytes of 4 EB"),
        pytest.param(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.", id="bytearray of 1 TB"),
        pytest.param(b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"x.", id="integer of 1 GB"),
        pytest.param(b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".", id="integer of 255 bytes"),
        pytest.param(b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"x.", id="text of 4 GB"),
        pytest.param(billion_laughs(), id="billion laughs"),
        pytest.param(b"\x80\x02" + b"(" * 300_000 + b".", id="300,000 marks"),
        pytest.param(b"\x80\x02" + b"}" * 300_000 + b".", id="300,000 dicts"),
        pytest.param(b"\x80\x02" + b"K\x01" * 300_000 + b".", id="values left over"),
        pytest.param(b"\x80\x02" + b"N" * 5_000_000, id="longer than is read"),
        pytest.param(b"\x80\x02", id="no STOP"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x80\x02h\x05.", id="a memo that was never set"),
        pytest.param(b"\x80\x02(q\x00.", id="memo of a mark"),
        pytest.param(b"\x80\x02t.", id="tuple without a mark"),
        pytest.param(b"\x80\x02K\x01K\x02s.", id="items of no dict"),
        pytest.param(b"\x80\x02a.", id="append to nothing"),
        pytest.param(b"\x80\x02X\x01\x00\x00\x00\xff.", id="text that is no UTF-8"),
        pytest.param(b"\x80\x09N.", id="a protocol to come"),
        pytest.param(b"\x80\x02\xff.", id="no opcode"),
        pytest.param(b"\x80\x02c" + b"a" * 2000, id="a name without an end"),
    ],
)
def test_bombs_and_broken_pickles_end_soon_and_small(data: bytes) -> None:
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises((UnsafePickle, MalformedPickle)):
            load(data, ALLOWED)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 100e6
    assert time.process_time() - started < 10


def test_a_memo_index_of_four_billion_takes_no_memory() -> None:
    data = b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b"."

    tracemalloc.start()
    try:
        assert load(data, ALLOWED) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 100_000


def test_deep_nesting_needs_no_stack() -> None:
    value = load(b"\x80\x02)" + b"\x85" * 200_000 + b".", ALLOWED)

    assert len(value) == 1


@settings(max_examples=150, deadline=2000)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_named_error(data: bytes) -> None:
    for prefix in (b"", b"\x80\x02", b"\x80\x04"):
        try:
            load(prefix + data, ALLOWED)
        except (UnsafePickle, MalformedPickle):
            continue


@settings(max_examples=150, deadline=2000)
@given(st.data())
def test_a_damaged_pickle_gives_a_value_or_a_named_error(data: st.DataObject) -> None:
    good = pickle.dumps(
        {"a": [1, 2.5, "text"], "b": OrderedDict(x=(1, 2, 3, 4)), "c": {1, 2}}, protocol=2
    )
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        load(bytes(damaged[:cut]), ALLOWED)
    except (UnsafePickle, MalformedPickle):
        return


def test_every_opcode_is_read_or_refused_by_name() -> None:
    """A new Python's new opcodes would be noticed here, and refused until then."""
    for opcode in pickletools.opcodes:
        with pytest.raises((MalformedPickle, UnsafePickle)) as caught:
            load(b"\x80\x02" + opcode.code.encode("latin1") + b"\xff", ALLOWED)
        assert " at 2 is not a pickle opcode" not in str(caught.value), opcode.name


def test_the_pickle_module_agrees_on_a_long_value() -> None:
    value = {f"layer.{i}": [i, (i, i + 1), {"x": float(i)}] for i in range(500)}
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol=2).dump(value)

    assert load(buffer.getvalue(), ALLOWED) == value
