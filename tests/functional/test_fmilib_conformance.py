"""Every operation × channel × datatype × number of ranks × root, against one process."""

from __future__ import annotations

import functools
import math
import operator

import fmilib as fmi
import numpy as np
import pytest
from fmi_support import DOUBLE, INT, MAX, MIN, PROD, SUM, Servers, doubles, ints, run_ranks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LENGTH = 6
SIZES = (1, 2, 3, 4, 5, 8, 16)
# Neither commutative nor associative, so only one evaluation order gives it.
UNORDERED = fmi.func(fmi.op.custom, lambda a, b: 3 * a - b, False, False)
FUNCTIONS = {"sum": SUM, "prod": PROD, "max": MAX, "min": MIN, "custom": UNORDERED}
FOLDS = {
    "sum": operator.add,
    "prod": operator.mul,
    "max": max,
    "min": min,
    "custom": lambda a, b: 3 * a - b,
}


@pytest.fixture(scope="module")
def servers():
    started = Servers()
    yield started
    started.close()


def value_of(datatype: str, rank: int, length: int = LENGTH):
    """Each rank's value; doubles with fractions, so that another order would show."""
    if datatype == "int":
        return rank % 3 + 2
    if datatype == "double":
        return math.sqrt(rank + 0.1)
    if datatype == "int_list":
        return [(rank + i) % 4 - 1 for i in range(length)]
    if datatype == "double_list":
        return [math.sin(rank * length + i) for i in range(length)]
    return np.sin(np.arange(length * 2).reshape(2, length) + rank).astype(datatype)


def types_of(datatype: str, length: int = LENGTH):
    return {
        "int": INT,
        "double": DOUBLE,
        "int_list": ints(length),
        "double_list": doubles(length),
    }.get(datatype)


def fold(values: list, name: str):
    if isinstance(values[0], list):
        return [functools.reduce(FOLDS[name], column) for column in zip(*values, strict=True)]
    if isinstance(values[0], np.ndarray):
        pair = {"max": np.maximum, "min": np.minimum}.get(name, FOLDS[name])
        return functools.reduce(pair, values)
    return functools.reduce(FOLDS[name], values)


def same(a, b) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def check_all(comm: fmi.Communicator, roots: list[int], datatypes: list[str]) -> int:
    """Run the whole table on one communicator; return the number of checks."""
    rank, size = comm.rank, comm.size
    checks = 0

    def expect(found, wanted, what):
        nonlocal checks
        checks += 1
        assert same(found, wanted), f"rank {rank} of {size}, {what}: {found!r} is not {wanted!r}"

    for datatype in datatypes:
        types = types_of(datatype)
        values = [value_of(datatype, r) for r in range(size)]
        mine = values[rank]
        joined = [e for v in values for e in v] if datatype.endswith("_list") else values
        comm.barrier()
        right, left = (rank + 1) % size, (rank - 1) % size
        comm.send(mine, right, types)  # all send first
        expect(comm.recv(left, types), values[left], f"{datatype} recv")
        expect(comm.allgather(mine, types), joined, f"{datatype} allgather")
        for name, function in FUNCTIONS.items():
            expect(comm.allreduce(mine, function, types), fold(values, name),
                   f"{datatype} allreduce {name}")  # fmt: skip
            expect(comm.scan(mine, function, types), fold(values[: rank + 1], name),
                   f"{datatype} scan {name}")  # fmt: skip
        for root in roots:
            expect(comm.bcast(mine if rank == root else None, root, types), values[root],
                   f"{datatype} bcast from {root}")  # fmt: skip
            found = comm.gather(mine, root, types)
            expect(found, joined if rank == root else [], f"{datatype} gather to {root}")
            if datatype.endswith("_list"):
                whole = types_of(datatype, LENGTH * size)
                shared = comm.scatter(joined if rank == root else None, root, whole)
            else:
                shared = comm.scatter(values if rank == root else None, root, types)
            expect(shared, mine, f"{datatype} scatter from {root}")
            for name, function in FUNCTIONS.items():
                wanted = fold(values, name) if rank == root else None
                found = comm.reduce(mine, root, function, types)
                if wanted is None:
                    assert found is None
                else:
                    expect(found, wanted, f"{datatype} reduce {name} to {root}")
    return checks


