"""Functional link types: at most one open link of the type from a memory."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_history import links_of

from sfm_graph.domain.functional_links import OpenLink, make_room
from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.inputs import link_patch
from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import WriteOperation
from sfm_graph.errors import Conflict, InvalidInput
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services

SPACE = "versions"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
BEGINNINGS = st.none() | st.integers(-3, 3).map(lambda years: NOW + years * YEAR)


@given(st.lists(st.tuples(st.integers(1, 3), BEGINNINGS), max_size=8))
def test_one_link_at_most_is_open_whatever_opens(opened: list[tuple[int, datetime | None]]) -> None:
    periods: dict[tuple[int, datetime | None], datetime | None] = {}
    for step, (target, begin) in enumerate(opened):
        now = NOW + timedelta(seconds=10 * step)
        others = [
            OpenLink(LinkId(place), MemoryId(one), start)
            for place, ((one, start), end) in enumerate(periods.items())
            if end is None and (begin is None or (one, start) != (target, begin))
        ]
        names = list(periods)
        try:
            room = make_room("x", MemoryId(target), begin, others, now, ended=periods.get((target, begin)))
        except Conflict:
            assert begin is not None
            assert any(one.begin == begin for one in others)
            continue
        for link_id in room.closed:
            assert room.at is not None
            periods[names[link_id]] = room.at
        periods[target, room.begin] = room.end
        assert begin is None or room.begin == begin
        assert sum(end is None for end in periods.values()) == 1
        assert all(start is None or end is None or start < end for (_, start), end in periods.items())


async def prepare(services: Services, *keys: str) -> MemoryId:
    """Memories, and `works_at` as a functional type. The id of the first."""
    await services.namespaces.put(SPACE, settings={"functional_types": ["works_at"]}, model=None)
    stored = [await services.memory_writes.store(SPACE, {"key": key, "content": f"text {key}"}) for key in keys]
    return stored[0].memory.id


async def works_at(services: Services, target: str, **fields: Any) -> Link:
    given = {"type": "works_at", **fields}
    return (await services.links.link(SPACE, {"key": "ada"}, {"key": target}, given)).link


async def periods(services: Services, source: MemoryId) -> list[tuple[MemoryId, datetime | None, datetime | None]]:
    return [(one.target_id, one.valid_from, one.valid_to) for one in await links_of(services, source)]


async def test_a_link_that_opens_closes_the_open_one(services: Services) -> None:
    ada = await prepare(services, "ada", "x", "y", "z")
    first = await works_at(services, "x")
    assert (first.valid_from, first.valid_to) == (None, None)
    assert (await works_at(services, "x", weight=2.0)).id == first.id
    second = await works_at(services, "y")
    closed = (await links_of(services, ada))[0]
    assert second.valid_from is not None
    assert closed.valid_to == second.valid_from
    assert closed.version == 3
    again = await works_at(services, "y", weight=3.0)
    assert (again.id, again.valid_from, again.version) == (second.id, second.valid_from, 2)
    # It was there before: it begins anew, and does not change what was.
    third = await works_at(services, "x")
    assert third.id != first.id
    assert third.valid_from is not None
    assert [one.valid_to for one in await links_of(services, ada)] == [second.valid_from, third.valid_from, None]
    given = await works_at(services, "z", valid_from=(third.valid_from + YEAR).isoformat())
    assert [one.valid_to for one in await links_of(services, ada)][2:] == [given.valid_from, None]


async def test_a_backdated_link_ends_where_the_open_one_begins(services: Services) -> None:
    ada = await prepare(services, "ada", "x", "y")
    later = await works_at(services, "x", valid_from=NOW.isoformat())
    earlier = await works_at(services, "y", valid_from=(NOW - YEAR).isoformat())
    assert (earlier.valid_from, earlier.valid_to) == (NOW - YEAR, NOW)
    assert (await links_of(services, ada))[0] == later
    with pytest.raises(Conflict):
        await works_at(services, "y", valid_from=NOW.isoformat())
    ended = await works_at(services, "y", valid_from=(NOW + YEAR).isoformat(), valid_to=(NOW + 2 * YEAR).isoformat())
    assert ended.valid_to
    assert (await links_of(services, ada))[0].valid_to is None
    with pytest.raises(Conflict):
        await services.links.update_many(SPACE, [link_patch(earlier.id, {"valid_to": None})])
    await services.links.update_many(SPACE, [link_patch(later.id, {"valid_to": NOW + YEAR})])
    (opened,) = await services.links.update_many(SPACE, [link_patch(earlier.id, {"valid_to": None})])
    assert opened.valid_to is None


async def test_a_batch_is_made_as_one_link_after_the_other(services: Services) -> None:
    ada = await prepare(services, "ada", "x", "y", "z")
    requests = [
        LinkRequest(
            {"key": "ada"}, {"key": key}, {"type": "works_at", "valid_from": (NOW + place * YEAR).isoformat()}
        )
        for place, key in enumerate("xyz")
    ]
    again = LinkRequest(
        {"key": "ada"}, {"key": "x"}, {"type": "works_at", "valid_from": requests[2].fields["valid_from"]}
    )
    done = await services.links.link_many(SPACE, [*requests, again], partial=True)
    assert [one.operation for one in done.stored] == [WriteOperation.CREATED] * 3
    assert [(one.index, one.code) for one in done.failed] == [(3, "conflict")]
    assert [(begin, end) for _, begin, end in await periods(services, ada)] == [
        (NOW, NOW + YEAR), (NOW + YEAR, NOW + 2 * YEAR), (NOW + 2 * YEAR, None)
    ]  # fmt: skip


async def test_of_many_writers_one_has_the_open_link(services: Services) -> None:
    targets = [f"t{number}" for number in range(8)]
    ada = await prepare(services, "ada", *targets)

    async def work(target: str) -> None:
        await works_at(services, target)
        await services.memory_writes.store(SPACE, {"key": "ada", "content": target})

    await asyncio.gather(*(work(target) for target in targets))
    found = sorted(await periods(services, ada), key=lambda one: one[1] or NOW - 10 * YEAR)
    assert len(found) == 8
    assert [end for _, _, end in found][-1] is None
    # Each began where the one before it ended.
    assert [end for _, _, end in found[:-1]] == [begin for _, begin, _ in found[1:]]


async def test_a_link_comes_back_beside_what_was_said_since(services: Services) -> None:
    ada = await prepare(services, "ada", "x", "y")
    first = await works_at(services, "x", valid_from=NOW.isoformat())
    await services.memory_writes.forget_many(SPACE, [MemoryRef(key="x")])
    second = await works_at(services, "y", valid_from=(NOW + YEAR).isoformat())
    restored = await services.restoring.restore(SPACE, MemoryRef(key="x"))
    assert [(one.id, one.valid_to) for one in restored.links] == [(first.id, NOW + YEAR)]
    assert [one for one in await links_of(services, ada) if one.valid_to is None] == [second]


async def test_a_type_with_several_open_links_becomes_functional_with_the_next(services: Services) -> None:
    await prepare(services, "ada", "x", "y", "z")
    await services.namespaces.put(SPACE, settings={"functional_types": []}, model=None)
    await works_at(services, "x")
    await works_at(services, "y")
    await services.namespaces.put(SPACE, settings={"functional_types": ["works_at"]}, model=None)
    third = await works_at(services, "z")
    assert [one for one in await links_of(services, MemoryId(third.source_id)) if one.valid_to is None] == [third]
    with pytest.raises(InvalidInput):
        await services.namespaces.put(SPACE, settings={"functional_types": "works_at"}, model=None)


async def test_a_refused_link_closes_nothing(services: Services, database_dsn: str) -> None:
    ada = await prepare(services, "ada", "x", "y")
    await works_at(services, "x")
    request = LinkRequest({"key": "ada"}, {"key": "y"}, {"type": "works_at", "expected_version": 4})
    done = await services.links.link_many(SPACE, [request], partial=True)
    assert [one.code for one in done.failed] == ["version_conflict"]
    assert [end for _, _, end in await periods(services, ada)] == [None]
    with psycopg.connect(database_dsn) as connection:
        row = connection.execute("select count(*) from changes where entity = 'link'").fetchone()
    assert row == (1,)
