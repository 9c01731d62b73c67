"""Partitions: ``.pt`` files of galaxies, read and written without torch."""