DATATYPES = ["int", "double", "int_list", "double_list", "float32"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channel", ["Memory", "Direct", "Redis"])
def test_conformance(servers, channel, size):
    roots = list(range(size))
    checks = run_ranks(
        size, servers.configuration(channel), lambda c: check_all(c, roots, DATATYPES), timeout=100
    )
    assert min(checks) > 50


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_conformance_s3(servers, size):
    roots = [0] if size == 5 else sorted({0, size - 1})
    run_ranks(size, servers.configuration("S3"), lambda c: check_all(c, roots, ["double_list"]),
              timeout=60)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_conformance_s3_whole_table(servers, size):
    roots = sorted({0, size // 2, size - 1})
    run_ranks(size, servers.configuration("S3"), lambda c: check_all(c, roots, DATATYPES),
              timeout=150)  # fmt: skip


@pytest.mark.parametrize(
    ("channel", "size", "group_ranks"),
    [("Direct", n, 8) for n in (2, 3, 5, 8, 17)]
    + [("Direct", n, 2) for n in (4, 5, 7)]
    + [("Memory", n, 2) for n in (3, 5, 8)]
    + [("Redis", n, None) for n in (2, 3, 5, 8)],
)
def test_large_values_take_the_other_algorithms_and_give_the_same_bits(
    servers, channel, size, group_ranks
):
    length = 40_003  # does not divide

    def body(comm):
        values = [value_of("double_list", r, length) for r in range(size)]
        arrays = [np.array(v) for v in values]
        mine, types = arrays[comm.rank], doubles(length)
        total = functools.reduce(operator.add, arrays)
        prefix = functools.reduce(operator.add, arrays[: comm.rank + 1])
        assert np.array_equal(comm.allreduce(mine, SUM), total)
        assert comm.allreduce(values[comm.rank], SUM, types) == total.tolist()
        assert np.array_equal(comm.scan(mine, SUM), prefix)
        for root in (0, size // 2, size - 1):
            reduced = comm.reduce(mine, root, SUM)
            assert reduced is None if comm.rank != root else np.array_equal(reduced, total)
        wanted = functools.reduce(lambda a, b: 3 * a - b, arrays)
        assert np.array_equal(comm.allreduce(mine, UNORDERED), wanted)
        whole_numbers = np.full(length, comm.rank + 1, "i4")
        assert (comm.allreduce(whole_numbers, SUM) == size * (size + 1) // 2).all()
        with pytest.raises(fmi.FmiOverflow):  # in the first group's fold, and told to all
            comm.allreduce(np.full(length, 2**31 - 1, "i4"), SUM)
        root = size - 1
        out = mine.copy() if comm.rank == root else np.empty_like(mine)
        assert np.array_equal(comm.bcast(mine, root, out=out), arrays[root])
        assert comm.bcast(values[root] if comm.rank == root else None, root, types) == values[root]
        pieces = comm.allgather(mine)
        assert all(np.array_equal(a, b) for a, b in zip(pieces, arrays, strict=True))
        assert np.array_equal(
            comm.scatter(np.concatenate(arrays) if comm.rank == 0 else None, 0), mine
        )

    run_ranks(size, in_groups(servers, channel, group_ranks), body, timeout=60)


def in_groups(servers, channel, group_ranks):
    settings = servers.configuration(channel)["backends"][channel]
    if channel != "Redis":
        settings = {**settings, "group_ranks": group_ranks}
    return {"backends": {channel: settings}}


DTYPES = st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u4", "c8", "c16"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    channel=st.sampled_from(["Memory", "Direct", "Redis"]),
    size=st.integers(1, 6),
    group_ranks=st.integers(1, 3),
    dtype=DTYPES,
    shape=st.one_of(
        st.tuples(),
        st.tuples(st.integers(0, 40)),
        st.tuples(st.integers(1, 3), st.integers(1, 40_000)),
    ),
    data=st.data(),
)
def test_any_size_dtype_shape_and_root(servers, channel, size, group_ranks, dtype, shape, data):
    root = data.draw(st.integers(0, size - 1), label="root")
    operation = data.draw(st.sampled_from(["sum", "prod", "max", "min"]), label="operation")
    if np.dtype(dtype).kind == "c" and operation in ("max", "min"):
        operation = "sum"
    seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
    random = np.random.default_rng(seed)
    # Small enough that no product leaves an int8.
    arrays = [random.integers(0, 3, shape).astype(dtype) for _ in range(size)]
    if np.dtype(dtype).kind in "iu":
        arrays = [np.asarray(np.minimum(a, 1), dtype) for a in arrays]
    else:
        arrays = [np.asarray(a / np.asarray(3, dtype), dtype) for a in arrays]
    pair = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[operation]
    partial = [arrays[0]]
    for array in arrays[1:]:
        partial.append(np.asarray(pair(partial[-1], array)))

    def body(comm):
        mine, function = arrays[comm.rank], FUNCTIONS[operation]
        assert same(comm.allreduce(mine, function), partial[-1])
        assert same(comm.scan(mine, function), partial[comm.rank])
        reduced = comm.reduce(mine, root, function)
        assert reduced is None if comm.rank != root else same(reduced, partial[-1])
        assert same(comm.bcast(mine if comm.rank == root else None, root), arrays[root])
        assert same(comm.gather(mine, root), arrays if comm.rank == root else [])
        assert same(comm.scatter(arrays if comm.rank == root else None, root), mine)
        assert same(comm.allgather(mine), arrays)

    run_ranks(size, in_groups(servers, channel, group_ranks), body, timeout=60)
