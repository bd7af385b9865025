"""The load run at length: 16 clients for 5 minutes. `make soak ARGS="-k load -s"` shows its figures."""

import sys

import pytest
from load_run import Plan, load_run

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("workers", [1, 2])
async def test_five_minutes_of_load(workers: int) -> None:
    outcome = await load_run(Plan(seconds=300, workers=workers))
    sys.stdout.write(f"\n{outcome.as_json()}\n")
    assert outcome.growth <= 0.05
