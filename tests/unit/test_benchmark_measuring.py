"""What all benchmarks say the same way."""

import platform

import measuring
import numpy as np
import pytest


def test_spread_is_that_of_numpy():
    values = [3.25, 1.0, 10.5, 2.0]
    found = measuring.spread(values)
    assert found == {"median": np.median(values), "min": 1.0, "max": 10.5, "n": 4}
    assert measuring.spread([1.23456], 2)["median"] == pytest.approx(1.23)


def test_the_machine_names_its_instruction_set_and_versions():
    found = measuring.machine("numpy", "no-such-package")
    assert found["architecture"] == platform.machine()
    assert found["cores"] >= 1
    assert found["instruction_set"] != "unknown"
    assert found["versions"] == {"python": platform.python_version(), "numpy": np.__version__}
