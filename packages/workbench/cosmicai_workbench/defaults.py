"""Defaults that commands and functions share, apart so that ``--help`` imports nothing else."""

from pathlib import Path

CLOUD = "local"
"""Name of the local cloud, unless another is given."""
DEMO_GALAXIES = 2500
"""Of the 2,501 real galaxies that the shipped model has never seen (parents included)."""
DEMO_PARTITIONS = 11
LATEST = "latest"
"""The link to the newest run, in ``RUNS``."""
MAX_COST = 5.0
"""US dollars: a run on AWS with a higher estimate has to be confirmed."""
RUNS = Path("runs")
"""Folder of the run folders."""
STACK = "cosmicai"
"""Name of the stack, unless another is given."""
