"""Copies between namespaces: provenance, following, conflicts, revocation."""

from typing import Any

import httpx
import pytest

from sfm_graph.domain.access import Grant, Principal, Reach, Scope
from sfm_graph.domain.copying import Copy
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.inputs import link_patch
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.errors import ContentRefused, Forbidden, InvalidInput, NamespaceNotFound, NotFound, TooLarge
from sfm_graph.services.access.guard import Caller, acting
from sfm_graph.services.access.policy import ScopesByNamespace
from sfm_graph.services.copying import batches
from sfm_graph.services.registry import Services

FROM, TO = "lab", "team"


async def _stored(services: Services, namespace: str = FROM) -> None:
    """a -> b -> c, and d by itself."""
    items = [
        {"key": key, "content": f"about {key}", "coordinate": [place, 0.0], "payload": {"n": place}, "agent": "scout"}
        for place, key in enumerate("abcd")
    ]
    await services.memory_writes.store_many(namespace, items)
    for source, target in ("ab", "bc"):
        await services.links.link(namespace, {"key": source}, {"key": target}, {"type": "next", "weight": 2})


async def _memories(services: Services, namespace: str = TO) -> dict[str | None, Memory]:
    refs = [MemoryRef(key=key) for key in ("a", "b", "c", "d", "copy:1:a", "copy:1:b")]
    async with services.views.open() as view:
        found = await services.memory_reads.find_many(view, namespace, refs)
    return {one.key: one for one in found if one is not None}


async def _links(services: Services, namespace: str = TO) -> list[tuple[str | None, str | None, float]]:
    found = await _memories(services, namespace)
    names = {one.id: one.key for one in found.values()}
    async with services.views.open() as view:
        pages = await services.links.pages_of(view, namespace, list(names), WalkFilter(), 100, None)
    joined = {link.id: link for page in pages.values() for link in page.items}
    return sorted((names[one.source_id], names[one.target_id], one.weight) for one in joined.values())  # type: ignore[type-var]


async def _copied(services: Services, follow: bool = False, **given: Any) -> Copy:
    asked = given or {"start": [{"key": "a"}], "depth": 5}
    return await services.copies.copy(TO, FROM, asked, follow=follow)


async def _only(services: Services, namespace: str = TO) -> Copy:
    async with services.views.open() as view:
        (one,) = (await services.copies.list(view, namespace, first=10, after=None)).items
    return one


async def test_a_subgraph_is_copied_with_its_links_and_says_where_it_comes_from(services: Services) -> None:
    await _stored(services)
    made = await _copied(services)
    assert (made.source, made.follows, made.memories, made.created_by) == (FROM, False, 3, "local")
    copied, source = await _memories(services), await _memories(services, FROM)
    assert copied.keys() == {"a", "b", "c"}
    assert copied["a"].payload == {"n": 0}
    assert copied["a"].coordinate == (0.0, 0.0)
    assert copied["a"].agent == "scout"
    assert await _links(services) == [("a", "b", 2.0), ("b", "c", 2.0)]
    async with services.views.open() as view:
        told = await services.copies.provenance(view, TO, [one.id for one in copied.values()])
        none = await services.copies.provenance(view, FROM, [source["a"].id])
    assert told[copied["a"].id].global_id == source["a"].global_id
    assert {one.version for one in told.values()} == {1}
    assert {one.copy_id for one in told.values()} == {made.id}
    assert none == {}


async def test_a_filter_chooses_and_names_that_are_taken_are_changed(services: Services) -> None:
    await _stored(services)
    await services.memory_writes.store(TO, {"key": "a", "content": "mine", "coordinate": [9.0]})
    await services.memory_writes.store(TO, {"key": "x", "content": "mine", "coordinate": [1.0, 0.0]})
    made = await _copied(services, where={"key": {"in": ["a", "b"]}})
    found = await _memories(services)
    assert found["a"].content == "mine"
    assert found[f"copy:{made.id}:a"].content == "about a"
    assert found["b"].coordinate != (1.0, 0.0)
    assert await _links(services) == [(f"copy:{made.id}:a", "b", 2.0)]
    # Again: a copy of its own.
    again = await _copied(services, where={"key": {"eq": "b"}})
    assert again.id != made.id


