"""Values ↔ packets: integers, doubles, lists, NumPy arrays, bytes, and objects by a codec."""

from __future__ import annotations

import json
import math
import operator
import struct
import sys
from array import array
from typing import TYPE_CHECKING, Any, Final

from fmilib.datatypes import datatypes, types
from fmilib.errors import FmiMismatch, FmiOverflow
from fmilib.frame import Packet

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

INT: Final = datatypes.int.value
DOUBLE: Final = datatypes.double.value
INT_LIST: Final = datatypes.int_list.value
DOUBLE_LIST: Final = datatypes.double_list.value
ARRAY: Final = 5
BYTES: Final = 6
OBJECT: Final = 7
NOTHING: Final = 8
BUNDLE: Final = 9
ERROR: Final = 10

CODE_NAMES: Final = {
    INT: "int",
    DOUBLE: "double",
    INT_LIST: "int_list",
    DOUBLE_LIST: "double_list",
    ARRAY: "array",
    BYTES: "bytes",
    OBJECT: "object",
    NOTHING: "nothing",
    BUNDLE: "bundle",
    ERROR: "error",
}

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_INT, _DOUBLE = struct.Struct("<q"), struct.Struct("<d")


class Codec:
    """A way to turn objects into bytes and back; all ranks must pass the same one.

    Decoding runs on data of the peers, so a codec that can execute code (pickle) is only as safe
    as every rank and every holder of the token.
    """

    __slots__ = ("decode", "encode", "name")

    def __init__(
        self, name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]
    ) -> None:
        self.name = name
        self.encode = encode
        self.decode = decode


class codecs:  # noqa: N801 - a namespace, like datatypes and op
    """The codecs that come with fmilib."""

    json = Codec("json", lambda value: json.dumps(value).encode(), json.loads)


def is_array(value: object) -> bool:
    """Whether ``value`` is a NumPy array, without importing NumPy."""
    array_type = getattr(sys.modules.get("numpy"), "ndarray", None)
    return array_type is not None and isinstance(value, array_type)


def check_array_class(value: NDArray[Any]) -> None:
    """Raise TypeError for arrays whose class adds what would be lost: masks, units, a shape.

    Only NumPy's own arrays, and those in a file (`numpy.memmap`), are no more than
    their numbers.
    """
    numpy = sys.modules["numpy"]
    if type(value) not in (numpy.ndarray, numpy.memmap):
        raise TypeError(
            f"a {type(value).__name__} cannot be sent: what it adds to its numbers (a mask, a "
            "unit) would be lost. Send its parts as plain arrays (x.filled(…) and x.mask, "
            "x.to_value(unit), numpy.asarray(x)), or pass codec=…"
        )


def type_code(expected: types | None, codec: Codec | None) -> int | None:
    """Return the wire code that the arguments of a call ask for, if they do."""
    if codec is not None:
        return OBJECT
    return None if expected is None else expected.datatype.value


def encode(value: Any, expected: types | None = None, codec: Codec | None = None) -> Packet:
    """Return the packet of ``value``; contiguous arrays are not copied.

    Raises
    ------
    TypeError
        The value is not of the named type, or of none that fmilib knows, or an array of a class
        that says more than its numbers do (masks, units).
    FmiOverflow
        An integer outside the signed 64-bit range.
    FmiMismatch
        A list whose length is not the one its ``types`` gives.
    """
    if codec is not None:
        data = codec.encode(value)
        return Packet(OBJECT, data, len(data), codec.name.encode())
    if type(value) is not float and type(value) is not int and is_array(value):
        check_array_class(value)
    code = expected.datatype.value if expected is not None else _infer(value)
    if code == INT:
        return Packet(INT, _INT.pack(checked_int(value)), 1)
    if code == DOUBLE:
        return Packet(DOUBLE, _DOUBLE.pack(float(value)), 1)
    if code == ARRAY:
        return _encode_array(value)
    if code == BYTES:
        view = memoryview(value).cast("B")
        return Packet(BYTES, view, view.nbytes)
    return _encode_list(value, code, expected)


def decode(packet: Packet, codec: Codec | None = None) -> Any:
    """Return the value of ``packet``, whose type has been checked.

    Arrays share the packet's memory.
    """
    code = packet.code
    if code == DOUBLE:
        return _DOUBLE.unpack(packet.data)[0]
    if code == INT:
        return _INT.unpack(packet.data)[0]
    if code in (INT_LIST, DOUBLE_LIST):
        return list(as_list_array(packet))
    if code == ARRAY:
        return as_ndarray(packet)
    if code == BYTES:
        return bytes(packet.data)
    if code == NOTHING:
        return None
    if codec is None:
        raise FmiMismatch(
            f"the peer sent an object by codec {packet.description.decode()!r}; "
            "receive it with codec=…"
        )
    return codec.decode(bytes(packet.data))


