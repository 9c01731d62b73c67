"""Types, reduction functions and hints, named as in the C++ library's Python binding."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class datatypes(enum.Enum):  # noqa: N801 - the name in the binding, which programs use
    """What a value is: a 64-bit integer, a double, or a list of either."""

    int = 1
    double = 2
    int_list = 3
    double_list = 4


class types:  # noqa: N801 - the name in the binding, which programs use
    """A datatype and, for lists, the number of elements that every rank expects.

    Parameters
    ----------
    datatype : datatypes
    num_objects : int, optional
        Elements of a list. Given, it is checked on every rank, and ranks that receive know the
        size in advance, so that large values take the faster algorithm. For ``scatter`` it is
        the length of the whole list, as in the C++ binding.
    """

    __slots__ = ("datatype", "num_objects")

    def __init__(self, datatype: datatypes, num_objects: int | None = None) -> None:
        if not isinstance(datatype, datatypes):
            raise TypeError(f"types() takes a member of fmi.datatypes, not {datatype!r}")
        if num_objects is not None and (not isinstance(num_objects, int) or num_objects < 0):
            raise ValueError(f"types(): the number of objects must be ≥ 0, not {num_objects!r}")
        self.datatype = datatype
        self.num_objects = num_objects

    @property
    def is_list(self) -> bool:
        """Whether values are lists."""
        return self.datatype in (datatypes.int_list, datatypes.double_list)

    @property
    def nbytes(self) -> int | None:
        """Bytes of one value, where known in advance."""
        if not self.is_list:
            return 8
        return None if self.num_objects is None else 8 * self.num_objects

    def __repr__(self) -> str:
        count = "" if self.num_objects is None else f", {self.num_objects}"
        return f"types(datatypes.{self.datatype.name}{count})"


class op(enum.Enum):  # noqa: N801 - the name in the binding, which programs use
    """Reduction operations."""

    sum = 1
    prod = 2
    max = 3
    min = 4
    custom = 5


class func:  # noqa: N801 - the name in the binding, which programs use
    """A reduction function.

    Whatever it declares, fmilib evaluates strictly from left to right in rank order:
    ``f(f(f(x0, x1), x2), x3)``. The result is therefore the same on every rank, in every run and
    on every channel, and functions that are neither commutative nor associative are right, too.

    Parameters
    ----------
    operation : op
    function : callable, optional
        ``f(a, b)`` for ``op.custom``. On ``int_list`` and ``double_list`` it is applied element
        by element, as in the C++ binding; on arrays and objects to the whole value.
    commutative, associative : bool
        Accepted for compatibility; the evaluation order does not depend on them.
    """

    __slots__ = ("associative", "commutative", "function", "number", "operation")

    def __init__(
        self,
        operation: op,
        function: Callable[[Any, Any], Any] | None = None,
        commutative: bool = True,
        associative: bool = True,
    ) -> None:
        if not isinstance(operation, op):
            raise TypeError(f"func() takes a member of fmi.op, not {operation!r}")
        if (operation is op.custom) != (function is not None):
            raise TypeError("func(): a function goes with op.custom, and only with it")
        self.operation = operation
        self.number: int = operation.value  # in the frames, so that ranks can compare it
        self.function = function
        self.commutative = commutative
        self.associative = associative


class hints(enum.Enum):  # noqa: N801 - the name in the binding, which programs use
    """What the choice of a channel minimises: the price or the time."""

    cheap = 1
    fast = 2
