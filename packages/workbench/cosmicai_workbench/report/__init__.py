"""One self-contained page about runs and sweeps."""
