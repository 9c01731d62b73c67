"""Simulate an execution before paying for it: events, calibration, plans."""
