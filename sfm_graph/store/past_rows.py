"""Past search columns and stamps of commits: what no moment that is told can need is deleted, part by part."""

from datetime import datetime

from sfm_graph.store import change_partitions
from sfm_graph.store.database import Database, WriteSession

# One transaction deletes so many rows, one round so many times: what is left waits for the next round.
BATCH_ROWS = 5_000
MOST_BATCHES = 100
_TABLES = ("past_words", "past_names", "past_embeddings")


async def prune(database: Database) -> int:
    """Delete past rows that were replaced before what is told, then the stamps before that and before the log.

    How many rows went.
    A row is needed for moments before it was replaced, a stamp also as long as changes that have it are kept.
    """
    async with database.read() as session:
        told_from = await change_partitions.known_from(session)
        begins = await change_partitions.begins(session)
    done = 0
    for table in _TABLES:
        done += await _delete(database, f"{table}_prune", told_from)
    if begins is not None:
        done += await _delete(database, "commits_prune", min(told_from, begins))
    return done


async def _delete(database: Database, name: str, until: datetime) -> int:
    async def work(session: WriteSession) -> int:
        return await session.count(name, until=until, limit=BATCH_ROWS)

    done = 0
    for _ in range(MOST_BATCHES):
        gone = await database.write(work)
        done += gone
        if gone < BATCH_ROWS:
            break
    return done
