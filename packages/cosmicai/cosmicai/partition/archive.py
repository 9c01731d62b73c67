"""The layout of a torch zip file: which tensor is stored at which bytes. Torch is not needed.

Since PyTorch 1.6, ``torch.save`` writes a zip archive (caffe2/serialize/inline_container.cc)::

    <prefix>/data.pkl      the pickle; tensors refer to storages by key
    <prefix>/byteorder     "little" or "big" (absent before PyTorch 2.1: little)
    <prefix>/data/<key>    the bytes of one storage: stored, never compressed

The archive is opened from its last bytes (end of central directory, its zip64 form included),
and every number in it is checked against the file before it is used.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from cosmicai import safe_pickle
from cosmicai.errors import CosmicAIError
from cosmicai.facts import MB
from cosmicai.partition.formats import described, made_by
from cosmicai.safe_pickle import AllowList, Global, MalformedPickle, build_ordered_dict, kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_DIRECTORY_BYTES: Final = 16 * MB
MAX_DIMENSIONS: Final = 8

_BARE_PICKLE_BYTES: Final = 64 * 1024
_LEGACY_MAGIC: Final = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

_END: Final = struct.Struct("<4s4H2LH")
_END64_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_MAX_COMMENT: Final = 0xFFFF
_ZIP64_EXTRA: Final = 1
_ENCRYPTED: Final = 0x1

# torch's storage classes → (torch dtype, NumPy type code or None where NumPy has none, bytes)
_STORAGES: Final[dict[str, tuple[str, str | None, int]]] = {
    "torch.FloatStorage": ("float32", "f4", 4),
    "torch.DoubleStorage": ("float64", "f8", 8),
    "torch.HalfStorage": ("float16", "f2", 2),
    "torch.BFloat16Storage": ("bfloat16", None, 2),
    "torch.LongStorage": ("int64", "i8", 8),
    "torch.IntStorage": ("int32", "i4", 4),
    "torch.ShortStorage": ("int16", "i2", 2),
    "torch.CharStorage": ("int8", "i1", 1),
    "torch.ByteStorage": ("uint8", "u1", 1),
    "torch.BoolStorage": ("bool", "?", 1),
    "torch.ComplexFloatStorage": ("complex64", None, 8),
    "torch.ComplexDoubleStorage": ("complex128", None, 16),
    # Of all newer types, which follow beside the storage; its length is in bytes.
    "torch.storage.UntypedStorage": ("untyped", None, 1),
}
_NEWER_TYPES: Final = (
    "uint16", "uint32", "uint64",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip


class CorruptArchive(CosmicAIError):
    """The file is not a complete torch zip archive, or a tensor in it is not where it says."""


class ByteSource(Protocol):
    """Random access to the bytes of one file or object that does not change meanwhile."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``; raise where fewer bytes are there."""


def read_bytes(source: ByteSource, offset: int, length: int) -> bytes:
    """Read ``length`` bytes at ``offset``; CorruptArchive where the file ends before."""
    if offset < 0 or length < 0 or offset + length > source.size:
        raise CorruptArchive(
            f"cut off or damaged: bytes {offset} to {offset + length} expected, "
            f"the file has {source.size}"
        )
    buffer = bytearray(length)
    source.readinto(offset, memoryview(buffer))
    return bytes(buffer)


@dataclass(frozen=True)
class Member:
    """One entry of the zip's central directory."""

    name: str
    offset: int  # of its local header
    size: int
    crc: int
    method: int
    flags: int


@dataclass(frozen=True)
class Storage:
    """A flat run of elements in the file."""

    key: str
    dtype: str  # torch's name
    code: str | None  # NumPy's type with byte order; None where NumPy has none (bfloat16)
    itemsize: int
    numel: int
    offset: int  # of its first byte in the file
    crc: int | None  # of all its bytes; None where the file carries no checksums

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.numel * self.itemsize


