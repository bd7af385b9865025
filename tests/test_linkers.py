"""Linkers: the links that they make follow from what is stored, whatever happened before."""

import asyncio
import random
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import EntryPoint
from itertools import pairwise
from math import cos, inf, radians, sin, sqrt
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sfm_graph.domain.identity import LinkId, MemoryId, MemoryRef
from sfm_graph.domain.inputs import link_patch
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.names import NameTrie, names_of, spelling
from sfm_graph.domain.referents import referents_in, referents_of
from sfm_graph.errors import MemoryNotFound, Overloaded, SettingsError
from sfm_graph.services.linking import linking
from sfm_graph.services.linking.linker import Linker, Surroundings, Writes
from sfm_graph.services.linking.linking import Linking, installed_linkers
from sfm_graph.services.linking.mention import Mention
from sfm_graph.services.linking.relinking import Relinking
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.store.database import Database
from sfm_graph.store.linking import Known

NS = "demo"
DIMENSION = 256
Made = dict[tuple[str, str, str], float]


def _weight(called: int) -> float:
    return 2 * sqrt(called) - 1


async def _store(services: Services, *items: Mapping[str, Any]) -> None:
    await services.memory_writes.store_many(NS, items)


async def _rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return await (await connection.execute(query)).fetchall()  # type: ignore[arg-type]


async def _made(dsn: str, type_: str | None = None) -> Made:
    """The links of linkers: source key, type, target key -> weight."""
    rows = await _rows(
        dsn,
        "select s.key, l.type, t.key, l.weight from links l join memories s on s.id = l.source_id "
        "join memories t on t.id = l.target_id where l.maker is not null",
    )
    return {(source, kind, target): weight for source, kind, target, weight in rows if type_ in (None, kind)}


async def test_text_leads_to_what_it_names_whichever_comes_first(services: Services, database_dsn: str) -> None:
    await _store(services, {"key": "old", "content": "She met Nicki Minaj there."})
    await _store(services, {"key": "minaj", "title": "Nicki Minaj", "content": "A rapper."})
    await _store(
        services, {"key": "new", "content": "a song by NICKI MINAJ"}, {"key": "not", "content": "nicki and Minaj"}
    )
    assert await _made(database_dsn) == {("old", "mentions", "minaj"): 1, ("new", "mentions", "minaj"): 1}
    rows = await _rows(database_dsn, "select properties ->> 'name', maker, version from links order by id")
    assert rows == [("Nicki Minaj", "mention", 1), ("NICKI MINAJ", "mention", 1)]


async def test_one_batch_may_hold_both_sides(services: Services, database_dsn: str) -> None:
    await _store(
        services,
        {"key": "a", "content": "From Oslo with love"},
        {"key": "b", "title": "Oslo (city)", "content": "Oslo (city)\nNot far from Oslo itself"},
        {"key": "c", "content": "x", "payload": {"aliases": ["Kristiania"]}},
        {"key": "d", "content": "Kristiania was its name"},
    )
    assert (await _made(database_dsn)).keys() == {("a", "mentions", "b"), ("d", "mentions", "c")}


async def test_names_of_several_weigh_more_and_too_many_connect_nothing(
    services: Services, database_dsn: str
) -> None:
    await _store(services, {"key": "text", "content": "In Springfield again"})
    for number in range(51):
        await _store(services, {"key": f"s{number}", "title": "Springfield", "content": f"no {number}"})
        count = number + 1
        expected = {("text", "mentions", f"s{one}"): _weight(count) for one in range(count)} if count <= 50 else {}
        assert await _made(database_dsn) == expected
    await services.memory_writes.forget_many(NS, [MemoryRef(key="s7"), MemoryRef(key="s8")])
    assert set((await _made(database_dsn)).values()) == {_weight(49)}


