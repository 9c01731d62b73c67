"""What each rank gets of a scattered value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fmilib.codec import Codec, encode, is_array
from fmilib.datatypes import types

if TYPE_CHECKING:
    from fmilib.frame import Packet


def share_types(whole: types | None, size: int) -> types | None:
    """Return the types of one rank's share; in ``whole``, a list's length is the whole one's."""
    if whole is None or not whole.is_list or whole.num_objects is None:
        return whole
    if whole.num_objects % size:
        raise ValueError(f"scatter: {whole.num_objects} elements do not divide among {size} ranks")
    return types(whole.datatype, whole.num_objects // size)


def encode_shares(objs: Any, whole: types | None, codec: Codec | None, size: int) -> list[Packet]:
    """Cut the root's value and return one packet per rank."""
    share = share_types(whole, size)
    return [encode(part, share, codec) for part in _cut(objs, whole, size)]


def _cut(objs: Any, whole: types | None, size: int) -> list[Any]:
    if (whole is not None and whole.is_list) or is_array(objs):
        length = len(objs)
        if length % size or (whole and whole.num_objects not in (None, length)):
            raise ValueError(f"scatter: {length} elements for {size} ranks and types {whole!r}")
        part = length // size
        return [objs[i * part : (i + 1) * part] for i in range(size)]
    if len(objs) != size:
        raise ValueError(f"scatter: {len(objs)} values for {size} ranks")
    return list(objs)