async def test_a_copy_that_follows_is_kept_in_step(services: Services) -> None:
    await _stored(services)
    await _copied(services, follow=True)
    assert await services.following.round() == 0
    await services.memory_writes.update(FROM, MemoryRef(key="a"), {"content": "new", "title": "t", "importance": 4})
    await services.memory_writes.forget_many(FROM, [MemoryRef(key="c")])
    await services.links.link(FROM, {"key": "b"}, {"key": "a"}, {"type": "back"})
    await services.links.link(FROM, {"key": "a"}, {"key": "d"}, {"type": "out"})
    await services.links.link(FROM, {"key": "a"}, {"key": "b"}, {"type": "next", "weight": 7})
    assert await services.following.round() == 1
    found = await _memories(services)
    assert found.keys() == {"a", "b"}
    assert (found["a"].content, found["a"].title, found["a"].importance) == ("new", "t", 4.0)
    assert await _links(services) == [("a", "b", 7.0), ("b", "a", 1.0)]
    await services.links.unlink_between(FROM, MemoryRef(key="a"), MemoryRef(key="b"), None)
    assert await services.following.round() == 1
    assert await _links(services) == [("b", "a", 1.0)]
    assert await services.following.round() == 0
    one = await _only(services)
    assert (one.error, one.memories, one.follows) == (None, 2, True)
    async with services.views.open() as view:
        told = await services.copies.provenance(view, TO, [found["a"].id])
    assert told[found["a"].id].version == 2


async def test_what_others_changed_here_is_left_alone_and_said(services: Services) -> None:
    await _stored(services)
    await _copied(services, follow=True)
    await services.memory_writes.update(TO, MemoryRef(key="a"), {"content": "ours"})
    await services.memory_writes.forget_many(TO, [MemoryRef(key="c")])
    (link,) = [one for one in (await _link_rows(services)) if one.weight == 2.0][:1]
    await services.links.update_many(TO, [link_patch(link.id, {"weight": 5})])
    for key in "abc":
        await services.memory_writes.update(FROM, MemoryRef(key=key), {"content": f"theirs {key}"})
    await services.links.link(FROM, {"key": "a"}, {"key": "b"}, {"type": "next", "weight": 9})
    await services.following.round()
    found = await _memories(services)
    assert {key: one.content for key, one in found.items()} == {"a": "ours", "b": "theirs b"}
    assert await _links(services) == [("a", "b", 5.0)]
    error = (await _only(services)).error or ""
    assert f"memory a: it was changed in {TO!r}" in error
    assert f"link {link.global_id}: it was changed in" in error
    assert await services.following.round() == 0
    # Neither is it forgotten with its source.
    await services.memory_writes.forget_many(FROM, [MemoryRef(key="a")])
    await services.following.round()
    assert "a" in await _memories(services)


async def _link_rows(services: Services) -> list[Any]:
    found = await _memories(services)
    async with services.views.open() as view:
        pages = await services.links.pages_of(view, TO, [found["a"].id], WalkFilter(), 100, None)
    return [link for page in pages.values() for link in page.items]


async def test_links_of_a_functional_type_are_followed(services: Services) -> None:
    await _stored(services)
    await services.namespaces.put(TO, settings={"functional_types": ["works_at"]}, model=None)
    await services.links.link(FROM, {"key": "a"}, {"key": "b"}, {"type": "works_at"})
    await _copied(services, follow=True)
    # One that cannot be made comes first; the other one begins now over there.
    await services.memory_writes.forget_many(TO, [MemoryRef(key="b")])
    await services.links.link(FROM, {"key": "a"}, {"key": "b"}, {"type": "works_at", "weight": 3})
    await services.links.link(FROM, {"key": "b"}, {"key": "c"}, {"type": "works_at"})
    await services.links.link(FROM, {"key": "a"}, {"key": "c"}, {"type": "works_at", "weight": 5})
    assert await services.following.round() == 1
    assert ("a", "c", 5.0) in await _links(services)
    await services.links.link(FROM, {"key": "a"}, {"key": "c"}, {"type": "works_at", "weight": 6})
    assert await services.following.round() == 1
    assert ("a", "c", 6.0) in await _links(services)


