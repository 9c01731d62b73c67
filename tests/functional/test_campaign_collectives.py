"""A short campaign of collectives; the whole: ``python -m campaign.collectives``."""

from __future__ import annotations

import pytest
from campaign.campaign import Campaign
from campaign.collectives import PARTS

TRIALS = {"memory": 25, "direct": 10, "redis": 10, "s3": 1}


@pytest.mark.parametrize("part", PARTS)
def test_random_programs_give_the_right_values_or_a_named_error(part: str) -> None:
    trials = next(trials for channel, trials in TRIALS.items() if channel in part)
    campaign = Campaign(seed=1)
    campaign.run(part, PARTS[part], range(trials))
    assert not campaign.problems(), [str(trial) for trial in campaign.problems()]
