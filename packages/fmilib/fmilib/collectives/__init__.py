"""Algorithms of group operations over point-to-point messages."""
