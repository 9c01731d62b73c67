"""Models: import of checkpoints, training, the model card."""