@dataclass(frozen=True)
class TensorRef:
    """A tensor: a strided view of a storage, not read yet. Sizes are in elements."""

    storage: Storage
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """Torch's name of the element type."""
        return self.storage.dtype

    @property
    def numel(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements are stored densely in row-major order."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return self.numel == 0
            expected *= size
        return True

    @property
    def covers_storage(self) -> bool:
        """Whether reading the tensor in order reads its whole storage, byte for byte."""
        return self.is_contiguous and self.start == 0 and self.numel == self.storage.numel

    def row_bytes(self, first: int, last: int) -> tuple[int, int]:
        """Return (offset in the file, length): the bytes that rows ``first`` to ``last`` span."""
        shape = (last - first, *self.shape[1:])
        if math.prod(shape) == 0:
            return self.storage.offset, 0
        begin = self.start + first * (self.stride[0] if self.stride else 0)
        length = _extent(shape, self.stride)
        item = self.storage.itemsize
        return self.storage.offset + begin * item, length * item

    def view(self, buffer: bytearray | memoryview | NDArray[Any], rows: int) -> NDArray[Any]:
        """Return ``rows`` rows as an array over ``buffer``, the bytes of :meth:`row_bytes`."""
        if self.storage.code is None:
            raise CorruptArchive(f"{self.dtype} tensors are not read; save as float32")
        import numpy as np

        item = self.storage.itemsize
        return np.ndarray(
            (rows, *self.shape[1:]),
            dtype=self.storage.code,
            buffer=buffer,
            strides=tuple(stride * item for stride in self.stride),
        )

    def read(self, source: ByteSource) -> NDArray[Any]:
        """Read the whole tensor, of any number of dimensions, checking its checksum."""
        if not self.shape:
            whole = TensorRef(self.storage, self.start, (1,), (1,)).read(source)
            return whole.reshape(())
        offset, length = self.row_bytes(0, self.shape[0])
        raw = read_bytes(source, offset, length)
        if self.covers_storage and self.storage.crc is not None:
            check_crc(self.storage, zlib.crc32(raw))
        return self.view(bytearray(raw), self.shape[0]).copy()


def check_crc(storage: Storage, found: int) -> None:
    """Compare a storage's checksum with the archive's."""
    if storage.crc is not None and found != storage.crc:
        raise CorruptArchive(
            f"the bytes of storage {storage.key!r} are damaged: checksum {storage.crc:#010x} "
            f"expected, {found:#010x} found"
        )


class TorchArchive:
    """An opened archive: its members, and the way from pickle to tensor references.

    Parameters
    ----------
    source
        The file's bytes.

    Raises
    ------
    CorruptArchive
        It is not a whole torch zip archive.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._directory_offset, self.members = _read_directory(source)
        offsets = sorted(member.offset for member in self.members.values())
        self._ends = dict(zip(offsets, [*offsets[1:], self._directory_offset], strict=True))
        if len(self._ends) != len(self.members):
            raise CorruptArchive("two members of the archive are at the same place")
        self._places: dict[str, int] = {}  # of members whose local headers were read
        self.prefix = self._find_prefix()
        pickle_crc = self.members[f"{self.prefix}/data.pkl"].crc
        # torch.serialization.set_crc32_options(False) writes 0 for every member.
        self._has_checksums = pickle_crc != 0
        self._byte_order = self._find_byte_order()
        self._storages: dict[str, Storage] = {}

    def load(self, allowed: AllowList, *, max_bytes: int = safe_pickle.MAX_BYTES) -> Any:
        """Read ``data.pkl`` with the given allow list, tensors as :class:`TensorRef`.

        The list is extended by what every torch pickle names: the functions that rebuild
        tensors, the storage classes and ``OrderedDict``.

        Raises
        ------
        UnsafePickle
            The pickle names a global outside the lists.
        CorruptArchive
            The pickle is damaged or refers to data that is not in the archive.
        """
        try:
            return safe_pickle.load(
                self._read_member(f"{self.prefix}/data.pkl", max_bytes),
                {**_TENSOR_GLOBALS, **allowed},
                persistent_load=self._storage,
                max_bytes=max_bytes,
            )
        except MalformedPickle as error:
            raise CorruptArchive(f"its pickle cannot be read: {error}") from error

    def read_record(self, name: str, max_bytes: int) -> bytes | None:
        """Return the bytes of a record that is not a tensor; None where the archive lacks it.

        Raises
        ------
        CorruptArchive
            It is damaged, compressed, or longer than ``max_bytes``.
        """
        full = f"{self.prefix}/{name}"
        if full in self.members:
            return self._read_member(full, max_bytes)
        for member in self.members.values():
            if member.method == 0 and not member.flags & _ENCRYPTED:
                self._locate(member)  # or a damaged name would pass for an absent record
        return None

    def start_of_record(self, name: str, length: int) -> bytes:
        """Return the first bytes of a record, at most ``length``, unchecked; empty without it.

        Raises
        ------
        CorruptArchive
            If it is not where the archive says.
        """
        member = self.members.get(f"{self.prefix}/{name}")
        if member is None:
            return b""
        return read_bytes(self._source, self._locate(member), min(length, member.size))

    def _find_prefix(self) -> str:
        pickles = [name for name in self.members if name.endswith("/data.pkl")]
        pickles = [name for name in pickles if name.count("/") == 1]
        if not pickles and any(name.endswith(".npy") for name in self.members):
            found = made_by("an .npz file", "convert")
            raise CorruptArchive(f"a zip archive of torch.save expected, found {found}")
        if len(pickles) != 1:
            raise CorruptArchive(
                f"one <name>/data.pkl expected in the zip archive, {len(pickles)} found: "
                "it was not written by torch.save"
            )
        prefix = pickles[0].removesuffix("/data.pkl")
        if f"{prefix}/constants.pkl" in self.members:
            raise CorruptArchive("a TorchScript archive, which holds code; expected torch.save")
        return prefix

    def _find_byte_order(self) -> str:
        name = f"{self.prefix}/byteorder"
        if name not in self.members:
            return "<"
        text = self._read_member(name, 16)
        try:
            return {b"little": "<", b"big": ">"}[text]
        except KeyError:
            raise CorruptArchive(f"byte order 'little' or 'big' expected, found {text!r}") from None

    def _read_member(self, name: str, max_bytes: int) -> bytes:
        member = self.members[name]
        if member.size > max_bytes:
            raise CorruptArchive(f"{name} has {member.size} bytes; at most {max_bytes} are read")
        data = read_bytes(self._source, self._locate(member), member.size)
        if self._has_checksums and zlib.crc32(data) != member.crc:
            raise CorruptArchive(f"the bytes of {name} are damaged: their checksum does not match")
        return data

    def _locate(self, member: Member) -> int:
        """Find a member's first byte, past its local header, and check its bounds."""
        if member.name in self._places:
            return self._places[member.name]
        if member.flags & _ENCRYPTED:
            raise CorruptArchive(f"{member.name} is encrypted; torch.save writes plain bytes")
        if member.method != 0:
            raise CorruptArchive(
                f"{member.name} is compressed (zip method {member.method}); torch.save stores "
                "bytes as they are, so the file was packed again: save it with torch.save"
            )
        header = read_bytes(self._source, member.offset, _LOCAL.size)
        fields = _LOCAL.unpack(header)
        signature, method = fields[0], fields[3]
        name_length, extra_length = int(fields[-2]), int(fields[-1])
        if signature != b"PK\x03\x04" or method != member.method:
            raise CorruptArchive(f"{member.name} expected at {member.offset}, found other bytes")
        name = read_bytes(self._source, member.offset + _LOCAL.size, name_length)
        if name != member.name.encode():
            raise CorruptArchive(f"{member.name} expected at {member.offset}, found {name[:80]!r}")
        first = member.offset + _LOCAL.size + name_length + extra_length
        if first + member.size > self._ends[member.offset]:
            raise CorruptArchive(f"{member.name} overlaps what follows it: the file is damaged")
        self._places[member.name] = first
        return first

    def _storage(self, pid: object) -> Storage:
        """Make the storage of ``("storage", class, key, location, numel)``, torch's persistent id.

        The location ("cpu", "cuda:0", …) only says where the tensor was; the bytes are the same.
        """
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise MalformedPickle("it refers to something that is not a storage")
        _, storage_type, key, _, numel = pid
        if not isinstance(storage_type, Global) or storage_type.name not in _STORAGES:
            raise MalformedPickle(f"storage type expected, found {kind(storage_type)}")
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise MalformedPickle("storage key and element count expected, found other values")
        known = self._storages.get(key)
        if known is not None:
            return known
        member = self.members.get(f"{self.prefix}/data/{key}")
        if member is None:
            raise CorruptArchive(f"storage {key[:80]!r} is missing from the archive")
        dtype, code, itemsize = _STORAGES[storage_type.name]
        if member.size != numel * itemsize:
            raise CorruptArchive(
                f"storage {key[:80]!r}: {numel} × {dtype} = {numel * itemsize} bytes expected, "
                f"{member.size} found"
            )
        storage = Storage(
            key=key,
            dtype=dtype,
            code=None if code is None else self._byte_order + code,
            itemsize=itemsize,
            numel=numel,
            offset=self._locate(member),
            crc=member.crc if self._has_checksums else None,
        )
        self._storages[key] = storage
        return storage


# -- the zip container --------------------------------------------------------------------------


def _read_directory(source: ByteSource) -> tuple[int, dict[str, Member]]:
    """Read the central directory: its offset and the members by name."""
    end_offset, end = _find_end(source)
    _, disk, directory_disk, _, count, size, offset, _ = end
    if 0xFFFF in (disk, directory_disk, count) or 0xFFFFFFFF in (size, offset):
        end_offset, count, size, offset = _read_end64(source, end_offset)
    elif disk or directory_disk:
        raise CorruptArchive("a zip archive of several parts; torch.save writes one")
    if offset + size > end_offset:
        raise CorruptArchive("the zip directory lies outside the file: it is damaged")
    if size > MAX_DIRECTORY_BYTES or count * _ENTRY.size > size:
        raise CorruptArchive(f"a zip directory of {count} members in {size} bytes is not read")
    return offset, _parse_directory(read_bytes(source, offset, size), count, offset)


def _find_end(source: ByteSource) -> tuple[int, tuple[Any, ...]]:
    start = read_bytes(source, 0, min(_BARE_PICKLE_BYTES, source.size))
    if start.startswith(_LEGACY_MAGIC):
        raise CorruptArchive(
            "saved in the format before PyTorch 1.6, which is a pickle throughout and is not read. "
            "Where you trust the file, convert it with PyTorch: "
            "torch.save(torch.load(path, weights_only=False), path)"
        )
    if start.startswith(b"\x80"):
        _refuse_bare_pickle(start)
    if not start.startswith(b"PK\x03\x04"):
        raise CorruptArchive(f"a zip archive of torch.save expected, found {described(start)}")
    # torch writes no comment after the record, so that the last bytes are nearly always enough.
    for length in (_END.size, _END.size + _MAX_COMMENT):
        first = max(0, source.size - length)
        tail = read_bytes(source, first, source.size - first)
        at = tail.rfind(b"PK\x05\x06")
        if at >= 0 and len(tail) - at >= _END.size:
            end = _END.unpack_from(tail, at)
            if at + _END.size + end[-1] == len(tail):
                return first + at, end
    raise CorruptArchive("the end of the zip archive is missing: the file is cut off or damaged")


def _refuse_bare_pickle(data: bytes) -> None:
    """Say what a pickle outside an archive asks for, or that it is not what was expected."""
    with contextlib.suppress(MalformedPickle):
        safe_pickle.load(data, _TENSOR_GLOBALS)
    raise CorruptArchive("a zip archive of torch.save expected, found a bare pickle")


def _read_end64(source: ByteSource, end_offset: int) -> tuple[int, int, int, int]:
    locator = read_bytes(source, end_offset - _END64_LOCATOR.size, _END64_LOCATOR.size)
    signature, _, offset64, _ = _END64_LOCATOR.unpack(locator)
    if signature != b"PK\x06\x07":
        raise CorruptArchive("the zip64 locator is missing: the file is damaged")
    record = read_bytes(source, offset64, _END64.size)
    signature, _, _, _, _, _, _, count, size, offset = _END64.unpack(record)
    if signature != b"PK\x06\x06":
        raise CorruptArchive("the zip64 end record is missing: the file is damaged")
    return offset64, count, size, offset


def _parse_directory(data: bytes, count: int, directory_offset: int) -> dict[str, Member]:
    members: dict[str, Member] = {}
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > len(data):
            raise CorruptArchive("the zip directory is shorter than its count of members says")
        fields = _ENTRY.unpack_from(data, at)
        (signature, _, _, flags, method, _, _, crc, packed, size) = fields[:10]
        (name_length, extra_length, comment_length, _, _, _, offset) = fields[10:]
        if signature != b"PK\x01\x02":
            raise CorruptArchive("the zip directory is damaged: entry signature expected")
        after_name = at + _ENTRY.size + name_length
        after_extra = after_name + extra_length
        at_next = after_extra + comment_length
        if at_next > len(data):
            raise CorruptArchive("an entry of the zip directory is cut off")
        try:
            name = data[at + _ENTRY.size : after_name].decode()
        except UnicodeDecodeError:
            raise CorruptArchive("the zip directory holds a name that is not UTF-8") from None
        size, packed, offset = _zip64(data[after_name:after_extra], size, packed, offset)
        if name in members:
            raise CorruptArchive(f"{name!r} is twice in the zip directory")
        if method == 0 and size != packed:
            raise CorruptArchive(f"{name!r}: stored, yet {packed} of {size} bytes are there")
        if offset + _LOCAL.size + packed > directory_offset:
            raise CorruptArchive(f"{name!r} lies outside the file: it is cut off or damaged")
        members[name] = Member(name, offset, size, crc, method, flags)
        at = at_next
    if at != len(data):
        raise CorruptArchive("the zip directory is longer than its count of members says")
    return members


def _zip64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Take the 64-bit values of an entry's zip64 field, for those that say 0xFFFFFFFF."""
    at = 0
    values: list[int] = []
    while at + 4 <= len(extra):
        identifier, length = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + length]
        if identifier == _ZIP64_EXTRA:
            whole = len(body) // 8
            values = list(struct.unpack_from(f"<{whole}Q", body))
        at += 4 + length
    wide: list[int] = []
    for value in (size, packed, offset):
        if value == 0xFFFFFFFF:
            if not values:
                raise CorruptArchive("the zip64 field of an entry is missing")
            wide.append(values.pop(0))
        else:
            wide.append(value)
    return wide[0], wide[1], wide[2]


