"""Read a pickle without running anything in it.

``pickle.Unpickler`` cannot be made safe by overriding ``find_class`` alone: BUILD sets
attributes of whatever it is given, allow-listed functions included, and its memo can be made to
take gigabytes. So this module does not use it. It is a small machine of its own over the opcodes
that ``torch.save`` writes (protocols 2 to 5):

* A global is looked up by its exact name in the caller's allow list and becomes an inert
  :class:`Global`; nothing is imported. A name that is not listed raises
  :class:`~cosmicai.errors.UnsafePickle` at once.
* REDUCE and NEWOBJ call the *builder* that the allow list gives for that name, which is our own
  code and takes the arguments as data.
* BUILD stores the state of a :class:`Stub`; it never reaches an attribute of anything else.
* Every other opcode that could name or call something (INST, OBJ, EXT1, NEWOBJ_EX, …) is refused.

Work is linear in the pickle's length (containers are shared, never copied, and only plain values
are hashed), and lengths inside it are checked against what is there before anything is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from cosmicai.errors import CosmicAIError, UnsafePickle

Builder = Callable[[tuple[Any, ...]], Any]
"""Our own code that makes the value of an allowed global from its arguments."""

AllowList = Mapping[str, Builder]
"""Full name, as in ``torch._utils._rebuild_tensor_v2``, → builder."""

PersistentLoad = Callable[[object], Any]

MAX_BYTES: Final = 4 * 1024 * 1024  # a full-size checkpoint's pickle has 0.3 MB


class MalformedPickle(CosmicAIError):
    """The bytes are not a whole, well-formed pickle of the kind ``torch.save`` writes."""


class Global(NamedTuple):
    """An allowed global, named but never imported."""

    name: str


@dataclass(eq=False)
class Stub:
    """Takes the place of an object of an allowed class: its data, without behaviour."""

    type_name: str
    args: tuple[Any, ...] = ()
    state: dict[Any, Any] = field(default_factory=dict)


def stub(type_name: str) -> Builder:
    """Return a builder whose objects are inert :class:`Stub` s of that class name."""
    return lambda args: Stub(type_name, args)


class _Mark:
    """Marks the place of a MARK opcode on the stack."""


_MARK: Final = _Mark()


def load(
    data: bytes | memoryview,
    allowed: AllowList,
    *,
    persistent_load: PersistentLoad | None = None,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """Read one pickle.

    Parameters
    ----------
    data
        The whole pickle.
    allowed
        The globals it may name, and what to make of each.
    persistent_load
        Makes the value of a persistent id (torch: a tuple that describes a storage).
    max_bytes
        The longest pickle that is read at all.

    Returns
    -------
    object
        Plain Python values, :class:`Global`, :class:`Stub` and what the builders return.

    Raises
    ------
    UnsafePickle
        The pickle names a global, or uses an opcode, that is not allowed.
    MalformedPickle
        It is cut off, damaged, or longer than ``max_bytes``.
    """
    if len(data) > max_bytes:
        raise MalformedPickle(f"a pickle of {len(data)} bytes; at most {max_bytes} are read")
    return _Machine(bytes(data), allowed, persistent_load).run()


def kind(value: object) -> str:
    """Name a value's type for a message; never its content, which may be huge or cyclic."""
    if isinstance(value, Stub):
        return value.type_name
    if isinstance(value, Global):
        return f"the name {value.name}"
    return type(value).__name__


