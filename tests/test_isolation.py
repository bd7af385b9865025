"""Nothing of one namespace is seen or changed through another, by any face."""

from dataclasses import replace
from string import Template

import httpx
import psycopg
import pytest
from graphql_examples import FRAGMENTS, GRAPHQL
from rest_examples import EXAMPLES, Example, documented_routes, fill

from sfm_graph.domain.identity import Entity, MemoryRef, encode_global_id
from sfm_graph.domain.memory import Memory
from sfm_graph.services.registry import Services

MINE, OTHER = "mine", "other"
MY_WORD, OTHER_WORD = "alphaword", "bravoword"


@pytest.fixture
async def other_ids(services: Services) -> list[str]:
    """Two namespaces that differ in one word only; the ids of the other one's memories and links."""
    for namespace, word in ((MINE, MY_WORD), (OTHER, OTHER_WORD)):
        await fill(services, namespace, word)
    async with services.views.open() as view:
        refs = [MemoryRef(key=key) for key in "abc"]
        found = await services.memory_reads.find_many(view, OTHER, refs)
    return [one.global_id for one in found if isinstance(one, Memory)]


async def _everything(dsn: str, namespace: str) -> list[str]:
    """All rows that belong to a namespace, as text."""
    rows: list[str] = []
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for table in ("memories", "links", "embeddings", "words", "changes", "fading", "copies", "namespaces"):
            owner = "id" if table == "namespaces" else "namespace_id"
            owned = f"{owner} = (select id from namespaces where name = %s)"
            cursor = await connection.execute(f"select t::text from {table} t where {owned} order by 1", (namespace,))  # type: ignore[arg-type]
            rows += [f"{table}: {row[0]}" for row in await cursor.fetchall()]
    return rows


async def test_every_route_has_an_example(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert documented_routes(document) == {one.route for one in EXAMPLES}


async def test_no_route_shows_or_changes_another_namespace(
    client: httpx.AsyncClient, other_ids: list[str], database_dsn: str
) -> None:
    before = await _everything(database_dsn, OTHER)
    for example in EXAMPLES:
        answer = await example.send(client, MINE)
        assert answer.status_code in (200, 201), (example.route, answer.text)
        assert (MY_WORD in answer.text) == example.shows, example.route
        assert OTHER_WORD not in answer.text, example.route
        assert not [one for one in other_ids if one in answer.text], example.route
        assert await _everything(database_dsn, OTHER) == before, example.route


async def test_every_graphql_field_has_an_example(client: httpx.AsyncClient) -> None:
    query = "{ __schema { queryType { fields { name } } mutationType { fields { name } } } }"
    schema = (await client.post("/graphql", json={"query": query})).json()["data"]["__schema"]
    fields = {one["name"] for kind in schema.values() for one in kind["fields"]}
    assert fields == GRAPHQL.keys()


async def test_no_graphql_field_shows_or_changes_another_namespace(
    client: httpx.AsyncClient, other_ids: list[str], database_dsn: str
) -> None:
    before = await _everything(database_dsn, OTHER)
    near = await client.get("/neighbors", params={"coord": "key:b", "namespace": MINE})
    # The link from b to c, and c.
    found = near.json()["neighbors"][1]
    ids = {"ID": found["memory"]["id"], "LINK": found["link"]["id"]}
    shown = []
    for field, text in GRAPHQL.items():
        fragments = "".join(fragment for spread, fragment in FRAGMENTS.items() if spread in text)
        query = Template(fragments + text).substitute(ids, NS=f'"{MINE}"', SOURCE=f'"{MINE}/source"')
        answer = await client.post("/graphql", json={"query": query})
        assert "errors" not in answer.json(), (field, answer.text)
        shown += [field] if MY_WORD in answer.text else []
        assert OTHER_WORD not in answer.text, field
        assert not [one for one in other_ids if one in answer.text], field
        assert await _everything(database_dsn, OTHER) == before, field
    reads = {"memory", "memories", "recall", "traverse", "neighbors", "shortestPath", "paths", "rank"}
    assert reads | {"node", "nodes"} <= {*shown}


async def test_ids_of_another_namespace_name_nothing(
    client: httpx.AsyncClient, other_ids: list[str], database_dsn: str
) -> None:
    before = await _everything(database_dsn, OTHER)
    pointed = [pointing for one in EXAMPLES if (pointing := _pointed(one, other_ids[0])) is not None]
    assert len(pointed) >= 10
    for example in pointed:
        answer = await example.send(client, MINE)
        assert (answer.status_code, answer.json()["code"]) == (404, "memory_not_found"), example.route
        assert OTHER_WORD not in answer.text, example.route
    assert await _everything(database_dsn, OTHER) == before


async def test_a_link_id_of_another_namespace_names_nothing(
    client: httpx.AsyncClient, services: Services, other_ids: list[str], database_dsn: str
) -> None:
    before = await _everything(database_dsn, OTHER)
    for row in range(1, 5):
        answer = await client.delete(
            "/link", params={"id": encode_global_id(Entity.LINK, OTHER, row), "namespace": MINE}
        )
        assert (answer.status_code, answer.json()["code"]) == (404, "link_not_found")
    assert await _everything(database_dsn, OTHER) == before


async def test_cursors_of_another_namespace_are_refused(client: httpx.AsyncClient, other_ids: list[str]) -> None:
    for path, query in (("/memories", {}), ("/range", {"min": "0,0,0", "max": "9,9,9"})):
        page = await client.get(path, params={**query, "namespace": OTHER, "first": "1"})
        answer = await client.get(path, params={**query, "namespace": MINE, "after": page.json()["next"]})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")


def _pointed(example: Example, global_id: str) -> Example | None:
    """The example with its first reference replaced by an id; None when it has no reference."""
    if "{coordinate}" in example.path:
        return replace(example, url=example.path.replace("{coordinate}", f"id:{global_id}"))
    for name in ("coord", "frm", "from_coord", "seed", "start"):
        if name in example.query:
            return replace(example, query={**example.query, name: f"id:{global_id}"})
    body = example.body or {}
    for name in ("from_coord", "coord", "around", "prediction", "into"):
        if name in body:
            return replace(example, body={**body, name: {"id": global_id}})
    if "coords" in body:
        return replace(example, body={**body, "coords": [{"id": global_id}]})
    return None