# -- the builders of what every torch pickle names ----------------------------------------------


def _extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """How many elements lie between a non-empty tensor's first and last, both included."""
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _sizes(value: object, what: str) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > MAX_DIMENSIONS:
        raise MalformedPickle(f"a tensor's {what} expected: at most {MAX_DIMENSIONS} integers")
    if any(type(size) is not int or size < 0 for size in value):
        raise MalformedPickle(f"a tensor's {what} expected: no negative numbers")
    return value


def _rebuild_tensor(args: tuple[Any, ...]) -> TensorRef:
    """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])``."""
    if len(args) not in (6, 7):
        raise MalformedPickle("a tensor has the wrong number of arguments")
    storage, start, size, stride = args[:4]
    if not isinstance(storage, Storage):
        raise MalformedPickle(f"a tensor's storage expected, found {kind(storage)}")
    if type(start) is not int or start < 0:
        raise MalformedPickle("a tensor's offset expected: a number that is not negative")
    if len(args) == 7 and args[6]:
        raise MalformedPickle("a tensor with a conjugate or negative bit; save it .clone()d")
    shape, strides = _sizes(size, "shape"), _sizes(stride, "stride")
    if len(shape) != len(strides):
        raise MalformedPickle(f"a tensor of shape {shape} has stride {strides}")
    ref = TensorRef(storage, start, shape, strides)
    if ref.numel == 0:
        return ref
    if start + _extent(shape, strides) > storage.numel:
        raise CorruptArchive(
            f"a tensor of shape {shape}, stride {strides} at {start} reaches beyond its storage of "
            f"{storage.numel} elements"
        )
    dense = 1
    for step, length in sorted(zip(strides, shape, strict=True)):
        if length > 1:
            if step < dense:
                raise CorruptArchive(
                    f"the elements of a tensor of shape {shape}, stride {strides} overlap (an "
                    "expanded tensor?); save it .contiguous()"
                )
            dense = step * length
    return ref