async def test_the_longest_name_counts_as_names_come_and_go(services: Services, database_dsn: str) -> None:
    await _store(services, {"key": "text", "content": "He lives in New York City now"})
    await _store(services, {"key": "short", "title": "New York", "content": "x"})
    assert (await _made(database_dsn)).keys() == {("text", "mentions", "short")}
    await _store(services, {"key": "long", "title": "New York City", "content": "y"})
    assert (await _made(database_dsn)).keys() == {("text", "mentions", "long")}
    await services.memory_writes.update(NS, MemoryRef(key="long"), {"title": "Gotham"})
    assert (await _made(database_dsn)).keys() == {("text", "mentions", "short")}
    await services.memory_writes.update(NS, MemoryRef(key="text"), {"content": "He lives in Gotham"})
    assert (await _made(database_dsn)).keys() == {("text", "mentions", "long")}
    await services.memory_writes.erase_many(NS, [MemoryRef(key="long")])
    assert await _made(database_dsn) == {}


async def test_words_that_a_thousand_memories_hold_are_not_looked_up(services: Services, database_dsn: str) -> None:
    await _store(services, *({"key": f"t{one}", "content": f"Rain no {one}"} for one in range(1_001)))
    await _store(services, {"key": "rain", "title": "Rain", "content": "wet"})
    assert await _made(database_dsn) == {}
    await _store(services, {"key": "later", "content": "Rain again"})
    assert (await _made(database_dsn)).keys() == {("later", "mentions", "rain")}
    await services.memory_writes.update(NS, MemoryRef(key="rain"), {"title": "Drizzle"})
    assert await _made(database_dsn) == {}


async def test_a_callers_link_stands_for_the_linkers(services: Services, database_dsn: str) -> None:
    await _store(services, {"key": "a", "content": "To Paris"}, {"key": "p", "title": "Paris", "content": "x"})
    done = await services.links.link(NS, {"key": "a"}, {"key": "p"}, {"type": "mentions", "weight": 7})
    assert (done.link.maker, done.link.version) == (None, 2)
    await services.memory_writes.update(NS, MemoryRef(key="a"), {"content": "To Rome"})
    await services.memory_writes.update(NS, MemoryRef(key="a"), {"content": "To Paris again"})
    assert await _rows(database_dsn, "select weight, maker from links") == [(7.0, None)]


async def test_changing_a_linkers_link_claims_it(services: Services, database_dsn: str) -> None:
    await _store(services, {"key": "a", "content": "To Paris"}, {"key": "p", "title": "Paris", "content": "x"})
    ((link_id,),) = await _rows(database_dsn, "select id from links where maker = 'mention'")
    (changed,) = await services.links.update_many(NS, [link_patch(LinkId(link_id), {"weight": 3})])
    assert changed.maker is None
    await _store(services, {"key": "p", "title": "Rome", "content": "x"})
    assert await _rows(database_dsn, "select weight, maker from links") == [(3.0, None)]


async def test_an_unchanged_link_of_a_linker_is_claimed_too(services: Services, database_dsn: str) -> None:
    await _store(services, {"key": "a", "content": "To Paris"}, {"key": "p", "title": "Paris", "content": "x"})
    request = LinkRequest({"key": "a"}, {"key": "p"}, {"type": "mentions", "properties": {"name": "Paris"}})
    await services.links.link_many(NS, [request], skip_unchanged=True)
    assert await _rows(database_dsn, "select maker from links") == [(None,)]


async def test_every_link_of_a_linker_is_in_the_log(services: Services, database_dsn: str) -> None:
    await _store(services, {"key": "a", "content": "To Paris"}, {"key": "p", "title": "Paris", "content": "x"})
    await _store(services, {"key": "q", "title": "Paris", "content": "y"})
    await services.memory_writes.update(NS, MemoryRef(key="a"), {"content": "nowhere"})
    log = await _rows(
        database_dsn,
        "select operation, before ->> 'weight', after ->> 'weight', coalesce(after, before) ->> 'maker' "
        "from changes where entity = 'link' order by id",
    )
    assert sorted(log, key=str) == sorted(
        [
            ("create", None, "1", "mention"),
            ("update", "1", str(_weight(2)), "mention"),
            ("create", None, str(_weight(2)), "mention"),
            ("forget", str(_weight(2)), None, "mention"),
            ("forget", str(_weight(2)), None, "mention"),
        ],
        key=str,
    )


