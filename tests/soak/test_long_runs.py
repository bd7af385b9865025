"""The long forms of the suite's stress and fault tests: `make soak`."""

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from test_changes import stress
from test_crash import kill_in_the_middle
from test_fresh_elsewhere import write_and_read_elsewhere

from sfm_graph.services.registry import Services

pytestmark = pytest.mark.soak


async def test_the_change_cursor_for_minutes(services: Services, database_dsn: str) -> None:
    assert await stress(services, database_dsn, writers=8, rounds=1_500) > 10_000


@pytest.mark.parametrize("run", range(10))
def test_kill_at_random_times(run: int) -> None:
    chosen = random.Random(run)
    data_dir = Path(tempfile.mkdtemp(prefix="sfm-soak-"))
    try:
        kill_in_the_middle(data_dir, chosen.choice(["database", "both"]), seconds=chosen.uniform(1, 6))
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


async def test_ten_thousand_writes_seen_by_another_process(services: Services, database_dsn: str) -> None:
    await write_and_read_elsewhere(services, database_dsn, rounds=10_000)
