"""Experiments: a grid of executions, run once each, resumable, into one tidy table."""