def _rebuild_parameter(args: tuple[Any, ...]) -> TensorRef:
    """``_rebuild_parameter(data, requires_grad, hooks)``, and ``…_with_state`` alike."""
    if not args or not isinstance(args[0], TensorRef):
        raise MalformedPickle("a parameter without its tensor")
    return args[0]


def _refuse_newer_type(args: tuple[Any, ...]) -> Any:
    """``_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, …)``."""
    dtype = args[6].name if len(args) > 6 and isinstance(args[6], Global) else "a newer type"
    raise CorruptArchive(f"{dtype.removeprefix('torch.')} tensors are not read; save as float32")


def _refuse_sparse(_: tuple[Any, ...]) -> Any:
    raise CorruptArchive("sparse tensors are not read; save them .to_dense()")


def _not_called(_: tuple[Any, ...]) -> Any:
    raise MalformedPickle("a storage class is called, which torch does not")


_TENSOR_GLOBALS: Final[AllowList] = {
    "collections.OrderedDict": build_ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _refuse_newer_type,
    "torch._utils._rebuild_sparse_tensor": _refuse_sparse,
    "torch.serialization._get_layout": safe_pickle.stub("torch.layout"),
    "torch.Size": safe_pickle.stub("torch.Size"),
    **{f"torch.{dtype}": _not_called for dtype in _NEWER_TYPES},
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    **dict.fromkeys(_STORAGES, _not_called),
}
