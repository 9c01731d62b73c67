"""64-bit keys of objects, by which objects that come twice are found in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def object_keys(ids: NDArray[Any]) -> NDArray[np.int64]:
    """Return 64 bits that identify objects: whole numbers themselves, a hash of anything else."""
    if ids.dtype.kind in "iu":
        return ids.astype(np.int64)  # wraps, and stays one to one
    from pandas.util import hash_array

    hashes = hash_array(ids.astype(str).astype(object), categorize=False)
    return np.asarray(hashes).astype(np.int64)


def repeated(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the keys that come more than once, each as often as it comes again."""
    ordered = np.sort(np.concatenate(keys)) if keys else np.empty(0, np.int64)
    again: NDArray[np.int64] = ordered[1:][ordered[1:] == ordered[:-1]]
    return again