class _Machine:
    """The stack, the memo and the opcodes of one pickle."""

    def __init__(
        self, data: bytes, allowed: AllowList, persistent_load: PersistentLoad | None
    ) -> None:
        self._data = data
        self._at = 0
        self._allowed = allowed
        self._persistent_load = persistent_load
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            opcode = self._take(1)[0]
            if opcode == _STOP:
                value = self._pop()
                if self._stack:
                    raise MalformedPickle("the pickle ends with values left over")
                return value
            handler = _HANDLERS.get(opcode)
            if handler is None:
                raise UnsafePickle(self._refusal(opcode))
            handler(self)

    def _refusal(self, opcode: int) -> str:
        name = _REFUSED.get(opcode)
        if name is None:
            raise MalformedPickle(f"byte {opcode:#04x} at {self._at - 1} is not a pickle opcode")
        what = f" of {self._global_lines()}" if name == "INST" else ""
        return (
            f"the pickle uses the opcode {name}{what}, which PyTorch does not write and which is "
            "not allowed; nothing of it was executed"
        )

    # -- bytes ---------------------------------------------------------------------------------

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise MalformedPickle(
                f"the pickle is cut off: {count} bytes expected at {self._at} of {len(self._data)}"
            )
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 1024)
        if end < 0:
            raise MalformedPickle("the pickle is cut off within a name")
        line = self._data[self._at : end]
        self._at = end + 1
        return _text(line)

    def _global_lines(self) -> str:
        module = self._line()
        return f"{module}.{self._line()}"

    # -- stack ---------------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise MalformedPickle("the pickle takes a value that it never gave")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        for at in range(len(self._stack) - 1, -1, -1):
            if self._stack[at] is _MARK:
                values = self._stack[at + 1 :]
                del self._stack[at:]
                return values
        raise MalformedPickle("the pickle takes values up to a mark that it never set")

    def _top(self, expected: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], expected):
            found = kind(self._stack[-1]) if self._stack else "nothing"
            raise MalformedPickle(f"the pickle fills a {expected.__name__}, but has {found}")
        return self._stack[-1]

    # -- opcodes -------------------------------------------------------------------------------

    def proto(self) -> None:
        version = self._take(1)[0]
        if not 2 <= version <= 5:
            raise MalformedPickle(f"pickle protocol {version}; 2 to 5 are read")

    def frame(self) -> None:
        self._take(8)

    def mark(self) -> None:
        self._push(_MARK)

    def pop(self) -> None:
        if not self._stack:
            raise MalformedPickle("the pickle drops a value that it never gave")
        self._stack.pop()

    def pop_mark(self) -> None:
        self._pop_to_mark()

    def text(self, layout: str) -> None:
        self._push(_text(self._take(self._number(layout))))

    def raw(self, layout: str) -> None:
        self._push(self._take(self._number(layout)))

    def long1(self) -> None:
        length = self._take(1)[0]
        if length > 8:
            raise MalformedPickle(f"an integer of {length} bytes; at most 8 are read")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def make_tuple(self, length: int | None) -> None:
        if length is None:
            self._push(tuple(self._pop_to_mark()))
            return
        values = [self._pop() for _ in range(length)]
        self._push(tuple(reversed(values)))

    def append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def appends(self) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def set_item(self) -> None:
        value = self._pop()
        key = self._pop()
        self._set_items([key, value])

    def set_items(self) -> None:
        self._set_items(self._pop_to_mark())

    def _set_items(self, flat: list[Any]) -> None:
        target = self._top(dict)
        if len(flat) % 2:
            raise MalformedPickle("the pickle gives a dict a key without a value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            target[_scalar(key)] = value

    def add_items(self) -> None:
        values = self._pop_to_mark()
        self._top(set).update(_scalar(value) for value in values)

    def make_frozenset(self) -> None:
        self._push(frozenset(_scalar(value) for value in self._pop_to_mark()))

    def put(self, layout: str) -> None:
        index = self._number(layout)
        if not self._stack or self._stack[-1] is _MARK:
            raise MalformedPickle("the pickle remembers a value that it never gave")
        self._memo[index] = self._stack[-1]

    def memoize(self) -> None:
        if not self._stack or self._stack[-1] is _MARK:
            raise MalformedPickle("the pickle remembers a value that it never gave")
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, layout: str) -> None:
        index = self._number(layout)
        if index not in self._memo:
            raise MalformedPickle(f"the pickle recalls value {index}, which it never remembered")
        self._push(self._memo[index])

    def persistent(self) -> None:
        if self._persistent_load is None:
            raise UnsafePickle("the pickle refers to data outside itself, which is not allowed")
        self._push(self._persistent_load(self._pop()))

    def global_lines(self) -> None:
        self._push(self._global(self._global_lines()))

    def stack_global(self) -> None:
        name = self._pop()
        module = self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise MalformedPickle("the pickle names a global by something other than text")
        self._push(self._global(f"{module}.{name}"))

    def _global(self, name: str) -> Global:
        if name not in self._allowed:
            raise UnsafePickle(
                f"the pickle names {name[:200]!r}, which is not on the allow list; "
                "nothing of it was executed"
            )
        return Global(name)

    def reduce(self) -> None:
        """REDUCE and NEWOBJ alike: the builder of the global, with the arguments."""
        args = self._pop()
        target = self._pop()
        if not isinstance(target, Global):
            raise UnsafePickle(
                f"the pickle calls {kind(target)}, which is not an allowed global; "
                "nothing of it was executed"
            )
        if type(args) is not tuple:
            raise MalformedPickle(f"the pickle gives {target.name} {kind(args)} for arguments")
        self._push(self._allowed[target.name](args))

    def build(self) -> None:
        state = self._pop()
        target = self._stack[-1] if self._stack else None
        if isinstance(target, dict) and isinstance(state, dict):
            return  # attributes of an OrderedDict, as a state dict's _metadata: of no use here
        if not isinstance(target, Stub) or not isinstance(state, dict):
            raise UnsafePickle(
                f"the pickle sets the state of {kind(target)} to {kind(state)}, which is not "
                "allowed; nothing of it was executed"
            )
        target.state = state  # shared, not copied: copies could be made to take quadratic time


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedPickle("the pickle holds text that is not UTF-8") from error


