"""Models: training and import of checkpoints."""
