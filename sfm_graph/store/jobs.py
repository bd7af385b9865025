"""Background work in Postgres: who does it, how far it has come, how it went."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson

from sfm_graph.domain.job import Job
from sfm_graph.store.database import Session, WriteSession


async def of_namespace(session: Session, namespace_id: int) -> list[Job]:
    """The jobs of a namespace, by name. What a job notes under names with `_` in front is its own business."""
    rows = await session.rows("jobs_of", namespace_id=namespace_id)
    return [
        Job(name, due_at, ran_at, error, {k: v for k, v in state.items() if not k.startswith("_")})
        for name, state, due_at, ran_at, error in rows
    ]


async def claim(session: WriteSession, namespace_id: int, name: str, lease: timedelta) -> dict[str, Any] | None:
    """The state of a job that is due, which nobody else takes until the lease ends; None when it is not due."""
    row = await session.row("job_claim", namespace_id=namespace_id, name=name, lease=lease)
    return None if row is None else dict(row[0])


async def finish(
    session: WriteSession, namespace_id: int, name: str, state: Mapping[str, Any], *, pause: timedelta,
    error: str | None = None,
) -> None:  # fmt: skip
    """Note how a claimed job went; it is due again after `pause`."""
    text = orjson.dumps(state).decode()
    await session.run("job_finish", namespace_id=namespace_id, name=name, state=text, pause=pause, error=error)
