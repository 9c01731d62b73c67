"""What Ctrl-C tells of an execution, which must be true whenever it comes."""

from pathlib import Path

import pytest
from cosmicai_workbench.api import StartedRun
from cosmicai_workbench.client.connection import Connection
from cosmicai_workbench.place import Place

NOWHERE = Connection(s3=None, states=None, outputs={}, service=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (Place(NOWHERE, interval=0, temporary=True), "the execution ends with its local cloud"),
        (Place(NOWHERE, interval=0), "cosmicai run --attach run-1"),
        (Place(NOWHERE, interval=0, stack="sky"), "cosmicai run --attach run-1 --stack sky"),
    ],
)
def test_results_that_were_fetched_are_named(tmp_path: Path, place: Place, told: str) -> None:
    begun = StartedRun(place, "arn:aws:states:r:1:execution:m:run-1", tmp_path)
    assert told in begun.goes_on()
    folder = tmp_path / "run-1"
    folder.mkdir()
    # Fetching again would be refused, and nothing ends with a local cloud any more.
    assert begun.goes_on() == f"its results are in {folder}: cosmicai results show {folder}"