def check(
    packet: Packet, expected: types | None, codec: Codec | None, sender: int, where: str
) -> None:
    """Raise `FmiMismatch` unless ``packet`` is what the arguments of the call ask for."""
    wanted = type_code(expected, codec)
    if wanted is not None and packet.code != wanted:
        raise FmiMismatch(
            f"{where}: rank {sender} sent {CODE_NAMES.get(packet.code, packet.code)}, "
            f"this rank expects {CODE_NAMES[wanted]}",
            [sender],
        )
    if (
        expected is not None
        and expected.is_list
        and expected.num_objects is not None
        and packet.count != expected.num_objects
    ):
        raise FmiMismatch(
            f"{where}: rank {sender} sent {packet.count} elements, "
            f"this rank expects {expected.num_objects}",
            [sender],
        )
    if codec is not None and packet.description.decode() != codec.name:
        raise FmiMismatch(
            f"{where}: rank {sender} used codec {packet.description.decode()!r}, "
            f"this rank {codec.name!r}",
            [sender],
        )


def describe(packet: Packet) -> str:
    """Name type and size for messages."""
    detail = f" {packet.description.decode()}" if packet.description else ""
    return f"{CODE_NAMES.get(packet.code, packet.code)}{detail} of {packet.count}"


def as_list_array(packet: Packet) -> array[Any]:
    """Return an int_list's or double_list's elements as an `array.array`."""
    values: array[Any] = array("q" if packet.code == INT_LIST else "d")
    values.frombytes(packet.data)
    if sys.byteorder == "big":  # pragma: no cover - Lambda and this test machine are little endian
        values.byteswap()
    return values


def as_ndarray(packet: Packet) -> NDArray[Any]:
    """Return an array packet as a writable NumPy array that shares its memory if that can be."""
    import numpy as np

    dtype, _, shape = packet.description.decode().partition(";")
    values = np.frombuffer(packet.data, dtype=dtype)
    if not values.flags.writeable:
        values = values.copy()
    return values.reshape([int(n) for n in shape.split(",")] if shape else ())


def _infer(value: Any) -> int:
    scalar = getattr(sys.modules.get("numpy"), "generic", None)
    if scalar is not None and isinstance(value, scalar):
        value = value.item()  # NumPy's integers and reals are sent as Python's
    if isinstance(value, float):
        return DOUBLE
    if isinstance(value, int) and not isinstance(value, bool):
        return INT
    if is_array(value):
        return ARRAY
    if isinstance(value, bytes | bytearray | memoryview):
        return BYTES
    if isinstance(value, list | tuple) and value:
        if all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            return INT_LIST
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            return DOUBLE_LIST
    raise TypeError(
        f"fmilib does not know how to send {type(value).__name__}: pass types=… for numbers and "
        "lists, or codec=fmi.codecs.json (or your own fmi.Codec) for objects"
    )


def checked_int(value: Any) -> int:
    """Return an integer that fits 64 bits, or raise `FmiOverflow`."""
    number = operator.index(value)
    if not INT64_MIN <= number <= INT64_MAX:
        raise FmiOverflow(f"{number} does not fit a signed 64-bit integer")
    return number


def _encode_list(value: Any, code: int, expected: types | None) -> Packet:
    if not (isinstance(value, list | tuple | array) or is_array(value)):
        raise TypeError(f"{CODE_NAMES[code]} takes a list, not {type(value).__name__}")
    if code == INT_LIST:
        try:
            values: array[Any] = array("q", [operator.index(v) for v in value])
        except OverflowError:
            worst = max(value, key=abs)
            raise FmiOverflow(f"{worst} does not fit a signed 64-bit integer") from None
    else:
        values = array("d", value)
        _check_masked(value, values)
    if sys.byteorder == "big":  # pragma: no cover - see as_list_array
        values.byteswap()
    if expected is not None and expected.num_objects not in (None, len(values)):
        raise FmiMismatch(f"{expected!r} promises {expected.num_objects}, got {len(values)} values")
    return Packet(code, memoryview(values).cast("B") if values else b"", len(values))


def _check_masked(value: Any, values: array[Any]) -> None:
    """Raise TypeError if an element is `numpy.ma.masked`, which converts to NaN."""
    masked = getattr(sys.modules.get("numpy.ma"), "masked", None)
    # Few lists hold a NaN, so the sum spares the others a look at each element.
    if masked is not None and math.isnan(sum(values)) and any(v is masked for v in value):
        raise TypeError("a list with masked elements cannot be sent: it would hold NaN instead")


def _encode_array(value: NDArray[Any]) -> Packet:
    import numpy as np

    if value.dtype.hasobject:
        raise TypeError("arrays of Python objects cannot be sent; use codec=…")
    contiguous = np.ascontiguousarray(value) if value.ndim else value
    if contiguous.dtype.byteorder == ">":
        contiguous = contiguous.astype(contiguous.dtype.newbyteorder("<"))
    if contiguous.dtype.names is not None:
        raise TypeError("structured arrays cannot be sent; send their fields, or use codec=…")
    flat = contiguous.reshape(-1)
    # Through uint8 because datetime64 and float16 have no buffer format of their own.
    data = flat.view(np.uint8).data if flat.size else b""
    return Packet(ARRAY, data, value.size, layout(contiguous.reshape(value.shape)))


def layout(value: NDArray[Any]) -> bytes:
    """Return the description that an array's packet carries."""
    return f"{value.dtype.str};{','.join(map(str, value.shape))}".encode()
