"""Partitions from the user's own calibrated images and catalogue."""
