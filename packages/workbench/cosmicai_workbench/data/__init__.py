"""Data sets of galaxies: real photometry, painted or real cutouts, partitions."""
