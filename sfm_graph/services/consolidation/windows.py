"""Looking at one window of time: its episodes, their groups, and what is to be done about them."""

import asyncio

import numpy as np

from sfm_graph.domain.consolidation import (
    MAX_EPISODES,
    ConsolidationRules,
    Episode,
    Window,
    groups,
    widest_window,
)
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.namespace import Namespace
from sfm_graph.services.consolidation.plans import Plan, plans
from sfm_graph.store import consolidation as store
from sfm_graph.store.database import Database, ReadSession


async def window_of(
    session: ReadSession, target: Namespace, rules: ConsolidationRules, at: int, memory_id: MemoryId
) -> tuple[Window, list[MemoryId]]:
    """The window that an episode falls into, with at most MAX_EPISODES, and all episodes of it."""
    window = widest_window(rules, at)
    while len(found := await store.window_ids(session, target.id, window)) > MAX_EPISODES:
        window = window.narrower(at, memory_id)
    return window, found


async def planned(
    database: Database, target: Namespace, rules: ConsolidationRules, at: int, memory_id: MemoryId
) -> tuple[Window, int, list[Plan]]:
    """The window around an episode, how many episodes it holds, and what is to be done about them.

    The connection is given back before the plans are made, in a thread: that takes up to half a second.
    """
    async with database.read() as session:
        window, ids = await window_of(session, target, rules, at, memory_id)
        rows = {one.id: one for one in await store.episodes(session, target.id, ids)}
        own: list[MemoryId] = []
        vectors = np.empty((0, 0), np.float32)
        if target.model is not None:
            own, vectors = await store.vectors(session, target.id, target.model.id, rows)
        ties = await store.ties(session, target.id, rows)
        standing = await store.standing(session, target.id, rows)
        # Sources of these may lie outside of the window.
        others = {link.source for one in standing for link in one.links} - rows.keys()
        beside = {one.id: one for one in await store.episodes(session, target.id, others)}
    places = {id_: place for place, id_ in enumerate(own)}
    members = [Episode(one.id, one.at, places.get(one.id), one.sequence, one.position) for one in rows.values()]

    def plan() -> list[Plan]:
        return plans(groups(members, vectors, ties, rules), rows | beside, standing, rows.keys())

    return window, len(rows), await asyncio.to_thread(plan)
