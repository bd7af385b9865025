"""A short fault run: nothing is lost, out of order or twice in effect when whatever carries changes is killed."""

import pytest
from fault_run import Plan, fault_run
from kafka_broker import BrokerMissing


async def test_nothing_is_lost_disordered_or_repeated_when_everything_dies_once() -> None:
    kills = {"relay": 1, "mirror": 1, "audit": 1, "broker": 1, "database": 1}
    try:
        outcome = await fault_run(Plan(seconds=6, writers=3, seed=5, kills=kills, pauses=(0.2, 0.6)))
    except BrokerMissing as missing:
        pytest.skip(str(missing))
    assert outcome.kills == kills
    assert outcome.hand_overs >= 1