def _turn(key: str, sequence: str, position: float) -> dict[str, Any]:
    return {"key": key, "content": f"turn {key}", "payload": {"session": sequence, "position": position}}


async def test_a_sequence_is_a_chain_through_every_change(services: Services, database_dsn: str) -> None:
    async def chain() -> set[str]:
        return {source + target for source, _, target in await _made(database_dsn, "next")}

    await _store(services, _turn("a", "s", 1), _turn("c", "s", 3), _turn("d", "s", 4), _turn("x", "other", 2))
    assert await chain() == {"ac", "cd"}
    await _store(services, _turn("b", "s", 2))
    assert await chain() == {"ab", "bc", "cd"}
    await _store(services, _turn("b", "s", 9))
    assert await chain() == {"ac", "cd", "db"}
    await _store(services, _turn("c", "other", 1))
    assert await chain() == {"ad", "db", "cx"}
    await services.memory_writes.forget_many(NS, [MemoryRef(key="d")])
    assert await chain() == {"ab", "cx"}


async def test_equal_positions_follow_in_order_of_ids(services: Services, database_dsn: str) -> None:
    await _store(services, *(_turn(key, "s", 0) for key in "abc"))
    assert {source + target for source, _, target in await _made(database_dsn, "next")} == {"ab", "bc"}


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ({"title": "Ada Lovelace"}, "so ada lovelace wrote"),
        ({"title": "x1", "payload": {"alias": "Ada"}}, "ADA wrote"),
        ({"title": "8 May 2023"}, "on 2023-05-08 it rained"),
        ({"title": "2023-05-08"}, "It rained on May 8th, 2023."),
        ({"title": "May 2023"}, "as of 2023-05 only"),
        ({"title": "3,000"}, "it cost $3000."),
        ({"title": "3000"}, "it cost 3,000.00 then"),
        ({"title": "3"}, "about 3.0 times"),
        ({"title": "2.50"}, "about 2.5 times"),
        ({"title": "1998"}, "back in 1998"),
    ],
)
async def test_text_refers_to_entities_in_any_spelling(
    services: Services, database_dsn: str, called: dict[str, Any], said: str
) -> None:
    entity = {"key": "e", "kind": "entity", "content": "c", **called}
    await _store(services, {"key": "before", "content": said})
    await _store(services, entity)
    await _store(services, {"key": "after", "content": said})
    linked = {("before", "refers_to", "e"), ("after", "refers_to", "e")}
    assert (await _made(database_dsn)).keys() == linked
    await _store(services, {**entity, "title": "Nothing of it", "payload": {}})
    assert await _made(database_dsn) == {}
    await _store(services, entity)
    assert (await _made(database_dsn)).keys() == linked
    await services.memory_writes.forget_many(NS, [MemoryRef(key="e")])
    assert await _made(database_dsn) == {}


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ("3", "version 3.1, 1.3, 3rd, 13 and 03"),
        ("8 May 2023", "on 9 May 2023, in May 2023, on 8 May"),
        ("5", "on 2023-05-05 at 5:05"),
        ("The 8 May demonstrations", "on 8 May"),
    ],
)
async def test_other_numbers_and_dates_do_not_refer(
    services: Services, database_dsn: str, called: str, said: str
) -> None:
    await _store(services, {"key": "e", "kind": "entity", "title": called, "content": "c"})
    await _store(services, {"key": "text", "content": said})
    assert await _made(database_dsn) == {}


