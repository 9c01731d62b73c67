"""Stands where torch is packed: the first import unpacks the real one and becomes it."""

from packed_import import unfold

unfold(__name__)
