"""A short campaign of collectives; the whole: ``python -m campaign.collectives``."""

from __future__ import annotations

import pytest
from campaign.campaign import Campaign
from campaign.collectives import parts

TRIALS = {"memory": 25, "direct": 10, "redis": 10, "s3": 1}


@pytest.mark.parametrize("part", parts())
def test_random_programs_give_the_right_values_or_a_named_error(part: str) -> None:
    campaign = Campaign(seed=1)
    campaign.run(part, parts()[part], range(TRIALS[part.partition(",")[0]]))
    assert not campaign.problems(), [str(trial) for trial in campaign.problems()]
