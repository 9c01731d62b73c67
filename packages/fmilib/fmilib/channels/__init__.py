"""Ways to move bytes between ranks: direct TCP, Redis, S3, and the memory of one process."""
