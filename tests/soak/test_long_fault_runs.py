"""The fault run at length: 8 writers for a minute, half of it with an open transaction. `ARGS=-s` shows figures."""

import sys

import pytest
from fault_run import Plan, fault_run
from kafka_broker import BrokerMissing

pytestmark = pytest.mark.soak

KILLS = {
    "relay": 4, "mirror": 4, "audit": 4, "audit-table": 4, "broker": 3, "database": 3, "service": 2, "target": 2
}  # fmt: skip


@pytest.mark.parametrize("mirror_reads_source", [False, True], ids=["stream-alone", "reads-source"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_minute_of_faults(seed: int, mirror_reads_source: bool) -> None:
    plan = Plan(
        seconds=60, writers=8, seed=seed, kills=KILLS, table_audits=2, mirror_reads_source=mirror_reads_source
    )
    try:
        outcome = await fault_run(plan)
    except BrokerMissing as missing:
        pytest.skip(str(missing))
    sys.stdout.write(f"\n{plan}\n{outcome.as_json()}\n")
    assert outcome.kills == KILLS