async def test_a_copy_that_cannot_be_followed_stops_no_other(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _stored(services)
    broken = await _copied(services, follow=True)
    await services.copies.copy("other", FROM, {"start": [{"key": "a"}]}, follow=True)
    compared = services.following._compared

    async def failing(view: Any, one: Copy) -> Any:
        if one.id == broken.id:
            raise KeyError(one.id)
        return await compared(view, one)

    with monkeypatch.context() as patch:
        patch.setattr(services.following, "_compared", failing)
        await services.memory_writes.update(FROM, MemoryRef(key="a"), {"content": "new"})
        assert await services.following.round() == 2
    assert (await _memories(services, "other"))["a"].content == "new"
    assert "KeyError" in ((await _only(services)).error or "")
    # It waits before it is tried again.
    assert await services.following.round() == 0
    services.following._retries.clear()
    assert await services.following.round() == 1
    assert (await _memories(services))["a"].content == "new"


async def test_much_is_copied_and_followed_piece_by_piece_up_to_a_bound(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _stored(services)
    monkeypatch.setattr(batches, "BATCH_BYTES", 20)
    made = await _copied(services, where={"key": {"in": ["a", "b", "c"]}}, follow=True)
    assert (made.memories, await _links(services)) == (3, [("a", "b", 2.0), ("b", "c", 2.0)])
    for key in "abc":
        await services.memory_writes.update(FROM, MemoryRef(key=key), {"content": f"new {key}"})
    assert await services.following.round() == 1
    assert {one.content for one in (await _memories(services)).values()} == {"new a", "new b", "new c"}
    monkeypatch.setattr(batches, "MAX_BYTES", 30)
    with pytest.raises(TooLarge):
        await _copied(services, where={"key": {"in": ["a", "b", "c"]}})
    assert list(batches.batches("abcd", [5, 15, 30, 1])) == [["a", "b"], ["c"], ["d"]]


async def test_two_processes_that_follow_do_each_step_once(services: Services) -> None:
    await _stored(services)
    await _copied(services, follow=True)
    async with services.views.open() as view:
        before = (await services.copies.list(view, TO, first=1, after=None)).items[0]
    await services.memory_writes.update(FROM, MemoryRef(key="a"), {"content": "new"})
    await services.following.round()
    # The other one has read the same place, and comes later.
    await services.following._follow(before)
    found = await _memories(services)
    assert (found["a"].content, found["a"].version) == ("new", 2)
    assert (await _only(services)).error is None


async def test_a_copy_whose_changes_are_no_longer_kept_compares_everything(
    services: Services, database_dsn: str
) -> None:
    import psycopg

    await _stored(services)
    await _copied(services, follow=True)
    await services.memory_writes.update(FROM, MemoryRef(key="a"), {"content": "new"})
    await services.memory_writes.forget_many(FROM, [MemoryRef(key="b")])
    async with await psycopg.AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute("delete from changes")
        await connection.execute("update change_log set pruned_xid = pg_snapshot_xmax(pg_current_snapshot())")
    await services.memory_writes.update(FROM, MemoryRef(key="d"), {"content": "wakes the follower"})
    await services.following.round()
    found = await _memories(services)
    assert {key: one.content for key, one in found.items()} == {"a": "new", "c": "about c"}


async def test_revoking_stops_and_forgets_if_asked(services: Services) -> None:
    await _stored(services)
    made = await _copied(services, follow=True)
    revoked = await services.copies.revoke(TO, made.id)
    assert revoked.revoked_at is not None
    await services.memory_writes.update(FROM, MemoryRef(key="a"), {"content": "new"})
    assert await services.following.round() == 0
    assert (await _memories(services))["a"].content == "about a"
    gone = await services.copies.revoke(TO, made.id, forget=True)
    assert (gone.memories, gone.revoked_at) == (0, revoked.revoked_at)
    assert await _memories(services) == {}
    with pytest.raises(NotFound):
        await services.copies.revoke(TO, made.id + 1)
    with pytest.raises(NotFound):
        await services.copies.revoke(FROM, made.id)


async def test_the_end_of_either_namespace_ends_the_copy(services: Services) -> None:
    await _stored(services)
    await _copied(services, follow=True)
    await services.namespaces.delete(FROM, confirm=FROM)
    assert await services.following.round() == 0
    one = await _only(services)
    assert (one.follows, one.source, one.error) == (False, None, "the source namespace was deleted")
    assert (await _memories(services)).keys() == {"a", "b", "c"}
    await _stored(services)
    await _copied(services, where={"key": {"eq": "d"}}, follow=True)
    await services.namespaces.delete(TO, confirm=TO)
    await services.memory_writes.update(FROM, MemoryRef(key="d"), {"content": "new"})
    assert await services.following.round() == 0
    async with services.views.open() as view:
        assert (await services.copies.list(view, TO, first=10, after=None)).items == ()


def _caller(*grants: tuple[str, Scope]) -> Caller:
    """A policy of its own: scopes by namespace."""

    class Exact(ScopesByNamespace):
        async def decide(self, principal: Principal, action: Any) -> Any:
            decision = await super().decide(principal, action)
            allowed = action.namespace is None or (action.namespace, action.scope) in grants
            return decision if allowed else type(decision)(False, "not here")

    names = tuple(sorted({name for name, _ in grants}))
    return Caller(Principal("key:1", Grant(frozenset(scope for _, scope in grants), Reach(names))), Exact())


async def test_a_copy_needs_to_read_the_one_and_to_write_the_other(services: Services) -> None:
    await _stored(services)
    for grants in ([(FROM, Scope.READ)], [(TO, Scope.WRITE)], [(FROM, Scope.WRITE), (TO, Scope.WRITE)]):
        with acting(_caller(*grants)), pytest.raises(Forbidden):
            await _copied(services)
    with acting(_caller((FROM, Scope.READ), (TO, Scope.WRITE))):
        assert (await _copied(services, start=[{"key": "d"}])).created_by == "key:1"


async def test_administrators_of_the_source_see_and_end_copies_from_it(
    client: httpx.AsyncClient, services: Services
) -> None:
    await _stored(services)
    made = await _copied(services, follow=True)
    await _copied(services, start=[{"key": "d"}])
    with acting(_caller((FROM, Scope.READ), (FROM, Scope.WRITE))):
        async with services.views.open() as view:
            with pytest.raises(Forbidden):
                await services.copies.list_out(view, FROM, first=1, after=None)
        with pytest.raises(Forbidden):
            await services.copies.withdraw(FROM, made.id)
    with acting(_caller((FROM, Scope.ADMIN))):
        async with services.views.open() as view:
            page = await services.copies.list_out(view, FROM, first=1, after=None)
            rest = await services.copies.list_out(view, FROM, first=5, after=page.cursors[-1])
        assert [(one.id, one.namespace, one.follows) for one in page.items] == [(made.id, TO, True)]
        assert len(rest.items) == 1
        ended = await services.copies.withdraw(FROM, made.id)
        with pytest.raises(NotFound):
            await services.copies.withdraw(FROM, made.id + 100)
        assert (await services.copies.withdraw(FROM, made.id)).revoked_at == ended.revoked_at
    assert (ended.follows, ended.memories) == (False, 3)
    with pytest.raises(NotFound):
        await services.copies.withdraw(TO, made.id)
    # The same on the faces.
    of = {"namespace": FROM, "outgoing": "true"}
    listed = (await client.get("/copies", params=of)).json()["copies"]
    assert [one["revoked_at"] is not None for one in listed] == [True, False]
    again = await client.delete(f"/copies/{made.id}", params=of)
    assert (again.status_code, again.json()["memories"]) == (200, 3)
    refused = await client.delete(f"/copies/{made.id}", params={**of, "forget": "true"})
    assert refused.status_code == 400
    document = """mutation($ns: String!, $id: ID!) {
      revokeCopy(input: {namespace: $ns, id: $id, outgoing: true}) { copy { namespace error } } }"""
    asked = {"query": document, "variables": {"ns": FROM, "id": str(made.id)}}
    told = (await client.post("/graphql", json=asked)).json()
    assert told["data"]["revokeCopy"]["copy"] == {"namespace": TO, "error": "it was ended from the source namespace"}
    query = "query($ns: String!) { copies(namespace: $ns, outgoing: true) { edges { node { id } } } }"
    found = (await client.post("/graphql", json={"query": query, "variables": {"ns": FROM}})).json()
    assert len(found["data"]["copies"]["edges"]) == 2


async def test_a_reader_is_not_told_of_a_source_out_of_reach(services: Services) -> None:
    await _stored(services)
    await _copied(services)
    found = await _memories(services)
    with acting(_caller((TO, Scope.READ))):
        one = await _only(services)
        async with services.views.open() as view:
            told = await services.copies.provenance(view, TO, [found["a"].id])
    assert (one.source, one.selection) == (None, {})
    assert told[found["a"].id].global_id is None


async def test_a_key_that_is_revoked_no_longer_brings_anything_over(services: Services) -> None:
    await _stored(services)
    key = await services.keys.create("copier", scopes=["read", "write"], namespaces=[FROM, TO])
    principal = Principal(f"key:{key.key.id}", key.key.grant)
    with acting(Caller(principal, ScopesByNamespace())):
        await _copied(services, follow=True)
    await services.memory_writes.update(FROM, MemoryRef(key="a"), {"content": "one"})
    await services.following.round()
    assert (await _memories(services))["a"].content == "one"
    await services.keys.revoke(str(key.key.id))
    await services.memory_writes.update(FROM, MemoryRef(key="a"), {"content": "two"})
    await services.following.round()
    assert (await _memories(services))["a"].content == "one"
    one = await _only(services)
    assert one.revoked_at is not None
    assert "revoked" in (one.error or "")


async def test_a_copy_that_is_refused_leaves_nothing(services: Services) -> None:
    await _stored(services)
    await services.memory_writes.update(FROM, MemoryRef(key="b"), {"content": "ask bob@example.com"})
    await services.namespaces.put(TO, settings={"content_policy": {"patterns": {"email": "refuse"}}}, model=None)
    with pytest.raises(ContentRefused):
        await _copied(services, follow=True)
    async with services.views.open() as view:
        assert (await services.copies.list(view, TO, first=10, after=None)).items == ()
    assert await _memories(services) == {}
    # What comes later and is refused is said; the rest is carried over.
    await services.memory_writes.update(FROM, MemoryRef(key="b"), {"content": "ask bob"})
    await _copied(services, follow=True)
    await services.memory_writes.update(FROM, MemoryRef(key="b"), {"content": "ask eve@example.com"})
    await services.memory_writes.update(FROM, MemoryRef(key="a"), {"content": "new"})
    await services.following.round()
    found = await _memories(services)
    assert (found["a"].content, found["b"].content) == ("new", "ask bob")
    assert "email" in ((await _only(services)).error or "")


WRONG_SELECTIONS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({}, InvalidInput), ({"start": []}, InvalidInput), ({"start": [{"key": "a"}], "where": {}}, InvalidInput),
    ({"start": [{"key": "a"}], "depth": 99}, InvalidInput), ({"nonsense": 1}, InvalidInput),
    ({"start": [{"key": "nobody"}]}, NotFound), ({"where": {"kind": {"eq": "episodic"}}, "limit": 2}, TooLarge),
    ({"start": [{"key": "a"}], "depth": 3, "limit": 2}, TooLarge),
]  # fmt: skip


async def test_wrong_selections_are_refused(services: Services) -> None:
    await _stored(services)
    for given, error in WRONG_SELECTIONS:
        with pytest.raises(error):
            await services.copies.copy(TO, FROM, given)


async def test_wrong_namespaces_are_refused(services: Services) -> None:
    await _stored(services)
    with pytest.raises(NamespaceNotFound):
        await services.copies.copy(TO, "nowhere", {"where": {}})
    with pytest.raises(InvalidInput):
        await services.copies.copy(FROM, FROM, {"where": {}})


async def test_the_faces_copy_list_and_revoke(client: httpx.AsyncClient, services: Services) -> None:
    await _stored(services)
    body = {"namespace": TO, "source": FROM, "start": [{"key": "a"}], "depth": 5, "follow": True}
    made = await client.post("/copies", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["memories"] == 3
    listed = (await client.get("/copies", params={"namespace": TO})).json()
    assert [one["id"] for one in listed["copies"]] == [made.json()["id"]]
    document = """query($ns: String!) {
      memory(namespace: $ns, ref: {key: "a"}) { provenance { namespace id version copyId copiedAt } }
      copies(namespace: $ns) { edges { node { id source follows memories error } } } }"""
    answer = (await client.post("/graphql", json={"query": document, "variables": {"ns": TO}})).json()
    assert "errors" not in answer, answer
    assert answer["data"]["memory"]["provenance"]["namespace"] == FROM
    assert answer["data"]["copies"]["edges"][0]["node"]["follows"] is True
    gone = await client.delete(f"/copies/{made.json()['id']}", params={"namespace": TO, "forget": "true"})
    assert (gone.status_code, gone.json()["memories"]) == (200, 0)
    mutation = """mutation($ns: String!, $from: String!) {
      copyMemories(input: {namespace: $ns, source: $from, where: {key: {eq: "b"}}}) { copy { id memories } } }"""
    answer = (await client.post("/graphql", json={"query": mutation, "variables": {"ns": TO, "from": FROM}})).json()
    assert answer["data"]["copyMemories"]["copy"]["memories"] == 1
    revoke = """mutation($ns: String!, $id: ID!) {
      revokeCopy(input: {namespace: $ns, id: $id, forget: true}) { copy { revokedAt memories } } }"""
    variables = {"ns": TO, "id": answer["data"]["copyMemories"]["copy"]["id"]}
    answer = (await client.post("/graphql", json={"query": revoke, "variables": variables})).json()
    assert answer["data"]["revokeCopy"]["copy"]["memories"] == 0


async def test_what_the_target_changed_stays_when_a_copy_is_revoked(services: Services) -> None:
    await _stored(services)
    made = await _copied(services)
    await services.memory_writes.store(TO, {"key": "b", "content": "our own words"})
    left = await services.copies.revoke(TO, made.id, forget=True)
    assert left.memories == 1
    kept = await _memories(services)
    assert {key: one.content for key, one in kept.items()} == {"b": "our own words"}
