"""A walk in one process sees what another process committed before it: always, without sleep or token."""

import asyncio
import random
import sys
from pathlib import Path

from sfm_graph.domain.link import LinkId
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services

READER = Path(__file__).parent / "graph_reader.py"


async def write_and_read_elsewhere(services: Services, dsn: str, rounds: int) -> None:
    """`rounds` times: change a link here, walk in another process, compare."""
    stored = await services.memory_writes.store_many("shared", [{"key": f"n{at}", "content": "x"} for at in range(6)])
    hub = stored.stored[0].memory.id
    reader = await asyncio.create_subprocess_exec(
        sys.executable, str(READER), dsn, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    try:
        assert await reader.stdout.readline() == b"ready\n"
        chosen, alive = random.Random(rounds), dict[str, LinkId]()
        for _ in range(rounds):
            await _change(services, alive, chosen)
            reader.stdin.write(f"shared {hub}\n".encode())
            if alive:
                seen = {int(one) for one in (await reader.stdout.readline()).split()}
                # The first link to each neighbour stands for the others.
                first = {target: min(one for key, one in alive.items() if key[0] == target) for target, *_ in alive}
                assert seen == set(first.values())
            else:
                assert await reader.stdout.readline() == b"\n"
    finally:
        reader.stdin.close()
        await asyncio.wait_for(reader.wait(), 20)


async def _change(services: Services, alive: dict[str, LinkId], chosen: random.Random) -> None:
    if alive and chosen.random() < 0.4:
        gone = chosen.choice(sorted(alive))
        await services.links.unlink_many("shared", [alive.pop(gone)])
        return
    target, kind = str(chosen.randrange(1, 6)), chosen.choice("ab")
    made = await services.links.link_many(
        "shared", [LinkRequest({"key": "n0"}, {"key": f"n{target}"}, {"type": kind})]
    )
    alive[target + kind] = made.stored[0].link.id


async def test_a_write_is_seen_by_the_next_walk_of_another_process(services: Services, database_dsn: str) -> None:
    await write_and_read_elsewhere(services, database_dsn, rounds=300)