async def test_a_memory_that_becomes_an_entity_is_referred_to(services: Services, database_dsn: str) -> None:
    await _store(services, {"key": "t", "content": "Ask Ada, not ada"}, {"key": "a", "title": "Ada", "content": "c"})
    assert (await _made(database_dsn)).keys() == {("t", "mentions", "a")}
    await _store(services, {"key": "a", "title": "Ada", "content": "c", "kind": "entity"})
    assert (await _made(database_dsn)).keys() == {("t", "refers_to", "a")}
    await services.memory_writes.update(NS, MemoryRef(key="a"), {"kind": "semantic"})
    assert (await _made(database_dsn)).keys() == {("t", "mentions", "a")}


async def test_linkers_are_switched_for_each_namespace(services: Services, database_dsn: str) -> None:
    await services.namespaces.put(NS, settings={"linkers": {"mention": False, "similarity": True}}, model=None)
    await _store(services, {"key": "p", "title": "Paris", "content": "x"})
    await _store(services, {"key": "a", "content": "To Paris by train"}, {"key": "b", "content": "to Paris by train"})
    made = await _made(database_dsn)
    assert made.keys() == {("a", "similar", "b"), ("b", "similar", "a")}
    assert made["a", "similar", "b"] == pytest.approx(1, abs=2e-3)
    await services.memory_writes.forget_many(NS, [MemoryRef(key="b")])
    assert await _made(database_dsn) == {}


async def test_similar_memories_keep_their_nearest(services: Services, database_dsn: str) -> None:
    await services.namespaces.put(NS, settings={"linkers": {"similarity": True}}, model=None)
    angles = [0, 8, 4, 30, 15, 22, 1, 2, 80]
    for number, angle in enumerate(angles):
        item = {"key": f"m{number}", "content": f"n{number}", "embedding": _at(angle)}
        await _store(services, item)
    assert (await _made(database_dsn)).keys() == _nearest(angles)
    await _store(services, {"key": "m0", "content": "moved", "embedding": _at(85)})
    assert (await _made(database_dsn)).keys() == _nearest([85, *angles[1:]])


def _at(angle: float) -> list[float]:
    return [cos(radians(angle)), sin(radians(angle)), *([0.0] * (DIMENSION - 2))]


def _nearest(angles: list[int]) -> set[tuple[str, str, str]]:
    linked = set()
    for one, angle in enumerate(angles):
        others = sorted((abs(angle - other), number) for number, other in enumerate(angles) if number != one)
        linked |= {(f"m{one}", "similar", f"m{number}") for apart, number in others[:5] if apart < 53}
    return linked


NAMES = ["Ada", "Ada Lovelace", "New York", "New York City", "York", "2 May 2023", "3,000", "Oslo (city)", "The Who"]
SAID = [
    "Ada",
    "ada lovelace",
    "New York",
    "new York City",
    "York",
    "city",
    "2023-05-02",
    "3000",
    "Oslo",
    "The who",
    "rain",
]


def _item(chosen: random.Random, key: str) -> dict[str, Any]:
    payload: dict[str, Any] = {}
    if chosen.random() < 0.3:
        payload["aliases"] = chosen.sample(NAMES, 2)
    if chosen.random() < 0.5:
        payload |= {"session": chosen.choice("st"), "position": chosen.randrange(4)}
    return {
        "key": key,
        "kind": chosen.choice(["episodic", "episodic", "entity"]),
        "title": chosen.choice([None, *NAMES]),
        "content": " ".join(chosen.choices(SAID, k=5)),
        "payload": payload,
    }


async def _history(services: Services, chosen: random.Random, keys: list[str]) -> None:
    for _ in range(25):
        some = chosen.sample(keys, chosen.randrange(1, 5))
        match chosen.randrange(12):
            case 0 | 1 | 2 | 3 | 4 | 5:
                await _store(services, *(_item(chosen, key) for key in chosen.choices(keys, k=6)))
            case 6 | 7:
                await services.memory_writes.forget_many(NS, [MemoryRef(key=key) for key in some])
            case 8:
                await services.memory_writes.erase_many(NS, [MemoryRef(key=key) for key in some])
            case _:
                for key in some:
                    fields = _item(chosen, key)
                    del fields["key"]
                    names = chosen.sample(sorted(fields), 2)
                    try:
                        await services.memory_writes.update(
                            NS, MemoryRef(key=key), {one: fields[one] for one in names}
                        )
                    except MemoryNotFound:
                        continue


