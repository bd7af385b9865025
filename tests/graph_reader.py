"""A second process on a database: answers each line `NAMESPACE MEMORY_ID` with the ids of the memory's links."""

import asyncio
import sys

from pydantic import SecretStr

from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.runtime import open_runtime
from sfm_graph.settings import load_settings


async def main(dsn: str) -> None:
    async with open_runtime(load_settings(postgres_url=SecretStr(dsn)), maintenance=False) as services:
        _answer("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            namespace, memory_id = line.split()
            start = MemoryRef(id=MemoryId(int(memory_id)))
            found = await services.walks.reach(None, namespace, start, WalkFilter(), hops=1, limit=10_000)
            _answer(*found.answer.links.tolist())


def _answer(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
