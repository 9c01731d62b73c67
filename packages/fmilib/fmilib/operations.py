"""Evaluation of reductions: strictly left to right in rank order, NaN and overflow included.

One rule for every channel, algorithm and size: ``f(f(f(x0, x1), x2), x3)``. ``max`` and ``min``
are NaN as soon as one operand is NaN, in either position. An integer partial result outside its
type's range raises `FmiOverflow`; it never wraps.
"""

from __future__ import annotations

import contextlib
import importlib.util
import operator
import sys
from array import array
from typing import TYPE_CHECKING, Any, Final

from fmilib import codec as codec_module
from fmilib.codec import (
    ARRAY,
    BYTES,
    DOUBLE,
    DOUBLE_LIST,
    INT,
    INT_LIST,
    OBJECT,
    Codec,
    checked_int,
)
from fmilib.datatypes import func, op
from fmilib.errors import FmiError, FmiMismatch, FmiOverflow, FmiReductionError
from fmilib.frame import Packet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

# Below this a list is folded without NumPy unless it is loaded already: importing it takes
# longer than the fold.
NUMPY_THRESHOLD: Final = 4096


def _maximum(a: Any, b: Any) -> Any:
    return a if a != a or a > b else b if b != b or b >= a else a


def _minimum(a: Any, b: Any) -> Any:
    return a if a != a or a < b else b if b != b or b <= a else a


_SCALAR: Final[dict[op, Callable[[Any, Any], Any]]] = {
    op.sum: operator.add,
    op.prod: operator.mul,
    op.max: _maximum,
    op.min: _minimum,
}


# NumPy's kinds of dtype that a function is defined on: bool, signed, unsigned, float, complex,
# time difference, time.
_KINDS: Final = {op.sum: "iufc", op.prod: "iufc", op.max: "biufcmM", op.min: "biufcmM"}


def is_elementwise(packet: Packet, function: func) -> bool:
    """Whether slices of the value can be reduced apart from each other."""
    if packet.code in (INT_LIST, DOUBLE_LIST):
        return True
    return packet.code == ARRAY and function.operation is not op.custom


def scan(
    packets: Sequence[Packet],
    function: func,
    codec: Codec | None = None,
    ranks: Sequence[int] | None = None,
) -> Iterator[Packet]:
    """Yield the left fold of each prefix of ``packets``: inclusive, in rank order.

    Parameters
    ----------
    packets : sequence of Packet
    function : func
    codec : Codec, optional
    ranks : sequence of int, optional
        Whose the packets are, for errors; default 0, 1, 2, …

    Raises
    ------
    FmiMismatch
        The packets do not hold the same type and size.
    FmiOverflow
        A partial integer result leaves its type's range.
    FmiReductionError
        The custom function raised.
    """
    check_alike(packets, ranks)
    yield packets[0]
    with _named_errors(function):
        decode, combine, encode = _fold_of(packets[0], function, codec)
        total = decode(packets[0])
        for packet in packets[1:]:
            total = combine(total, decode(packet))
            yield encode(total)


def reduce(
    packets: Sequence[Packet],
    function: func,
    codec: Codec | None = None,
    ranks: Sequence[int] | None = None,
) -> Packet:
    """Return the left fold of all ``packets``; see :func:`scan`."""
    check_alike(packets, ranks)
    first = packets[0]
    if len(packets) == 1:
        return first
    with _named_errors(function):
        if _is_array(first, function):
            return _reduce_arrays(packets, function)
        decode, combine, encode = _fold_of(first, function, codec)
        total = decode(first)
        for packet in packets[1:]:
            total = combine(total, decode(packet))
        return encode(total)


def check_meaning(packet: Packet, function: func) -> None:
    """Raise `FmiReductionError` if a built-in function has no meaning for an array's dtype.

    NumPy would take a sum of bools for their "or", and cut sums of texts to the shorter one.
    """
    if function.operation is op.custom:
        return
    kind = chr(packet.description[1])
    if kind not in _KINDS[function.operation]:
        dtype = packet.description.decode().partition(";")[0]
        hint = "count with astype(int); any is max, all is min" if kind == "b" else "use op.custom"
        raise FmiReductionError(
            f"{function.operation.name} has no meaning for arrays of dtype {dtype}: {hint}"
        )


def check_alike(packets: Sequence[Packet], ranks: Sequence[int] | None) -> None:
    """Raise `FmiMismatch` unless all packets hold the same type and number of elements."""
    first = packets[0]
    for place, packet in enumerate(packets):
        if packet.code != first.code or (
            packet.code != OBJECT and not packet.same_type(first)  # objects may differ in length
        ):
            first_rank, rank = (0, place) if ranks is None else (ranks[0], ranks[place])
            raise FmiMismatch(
                f"reduction: rank {rank} holds {codec_module.describe(packet)}, "
                f"rank {first_rank} {codec_module.describe(first)}",
                [rank],
            )


@contextlib.contextmanager
def _named_errors(function: func) -> Iterator[None]:
    try:
        yield
    except FmiError:
        raise
    except OverflowError as error:
        raise FmiOverflow(
            f"{function.operation.name} leaves the signed 64-bit range ({error})"
        ) from error
    except Exception as error:
        raise FmiReductionError(
            f"the {function.operation.name} reduction raised {type(error).__name__}: {error}"
        ) from error


def _is_array(packet: Packet, function: func) -> bool:
    """Whether NumPy folds the value."""
    if function.operation is op.custom:
        return False
    if packet.code in (INT_LIST, DOUBLE_LIST):
        fast = "numpy" in sys.modules or packet.count >= NUMPY_THRESHOLD
        return fast and _has_numpy()
    return packet.code == ARRAY