async def _expected(dsn: str) -> Made:
    """What the stored memories call for, by the rules and nothing else."""
    rows = await _rows(dsn, "select id, key, kind, title, content, payload from memories order by id")
    called: dict[tuple[str, ...], list[tuple[str, bool]]] = defaultdict(list)
    for _, key, kind, title, _, payload in rows:
        aliases = payload.get("aliases", [])
        names = set(names_of(title, aliases))
        if kind == "entity":
            names |= referents_of([title or "", *aliases])
        for name in names:
            called[name].append((key, kind == "entity"))
    trie, made = NameTrie(called), Made()
    for _, key, _, title, content, _ in rows:
        own = content.removeprefix(title).lstrip("\n") if title else content
        text = spelling(own)
        found = [(one.name, any(text.telling[one.begin : one.end])) for one in trie.find(text.folded)]
        found += [(name, False) for name in referents_in(own) if name in called]
        for name, tells in found:
            for target, is_entity in called[name] if len(called[name]) <= 50 else ():
                if target != key and (tells or is_entity):
                    link = (key, "refers_to" if is_entity else "mentions", target)
                    made[link] = min(_weight(len(called[name])), made.get(link, inf))
    chains: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for id_, key, *_, payload in rows:
        if "session" in payload:
            chains[payload["session"]].append((payload["position"], id_, key))
    for chain in chains.values():
        for one, after in pairwise(sorted(chain)):
            made[one[2], "next", after[2]] = 1
    return made


@pytest.mark.parametrize("seed", range(4))
async def test_links_equal_what_is_stored_after_any_history(services: Services, database_dsn: str, seed: int) -> None:
    chosen = random.Random(seed)
    keys = [f"k{number}" for number in range(12)]
    for _ in range(2):
        await _history(services, chosen, keys)
        assert await _made(database_dsn) == await _expected(database_dsn)
    assert await _made(database_dsn)


async def test_writers_at_the_same_time_miss_nothing_of_each_other(services: Services, database_dsn: str) -> None:
    async def writer(number: int) -> None:
        chosen = random.Random(number)
        for turn in range(8):
            name = f"Person {chosen.randrange(10)}"
            await _store(services, {"key": f"t{number}-{turn}", "content": f"about {name}"} | _somewhere(chosen))
            await _store(services, {"key": f"n{number}-{turn}", "title": name, "content": "x"} | _somewhere(chosen))

    await asyncio.gather(*map(writer, range(8)))
    made = await _made(database_dsn)
    assert made == await _expected(database_dsn)
    assert {type_ for _, type_, _ in made} == {"mentions", "next"}


def _somewhere(chosen: random.Random) -> dict[str, Any]:
    return {"payload": {"session": chosen.choice("st"), "position": chosen.randrange(100)}}


async def test_writers_that_update_and_forget_at_the_same_time(services: Services, database_dsn: str) -> None:
    keys = [f"k{number}" for number in range(12)]
    await _store(services, *(_item(random.Random(key), key) for key in keys))
    await asyncio.gather(*(_history_of_one(services, random.Random(number), keys) for number in range(4)))
    assert await _made(database_dsn) == await _expected(database_dsn)


async def _history_of_one(services: Services, chosen: random.Random, keys: list[str]) -> None:
    for _ in range(6):
        try:
            if chosen.random() < 0.3:
                await services.memory_writes.forget_many(NS, [MemoryRef(key=chosen.choice(keys))])
            else:
                await _store(services, _item(chosen, chosen.choice(keys)))
        except Overloaded:
            continue