def _scalar(value: Any) -> Any:
    """Return a dict key or set item; hashing nested tuples could take exponential time."""
    if type(value) not in (str, int, bool, float, bytes, type(None)):
        raise MalformedPickle(f"the pickle uses {kind(value)} as a key; plain values are read")
    return value


# -- builders of plain types --------------------------------------------------------------------


def build_ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    """``OrderedDict()``; dicts keep their order."""
    if args:
        raise MalformedPickle("the pickle makes an OrderedDict with arguments")
    return {}


def build_set(args: tuple[Any, ...]) -> list[Any]:
    """``set([...])``, as protocol 2 writes a set: its list, which is not copied."""
    if len(args) != 1 or not isinstance(args[0], list):
        raise MalformedPickle("the pickle makes a set of something other than one list")
    return args[0]


# -- the opcodes of protocols 2 to 5 that are read, and those that are refused by name ----------

_STOP: Final = ord(".")

_HANDLERS: Final[dict[int, Callable[[_Machine], None]]] = {
    0x80: _Machine.proto,
    0x95: _Machine.frame,
    ord("("): _Machine.mark,
    ord("0"): _Machine.pop,
    ord("1"): _Machine.pop_mark,
    ord("N"): lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    ord("K"): lambda m: m._push(m._number("<B")),
    ord("M"): lambda m: m._push(m._number("<H")),
    ord("J"): lambda m: m._push(m._number("<i")),
    ord("G"): lambda m: m._push(m._number(">d")),
    0x8A: _Machine.long1,
    ord("X"): lambda m: m.text("<I"),
    0x8C: lambda m: m.text("<B"),
    0x8D: lambda m: m.text("<Q"),
    ord("B"): lambda m: m.raw("<I"),
    ord("C"): lambda m: m.raw("<B"),
    0x8E: lambda m: m.raw("<Q"),
    ord(")"): lambda m: m._push(()),
    ord("t"): lambda m: m.make_tuple(None),
    0x85: lambda m: m.make_tuple(1),
    0x86: lambda m: m.make_tuple(2),
    0x87: lambda m: m.make_tuple(3),
    ord("]"): lambda m: m._push([]),
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("}"): lambda m: m._push({}),
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    0x8F: lambda m: m._push(set()),
    0x90: _Machine.add_items,
    0x91: _Machine.make_frozenset,
    ord("q"): lambda m: m.put("<B"),
    ord("r"): lambda m: m.put("<I"),
    0x94: _Machine.memoize,
    ord("h"): lambda m: m.get("<B"),
    ord("j"): lambda m: m.get("<I"),
    ord("Q"): _Machine.persistent,
    ord("c"): _Machine.global_lines,
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    0x81: _Machine.reduce,
    ord("b"): _Machine.build,
}

_REFUSED: Final[dict[int, str]] = {
    ord("i"): "INST",
    ord("o"): "OBJ",
    ord("P"): "PERSID",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x92: "NEWOBJ_EX",
    0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
    0x8B: "LONG4",
    ord("2"): "DUP",
    ord("I"): "INT",
    ord("L"): "LONG",
    ord("F"): "FLOAT",
    ord("S"): "STRING",
    ord("T"): "BINSTRING",
    ord("U"): "SHORT_BINSTRING",
    ord("V"): "UNICODE",
    ord("p"): "PUT",
    ord("g"): "GET",
    ord("l"): "LIST",
    ord("d"): "DICT",
}