def _has_numpy() -> bool:
    return importlib.util.find_spec("numpy") is not None


def _function(function: func) -> Callable[[Any, Any], Any]:
    return function.function if function.function is not None else _SCALAR[function.operation]


Fold = tuple["Callable[[Packet], Any]", "Callable[[Any, Any], Any]", "Callable[[Any], Packet]"]


def _fold_of(first: Packet, function: func, codec: Codec | None) -> Fold:
    """Return how values are decoded, combined, and encoded again."""
    if first.code in (INT, DOUBLE):
        return _scalar_fold(first, function)
    if _is_array(first, function):
        return _array_fold(first, function)
    if first.code in (INT_LIST, DOUBLE_LIST):
        return _list_fold(first, function)
    return _whole_fold(first, function, codec)


def _scalar_fold(first: Packet, function: func) -> Fold:
    combine = _function(function)
    if first.code == INT:
        # Each partial result has to fit.
        return codec_module.decode, lambda a, b: checked_int(combine(a, b)), codec_module.encode
    return codec_module.decode, lambda a, b: float(combine(a, b)), codec_module.encode


def _list_fold(first: Packet, function: func) -> Fold:
    combine = _function(function)
    typecode = "q" if first.code == INT_LIST else "d"

    def encode(total: array[Any]) -> Packet:
        return Packet(first.code, memoryview(total).cast("B") if total else b"", len(total))

    # array("q") itself refuses what leaves 64 bits.
    return (
        codec_module.as_list_array,
        lambda a, b: array(typecode, map(combine, a, b)),
        encode,
    )


def _array_fold(first: Packet, function: func) -> Fold:
    import numpy as np

    def combine(total: NDArray[Any], value: NDArray[Any]) -> NDArray[Any]:
        result = np.empty_like(total)
        with np.errstate(all="ignore"):
            _combine_arrays(function.operation, total, value, result)
        return result

    def encode(total: NDArray[Any]) -> Packet:
        return Packet(first.code, _raw(total), first.count, first.description)

    return _view, combine, encode


def _whole_fold(first: Packet, function: func, codec: Codec | None) -> Fold:
    if function.operation is not op.custom and first.code == BYTES:
        raise TypeError("bytes can only be reduced by a custom function")
    if first.code != ARRAY:
        return (
            lambda packet: codec_module.decode(packet, codec),
            _function(function),
            lambda total: codec_module.encode(total, codec=codec),
        )
    # The function may work in place, return an operand, or the same array each time.
    return (
        lambda packet: codec_module.decode(packet.copy()),
        _function(function),
        lambda total: codec_module.encode(total).copy(),
    )


def _reduce_arrays(packets: Sequence[Packet], function: func) -> Packet:
    """Fold without keeping the partial results: in place, once the first sum is made."""
    import numpy as np

    first = packets[0]
    total = _view(first)
    # Overflow is seen by comparing operands and result, so integers need a second place.
    memory = [np.empty_like(total) for _ in range(2 if total.dtype.kind in "iu" else 1)]
    with np.errstate(all="ignore"):
        for number, packet in enumerate(packets[1:]):
            result = memory[number % len(memory)]
            _combine_arrays(function.operation, total, _view(packet), result)
            total = result
    return Packet(first.code, _raw(total), first.count, first.description)


def _view(packet: Packet) -> NDArray[Any]:
    """Return the packet's elements as a flat array that shares its memory."""
    import numpy as np

    if packet.code == ARRAY:
        dtype = packet.description.decode().partition(";")[0]
    else:
        dtype = "<i8" if packet.code == INT_LIST else "<f8"
    values: NDArray[Any] = np.frombuffer(packet.data, dtype=dtype)
    return values


def _raw(values: NDArray[Any]) -> memoryview | bytes:
    import numpy as np

    return values.view(np.uint8).data if values.size else b""


def _combine_arrays(operation: op, a: NDArray[Any], b: NDArray[Any], result: NDArray[Any]) -> None:
    """Write ``a`` op ``b`` into ``result``, which for integers is neither of them."""
    import numpy as np

    integer = a.dtype.kind in "iu"
    if operation is op.max:
        np.maximum(a, b, out=result)
    elif operation is op.min:
        np.minimum(a, b, out=result)
    elif operation is op.sum:
        np.add(a, b, out=result)
        if integer and _sum_overflows(a, b, result):
            raise FmiOverflow(f"sum leaves the range of {a.dtype}")
    else:
        np.multiply(a, b, out=result)
        if integer and _product_overflows(a, b):
            raise FmiOverflow(f"prod leaves the range of {a.dtype}")


def _sum_overflows(a: NDArray[Any], b: NDArray[Any], result: NDArray[Any]) -> bool:
    if a.dtype.kind == "u":
        return bool((result < a).any())
    return bool((((a ^ result) & (b ^ result)) < 0).any())


def _product_overflows(a: NDArray[Any], b: NDArray[Any]) -> bool:
    import numpy as np

    limits = np.iinfo(a.dtype)
    estimate = np.abs(a.astype(np.float64) * b.astype(np.float64))
    # Half the range leaves room for the rounding of the estimate; only the rest is exact work.
    doubtful = np.nonzero(estimate >= float(limits.max) / 2)[0]
    return any(
        not limits.min <= int(x) * int(y) <= limits.max
        for x, y in zip(a[doubtful], b[doubtful], strict=True)
    )