async def test_relinking_brings_everything_in_line(services: Services, database_dsn: str) -> None:
    off = {"linkers": dict.fromkeys(["mention", "sequence", "entities"], False)}
    await services.namespaces.put(NS, settings=off, model=None)
    some = [_item(random.Random(number), f"k{number}") for number in range(45)]
    await _store(services, *some, *({"key": f"t{one}", "content": "Ada in York"} for one in range(1_005)))
    assert await _made(database_dsn) == {}
    database = Database(database_dsn)
    await database.open()
    relinking = Relinking(database, Linking(installed_linkers()))
    try:
        await services.namespaces.put(NS, settings={"linkers": {}}, model=None)
        assert await relinking.run(NS) == 1_050
        made = await _made(database_dsn)
        assert made
        assert made == await _expected(database_dsn)
        await services.namespaces.put(NS, settings=off, model=None)
        await relinking.run(NS)
        assert await _made(database_dsn) == {}
        assert await relinking.run("nowhere") == 0
    finally:
        await database.close()


async def test_the_linker_of_the_docs_links(services: Services, database_dsn: str) -> None:
    page = (Path(__file__).parent.parent / "docs" / "linkers.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    scope: dict[str, Any] = {}
    exec(example, scope)
    linker: Linker = scope["Tickets"]()
    await _store(services, {"key": "old", "content": "see ABC-123 and XY-9"})
    await _store(services, {"key": "ticket", "title": "ABC-123", "content": "It broke"})
    database = Database(database_dsn)
    await database.open()
    try:
        await Relinking(database, Linking([linker])).run(NS)
    finally:
        await database.close()
    assert (await _made(database_dsn)).keys() == {("old", "about", "ticket")}
    writes = Writes({}, Surroundings({MemoryId(0): Known(MemoryKind.EPISODIC, frozenset({("abc", "123")}), None)}))
    assert writes.renamed == {("abc", "123")}


def test_linkers_have_names_of_their_own() -> None:
    names = [linker.name for linker in installed_linkers()]
    assert names[:4] == ["mention", "sequence", "entities", "similarity"]
    assert len(set(names)) == len(names)


def test_what_is_offered_as_a_linker_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for offered in (object, Mention):
        point = EntryPoint("x", "nowhere", "sfm_graph.linkers")
        monkeypatch.setattr(EntryPoint, "load", lambda _, offered=offered: offered)
        monkeypatch.setattr(linking, "entry_points", lambda group, point=point: [point])
        with pytest.raises(SettingsError):
            installed_linkers()


async def test_an_export_leaves_out_what_linkers_made(services: Services, database_dsn: str) -> None:
    await _store(services, {"key": "a", "content": "To Paris"}, {"key": "p", "title": "Paris", "content": "x"})
    await services.links.link(NS, {"key": "p"}, {"key": "a"}, {"type": "mine"})
    async with services.views.open() as view:
        lines = b"".join([chunk async for chunk in services.transfer.export(view, NS)])
    assert lines.count(b'"type":"link"') == 1
    assert b"mine" in lines

    async def chunks() -> AsyncIterator[bytes]:
        yield lines

    await services.transfer.import_ndjson(chunks(), "copy")
    rows = await _rows(database_dsn, "select l.type from links l join namespaces n on n.id = l.namespace_id "
                       "where n.name = 'copy' order by 1")  # fmt: skip
    assert rows == [("mentions",), ("mine",)]


def test_referents_have_one_spelling() -> None:
    text = "On 8 May 2023 (2023-05-08, May 8th), 3,000 or 3000.00 came; 2.50; 007; 10:30; 1.2.3; v3; A-4"
    assert referents_in(text) == {("=2023-05-08",), ("=0000-05-08",), ("=3000",), ("=2.5",), ("=8",), ("=2023",)}
    assert referents_of(["8 May 2023", "the 8th May", "12", "May", "Ada", "12 monkeys", "3 4"]) == {
        ("=2023-05-08",), ("=0000-05-08",), ("=12",),
    }  # fmt: skip
