"""Every part of recall, asked through GraphQL, REST and Python."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import SecretStr

from sfm_graph import AsyncMemorySystem, MemoryMode
from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.domain.recall import Recall, RecallQuery
from sfm_graph.domain.recall_inputs import DENSE_ONLY, WEIGHT_NAMES, recall_weights
from sfm_graph.errors import Conflict, RerankerUnavailable, SfmError
from sfm_graph.ports.reranker import Reranker
from sfm_graph.runtime import compose
from sfm_graph.services.embedders import Embedders
from sfm_graph.services.registry import Services
from sfm_graph.services.whole_graph import WholeGraph
from sfm_graph.settings import Settings
from sfm_graph.store.database import Database

NS = "default"
Json = dict[str, Any]

QUERY = """
query ($query: String!, $first: Int!, $weights: RecallWeights, $near: MemoryRef, $expand: Int!, $diversity: Float!,
       $fold: Boolean!, $rerank: Boolean!, $where: MemoryWhere, $namespace: String!) {
  recall(query: $query, first: $first, weights: $weights, near: $near, expand: $expand, diversity: $diversity,
         fold: $fold, rerank: $rerank, where: $where, namespace: $namespace) {
    hot reranked
    edges { score expanded duplicates node { key id }
      explanation {
        legs { leg contribution rawScore weight rank }
        path { nodes { key } links { id type } name share } } } } }
"""


class Refused(Exception):
    """A face refused; its code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Shown:
    """A hit as every face shows it. `path`: the seed's key, whether a link, the shared name."""

    key: str
    score: float
    legs: Mapping[str, float]
    path: tuple[str, bool, str | None] | None
    duplicates: int
    expanded: bool


class Face(ABC):
    @abstractmethod
    async def ask(self, query: str, /, **options: Any) -> list[Shown]:
        """The hits; raises Refused. Options as of Python."""


class Graphql(Face):
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, query: str, /, **options: Any) -> list[Shown]:
        variables = {
            "query": query, "first": options.pop("top_k", 10), "expand": 0, "diversity": 0.0, "fold": False,
            "rerank": True, "namespace": NS, **options,
        }  # fmt: skip
        if filters := variables.pop("filters", None):
            variables["where"] = {"payload": [{"path": [name], "eq": value} for name, value in filters.items()]}
        if isinstance(given := variables.get("weights"), dict):
            variables["weights"] = {_camel(name): value for name, value in given.items()}
        answer = (await self._client.post("/graphql", json={"query": QUERY, "variables": variables})).json()
        if "errors" in answer:
            raise Refused(answer["errors"][0]["extensions"]["code"])
        shown = []
        for edge in answer["data"]["recall"]["edges"]:
            path = edge["explanation"]["path"]
            legs = {leg["leg"].lower(): leg["contribution"] for leg in edge["explanation"]["legs"]}
            carrier = None
            if path:
                assert path["nodes"][1]["key"] == edge["node"]["key"]
                carrier = (path["nodes"][0]["key"], bool(path["links"]), path["name"])
            shown.append(
                Shown(edge["node"]["key"], edge["score"], legs, carrier, len(edge["duplicates"]), edge["expanded"])
            )
        return shown


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.title, rest))


class Rest(Face):
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, query: str, /, **options: Any) -> list[Shown]:
        body = {"query": query, "top_k": 10, "namespace": NS, **options}
        answer = await self._client.post("/recall_with_scores", json=body)
        if answer.status_code != 200:
            raise Refused(answer.json()["code"])
        return _of_json(answer.json()["results"])


class Python(Face):
    def __init__(self, memory: AsyncMemorySystem) -> None:
        self._memory = memory

    async def ask(self, query: str, /, **options: Any) -> list[Shown]:
        try:
            return _of_json(await self._memory.recall_with_scores(query, options.pop("top_k", 10), **options))
        except SfmError as error:
            raise Refused(error.code) from error


def _of_json(results: Sequence[Json]) -> list[Shown]:
    ids = {one["memory"]["id"]: one["memory"]["key"] for one in results}
    return [
        Shown(
            one["memory"]["key"],
            one["score"],
            {leg["leg"]: leg["contribution"] for leg in one["legs"]},
            one["path"] and (ids.get(one["path"]["from"], "?"), one["path"]["link"] is not None, one["path"]["name"]),
            len(one["duplicates"]),
            one["expanded"],
        )
        for one in results
    ]


@pytest.fixture(params=["graphql", "rest", "python"])
async def face(request: pytest.FixtureRequest, client: httpx.AsyncClient, database_dsn: str) -> AsyncIterator[Face]:
    if request.param != "python":
        yield Graphql(client) if request.param == "graphql" else Rest(client)
        return
    async with AsyncMemorySystem(MemoryMode.TEST, NS, postgres_url=SecretStr(database_dsn)) as memory:
        yield Python(memory)


@asynccontextmanager
async def _composed(
    settings: Settings, dsn: str, reranker: Reranker | None = None, **changes: Any
) -> AsyncIterator[Services]:
    database = Database(dsn, role="sfm_service")
    await database.open()
    changed = settings.model_copy(update=changes)
    yield compose(changed, database, Embedders(HashingEmbedder()), WholeGraph(), reranker=reranker)
    await database.close()


async def _recall(services: Services, text: str, namespace: str = NS, /, **options: Any) -> Recall:
    options = {"first": 10, **options}
    async with services.views.open() as view:
        return await services.recalls.recall(view, namespace, RecallQuery(text, **options))


async def _store(services: Services, *items: Mapping[str, Any], namespace: str = NS) -> None:
    await services.memory_writes.store_many(namespace, items)


STORIES = (
    {"key": "minaj", "title": "Nicki Minaj", "content": "a rapper from a southern island"},
    {"key": "song", "content": "the hit single of that summer was recorded with Nicki Minaj"},
    {"key": "film", "title": "Été (film)", "content": "a quiet drama", "payload": {"aliases": ["Summer Light"]}},
    {
        "key": "chat1", "content": "we should buy a tent",
        "payload": {"session": "s", "position": 1, "speaker": "Zoë Moor", "date": "8 May, 2023"},
    },
    {
        "key": "chat2", "content": "yes and a stove",
        "payload": {"session": "s", "position": 2, "speaker": "Bob", "date": "9 May, 2023"},
    },
    {"key": "hop1", "content": "the harbour master wrote to Grace Fell"},
    {"key": "hop2", "content": "nothing was heard again of Grace Fell after winter"},
    *({"key": f"filler{i}", "content": f"entirely other matter number {i}"} for i in range(12)),
)  # fmt: skip


def _legs_of(found: Sequence[Shown], key: str) -> Mapping[str, float]:
    return next((one.legs for one in found if one.key == key), {})


async def test_each_part_is_explained_and_sums_up(services: Services, face: Face) -> None:
    await _store(services, *STORIES)
    for query in ("Nicki Minaj single", "Zoë Moor on 8 May 2023", "who was the harbour master", "été", "tent"):
        found = await face.ask(query, top_k=20)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        for one in found:
            assert 0 <= one.score <= 1
            assert sum(one.legs.values()) == pytest.approx(one.score, abs=1e-9)
            assert (one.path is not None) == ("graph" in one.legs)


async def test_a_said_name_or_alias_counts(services: Services, face: Face) -> None:
    await _store(services, *STORIES)
    for query, key in (("who is NICKI MINAJ?", "minaj"), ("about ete", "film"), ("the summer light", "film")):
        found = await face.ask(query)
        assert _legs_of(found, key)["name"] > 0
        assert [one.key for one in found if "name" in one.legs] == [key]
        assert not any("name" in one.legs for one in await face.ask(query, weights={"name": 0}))
    assert not any("name" in one.legs for one in await face.ask("nicki and minaj"))


async def test_a_query_of_a_name_alone_finds_its_memory(services: Services, face: Face) -> None:
    await _store(services, *STORIES)
    assert (await face.ask("Nicki Minaj"))[0].key == "minaj"
    assert (await face.ask("Summer Light"))[0].key == "film"


async def test_a_said_author_or_date_counts(services: Services, face: Face) -> None:
    await _store(services, *STORIES)
    found = await face.ask("what did zoe moor say about the stove in May 2023")
    assert (_legs_of(found, "chat1")["author"], "author" in _legs_of(found, "chat2")) == (
        pytest.approx(_legs_of(found, "chat1")["date"] / 2), False,
    )  # fmt: skip
    assert {one.key for one in found if "date" in one.legs} == {"chat1", "chat2"}
    found = await face.ask("tent or stove on 2023-05-09")
    assert [one.key for one in found if "date" in one.legs] == ["chat2"]
    off = await face.ask("zoe moor on 8 May 2023", weights={"author": 0, "date": 0})
    assert not any({"author", "date"} & one.legs.keys() for one in off)


async def test_windows_count_and_can_be_turned_off(services: Services, face: Face) -> None:
    await _store(services, *STORIES)
    found = await face.ask("tent", top_k=20)
    assert _legs_of(found, "chat2")["lexical_window"] > 0
    assert _legs_of(found, "chat2")["lexical"] == 0
    off = await face.ask("tent", top_k=20, weights={"window": 0})
    assert not any({"lexical_window", "dense_window"} & one.legs.keys() for one in off)


async def test_a_link_pulls_its_target_and_says_so(services: Services, face: Face) -> None:
    await _store(services, *STORIES)
    query, quiet = "the hit single of summer", {"name": 0, "importance": 0}
    found = await face.ask(query, weights=quiet, top_k=20)
    pulled = next(one for one in found if one.key == "minaj")
    assert pulled.path == ("song", True, "nicki minaj")
    seed = next(one for one in found if one.key == "song")
    assert pulled.legs["graph"] > 0
    assert pulled.score < seed.score
    for weights in ({"link": 0}, {"link_types": {"mentions": 0}}):
        (path,) = [one.path for one in await face.ask(query, weights=quiet | weights, top_k=20) if one.key == "minaj"]
        assert path == ("song", False, "nicki minaj")
    found = await face.ask(query, weights=quiet | {"shared_name": 0}, top_k=20)
    assert next(one.path for one in found if one.key == "minaj") == ("song", True, None)
    off = await face.ask(query, weights=quiet | {"link": 0, "shared_name": 0}, top_k=20)
    assert not any(one.path or "graph" in one.legs for one in off)
    assert _legs_of(off, "minaj").get("graph", 0) == 0


async def test_a_shared_name_pulls_unless_the_query_says_it(services: Services, face: Face) -> None:
    await _store(services, *STORIES)
    found = await face.ask("the harbour master", top_k=20)
    assert next(one.path for one in found if one.key == "hop2") == ("hop1", False, "grace fell")
    found = await face.ask("the harbour master and Grace Fell", top_k=20)
    assert next(one.path for one in found if one.key == "hop2") is None


# These have tests of their own: above, and in test_superseded.py.
OF_THEIR_OWN = {"link", "link_types", "shared_name", "superseded"}


@pytest.mark.parametrize("weight", sorted(set(WEIGHT_NAMES) - OF_THEIR_OWN))
async def test_a_weight_of_0_turns_its_part_off(services: Services, face: Face, weight: str) -> None:
    await _store(services, *STORIES)
    legs = {
        "dense": {"dense", "dense_window"}, "lexical": {"lexical", "lexical_window"},
        "window": {"dense_window", "lexical_window"},
    }  # fmt: skip
    options: Json = {"near": {"key": "minaj"}, "top_k": 20}
    query = "Nicki Minaj and Zoë Moor bought a tent on 8 May 2023"
    if weight in ("recency", "product"):
        on = await face.ask(query, weights={weight: 1}, **options)
    else:
        on = await face.ask(query, **options)
    assert any(legs.get(weight, {weight}) & one.legs.keys() for one in on)
    off = await face.ask(query, weights={weight: 0}, **options)
    assert off
    assert not any(legs.get(weight, {weight}) & one.legs.keys() for one in off)


BAD: tuple[Json, ...] = (
    {"weights": {"dense": -1}},
    {"weights": {"name": 101}},
    {"weights": {"window": 1.1}},
    {"weights": {"shared_name": 2}},
    {"weights": {"superseded": 1.1}},
    {"weights": {"product": -1}},
    {"weights": {"dense": 0, "lexical": 0}},
    {"weights": {"link_types": {"": 1}}},
    {"weights": {"link_types": {"a": -1}}},
    {"weights": {"link_types": {"a": "x"}}},
    {"weights": {"link_types": [1]}},
    {"expand": 21},
    {"expand": -1},
    {"diversity": 1.01},
    {"diversity": -0.1},
    {"near": {}},
    {"near": {"key": "a", "id": "b"}},
)  # fmt: skip


@pytest.mark.parametrize("options", BAD, ids=str)
async def test_wrong_options_are_refused(services: Services, face: Face, options: Json) -> None:
    await _store(services, *STORIES)
    with pytest.raises(Refused) as refused:
        await face.ask("tent", **options)
    assert refused.value.code in ("invalid_input", "graphql_invalid")


@pytest.mark.parametrize(
    "options",
    [{"weights": []}, {"weights": ""}, {"weights": False}, {"weights": {"sharedName": 1}},
     {"weights": {"name": True}},
     {"expand": ""}, {"expand": False}, {"expand": []}, {"diversity": ""}, {"diversity": False}, {"fold": "yes"},
     {"rerank": 1}, {"near": ""}, {"near": 7}, {"weights": {"link_types": {"a": None}}}],
    ids=str,
)  # fmt: skip
async def test_rest_refuses_values_of_another_type(client: httpx.AsyncClient, options: Json) -> None:
    await client.post("/remember", json={"content": "x"})
    answer = await client.post("/recall_with_scores", json={"query": "x", **options})
    assert (answer.status_code, answer.json()["code"]) in ((400, "invalid_input"), (400, "invalid_coordinate"))


async def test_nearness_counts(services: Services, face: Face) -> None:
    await _store(
        services,
        {"key": "a", "content": "same words here", "coordinate": [0, 0]},
        {"key": "b", "content": "same words here", "coordinate": [0, 4]},
        {"key": "c", "content": "same words here", "coordinate": [9, 9, 9]},
        {"key": "d", "content": "same words here", "coordinate": [100, 100]},
    )
    await services.links.link(NS, {"key": "c"}, {"key": "d"}, {"type": "knows"})
    assert [one.key for one in await face.ask("same words")] == ["a", "b", "c", "d"]
    found = await face.ask("same words", near={"key": "d"})
    assert [one.key for one in found] == ["d", "c", "a", "b"] or [one.key for one in found] == ["d", "c", "b", "a"]
    assert found[0].legs["near"] == pytest.approx(2 * found[1].legs["near"])
    found = await face.ask("same words", near={"coordinate": [0, 4]})
    assert [one.key for one in found][:2] == ["b", "a"]
    assert found[1].legs["near"] == pytest.approx(found[0].legs["near"] / 5)
    assert "near" not in _legs_of(found, "c")
    assert (await face.ask("same words", near={"coordinate": [3, 3]}))[0].key == "b"
    assert [one.key for one in await face.ask("same words", near={"key": "d"}, weights={"near": 0})] == list("abcd")
    with pytest.raises(Refused) as refused:
        await face.ask("same words", near={"key": "nobody"})
    assert refused.value.code == "memory_not_found"


async def test_linked_memories_come_along(services: Services, face: Face) -> None:
    await _store(services, *STORIES, {"key": "gone", "content": "zzz", "valid_to": "2020-01-01"})
    for target, weight in (("filler3", 0.5), ("filler7", 2), ("gone", 0), ("filler9", 1)):
        await services.links.link(NS, {"key": "film"}, {"key": target}, {"type": "about", "weight": weight})
    quiet = {"link": 0, "shared_name": 0}
    plain = await face.ask("quiet drama", top_k=1, weights=quiet)
    assert [one.key for one in plain] == ["film"]
    found = await face.ask("quiet drama", top_k=1, expand=2, weights=quiet)
    assert [(one.key, one.expanded) for one in found] == [("film", False), ("filler3", True), ("filler9", True)]
    assert found[1].path == ("film", True, None)
    assert found[1].score == pytest.approx(found[0].score / 1.5)
    assert len(await face.ask("quiet drama", top_k=1, expand=20, weights=quiet)) == 4
    kept = await face.ask("quiet drama", top_k=1, expand=20, weights=quiet, filters={"no": "such"})
    assert kept == []


async def test_near_duplicates_are_folded(services: Services, face: Face) -> None:
    texts = ["the cat sat on the mat"] * 3 + ["a dog ran to the cat", "birds sing"]
    await _store(services, *({"key": f"k{i}", "content": text} for i, text in enumerate(texts)))
    plain = await face.ask("the cat sat", top_k=3)
    assert [one.key for one in plain] == ["k0", "k1", "k2"]
    found = await face.ask("the cat sat", top_k=3, fold=True)
    assert [(one.key, one.duplicates) for one in found] == [("k0", 2), ("k3", 0), ("k4", 0)]


async def test_likeness_to_better_hits_costs(services: Services, face: Face) -> None:
    texts = ["the cat sat on the mat"] * 3 + ["a dog ran to the cat", "birds sing"]
    await _store(services, *({"key": f"k{i}", "content": text} for i, text in enumerate(texts)))
    assert [one.key for one in await face.ask("the cat sat", top_k=5, diversity=0.0)][:3] == ["k0", "k1", "k2"]
    found = [one.key for one in await face.ask("the cat sat", top_k=2, diversity=0.6)]
    assert found[0] == "k0"
    assert found[1] in ("k3", "k4")


async def test_nothing_filtered_or_invalid_is_pulled_in(services: Services, face: Face) -> None:
    """By no way: a leg, a name, a link, a shared name, coming along."""
    await _store(
        services,
        {"key": "seed", "content": "the harbour master met Grace Fell and Oslo Tram", "payload": {"show": True}},
        {"key": "hidden", "title": "Oslo Tram", "content": "with Grace Fell", "payload": {"show": False}},
        {"key": "past", "title": "Grace Fell", "content": "of Oslo Tram", "valid_to": "2020-01-01",
         "payload": {"show": True}},
        {"key": "future", "content": "by Grace Fell", "valid_from": "9998-01-01", "payload": {"show": True}},
        {"key": "plain", "content": "nothing", "payload": {"show": True}},
    )  # fmt: skip
    for target in ("hidden", "past", "future"):
        await services.links.link(NS, {"key": "seed"}, {"key": target}, {"type": "about", "weight": 0})
    for query in ("the harbour master", "Grace Fell", "Oslo Tram", "nothing"):
        for options in ({}, {"near": {"key": "hidden"}}, {"fold": True}):
            found = await face.ask(query, filters={"show": True}, expand=20, **options)
            assert {one.key for one in found} == {"seed", "plain"}
            assert not any(one.path for one in found)
            everything = await face.ask(query, expand=20, **options)
            assert {one.key for one in everything} == {"seed", "plain", "hidden"}


@pytest.mark.parametrize(
    "query",
    ["", " ", "the of and", "猫在花园里", "🙂", "x" * 100_000, "tent " * 20_000, "' & !c:*", "\u0301", "%s{}"],
)
async def test_odd_queries_are_answered(services: Services, face: Face, query: str) -> None:
    await _store(services, *STORIES, {"key": "cat", "content": "猫在睡觉"}, {"key": "smile", "content": "🙂 smile"})
    found = await face.ask(query, near={"key": "cat"}, expand=1, fold=True, diversity=0.5)
    assert len(found) <= 11
    expected = {"猫在花园里": "cat", "🙂": "smile", "tent " * 20_000: "chat1"}.get(query)
    if expected:
        assert found[0].key == expected
    with pytest.raises(Refused) as refused:
        await face.ask("x" * 100_001)
    assert refused.value.code in ("too_large", "invalid_input")


async def test_vectors_alone(client: httpx.AsyncClient, services: Services) -> None:
    await _store(services, *STORIES)
    found = await Rest(client).ask("tent of Nicki Minaj", hybrid=False)
    assert {leg for one in found for leg in one.legs} == {"dense"}
    recall = await _recall(services, "tent", weights=DENSE_ONLY)
    assert not any(hit.carrier for hit in recall.hits)


async def test_a_language_is_a_namespaces_own(services: Services, client: httpx.AsyncClient) -> None:
    texts = {"key": "haus", "content": "die Häuser der alten Stadt"}, {"key": "other", "content": "ein Baum im Wald"}
    for namespace, language in (("de", "german"), ("none", "none"), ("en", "english")):
        made = await client.put(f"/namespaces/{namespace}", json={"settings": {"language": language}})
        assert made.json()["settings"]["language"] == language
        await _store(services, *texts, namespace=namespace)
    words = recall_weights({"dense": 0, "lexical": 1, "importance": 0, "shared_name": 0})
    found = {
        namespace: [hit.memory.key for hit in (await _recall(services, "altes Haus", namespace, weights=words)).hits]
        for namespace in ("de", "none", "en")
    }
    assert found == {"de": ["haus"], "none": [], "en": []}
    # "die" is a word like others to German; its rarity weighs it.
    exact = [hit.memory.key for hit in (await _recall(services, "Häuser", "none", weights=words)).hits]
    assert exact == ["haus"]
    for wrong in ("klingon", 7, ["german"], ""):
        answer = await client.put("/namespaces/x", json={"settings": {"language": wrong}})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")


async def test_a_language_is_fixed_once_something_is_stored(services: Services, client: httpx.AsyncClient) -> None:
    await services.namespaces.put(NS, settings={"language": "german"}, model=None)
    await services.namespaces.put(NS, settings={"language": "french"}, model=None)
    await _store(services, {"content": "le chat"})
    with pytest.raises(Conflict):
        await services.namespaces.put(NS, settings={"language": "german"}, model=None)
    await services.namespaces.put(NS, settings={"language": "french", "payload_paths": ["x"]}, model=None)
    answer = await client.put(f"/namespaces/{NS}", json={"settings": {"language": "english"}})
    assert answer.status_code == 409


async def test_cues_are_read_from_a_namespaces_own_fields(services: Services, client: httpx.AsyncClient) -> None:
    cues = {"author": ["by", "who"], "sequence": ["room"], "position": ["at"], "date": ["when"], "aliases": []}
    made = await client.put(f"/namespaces/{NS}", json={"settings": {"cues": cues}})
    assert made.json()["settings"]["cues"] == cues
    await _store(
        services,
        {"key": "a", "content": "hello", "payload": {"who": "Mallory", "room": "r", "at": 1, "when": "June 1998"}},
        {"key": "b", "content": "world", "payload": {"speaker": "Mallory", "room": "r", "at": 2, "aliases": ["Zed"]}},
    )
    found = await Rest(client).ask("hello Mallory of 1998, said Zed")
    assert {"author", "date", "lexical_window"} <= _legs_of(found, "a").keys()
    assert not {"author", "name", "date"} & _legs_of(found, "b").keys()
    answer = await client.put(f"/namespaces/{NS}", json={"settings": {"cues": {"nobody": ["x"]}}})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")


def _told(recall: Recall) -> list[Any]:
    return [
        (hit.memory.key, hit.score, hit.legs, (one := hit.carrier) and (one.seed.key, one.share, one.name))
        for hit in recall.hits
    ]


async def test_equal_data_gives_equal_answers_over_and_over(services: Services) -> None:
    for namespace in ("one", "two"):
        await _store(services, *STORIES, namespace=namespace)
    for query in ("Nicki Minaj single", "harbour master", "tent on 8 May 2023", "matter", ""):
        first = _told(await _recall(services, query, "one", first=50))
        for namespace in ("two", "one", "two"):
            assert _told(await _recall(services, query, namespace, first=50)) == first


async def test_over_the_budget_names_authors_dates_and_links_are_found(
    services: Services, settings: Settings, database_dsn: str
) -> None:
    await _store(services, *STORIES)
    async with _composed(settings, database_dsn, hot_budget_bytes=0) as cold:
        for query in ("Nicki Minaj single", "zoe moor said on 8 May 2023", "the hit single of that summer", "ete"):
            hot, sql = await _recall(services, query, first=30), await _recall(cold, query, first=30)
            assert (hot.hot, sql.hot) == (True, False)
            for part in ("name", "author", "date"):
                assert _having(hot, part) == _having(sql, part)
            by_link = [{hit.memory.key for hit in one.hits if hit.carrier and hit.carrier.link} for one in (hot, sql)]
            assert by_link[0] >= by_link[1]
            for hit in sql.hits:
                assert sum(leg.contribution for leg in hit.legs) == pytest.approx(hit.score)
        linked = await _recall(cold, "the hit single of that summer", first=30)
        assert [hit.carrier.seed.key for hit in linked.hits if hit.memory.key == "minaj" and hit.carrier] == ["song"]
        with pytest.raises(SfmError):
            await _recall(cold, "x", near=MemoryRef(key="nobody"))
        near = await _recall(cold, "matter", near=MemoryRef(key="filler3"), expand=2, fold=True, diversity=0.2)
        assert near.hits[0].memory.key == "filler3"


def _having(recall: Recall, part: str) -> set[str | None]:
    return {hit.memory.key for hit in recall.hits if any(leg.leg == part and leg.contribution for leg in hit.legs)}


class _Reranker:
    """Prefers the texts that hold a word; or is slow, or fails."""

    name = "fake"

    def __init__(self, word: str, *, delay: float = 0.0, failure: Exception | None = None) -> None:
        self._word, self._delay, self._failure = word, delay, failure
        self.asked: list[tuple[str, list[str]]] = []

    async def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        self.asked.append((query, list(texts)))
        await asyncio.sleep(self._delay)
        if self._failure is not None:
            raise self._failure
        return np.array([float(self._word in text) for text in texts])

    async def aclose(self) -> None:
        return None


async def test_a_reranker_reorders_the_best(services: Services, settings: Settings, database_dsn: str) -> None:
    await _store(services, *({"key": f"k{i}", "content": f"cat number{i}"} for i in range(30)))
    plain = await _recall(services, "cat", first=5)
    assert not plain.reranked
    reranker = _Reranker("number4")
    async with _composed(settings, database_dsn, reranker, rerank_candidates=8) as opened:
        recall = await _recall(opened, "cat", first=5)
        assert recall.reranked
        assert recall.hits[0].memory.key == "k4"
        ((query, texts),) = reranker.asked
        assert (query, len(texts)) == ("cat", 8)
        for hit in recall.hits:
            assert sum(leg.contribution for leg in hit.legs) == pytest.approx(hit.score)
            assert 0 <= hit.score <= 1
            assert [leg.leg for leg in hit.legs][-1] == "rerank"
        # One that is not among the best is not read, and one that was read is no worse off for it than those.
        assert "k29" not in {hit.memory.key for hit in recall.hits}
        many = await _recall(opened, "cat", first=30)
        assert len(many.hits) == 30
        assert [hit.score for hit in many.hits] == sorted((hit.score for hit in many.hits), reverse=True)
        off = await _recall(opened, "cat", first=5, rerank=False)
        assert (off.reranked, _told(off)) == (False, _told(plain))


@pytest.mark.parametrize("broken", [{"delay": 5.0}, {"failure": RerankerUnavailable("down")}], ids=str)
async def test_a_reranker_that_does_not_answer_changes_nothing(
    services: Services, settings: Settings, database_dsn: str, broken: Json
) -> None:
    await _store(services, *({"key": f"k{i}", "content": f"cat number{i}"} for i in range(12)))
    plain = await _recall(services, "cat")
    async with _composed(settings, database_dsn, _Reranker("number4", **broken), rerank_deadline_ms=50) as opened:
        recall = await asyncio.wait_for(_recall(opened, "cat"), 3)
    assert (recall.reranked, _told(recall)) == (False, _told(plain))


async def test_a_hub_of_a_name_brings_no_candidates(services: Services) -> None:
    """More than 1,000 memories with one name: those that a leg finds get the bonus, the others do not come."""
    await _store(services, *({"key": f"k{i}", "title": "Common Name", "content": f"text {i}"} for i in range(1_001)))
    recall = await _recall(services, "Common Name", first=1_000)
    assert all(any(leg.leg == "name" for leg in hit.legs) for hit in recall.hits)
    assert [hit.score for hit in recall.hits] == sorted((hit.score for hit in recall.hits), reverse=True)


@pytest.mark.parametrize("field", ["session", "aliases", "speaker", "date", "title"])
@pytest.mark.parametrize(("first", "last"), [(0x4E00, 0x9FFF), (0xA000, 0xA48C), (0x10428, 0x1044F)])
async def test_long_cues_of_any_script_are_stored(
    client: httpx.AsyncClient, field: str, first: int, last: int
) -> None:
    """An index row holds 2,704 bytes, which random characters fill soon: nothing compresses them."""
    chosen = random.Random(first)
    text = " ".join("".join(chr(chosen.randint(first, last)) for _ in range(60)) for _ in range(16))
    for given in (text, text.replace(" ", "")):
        body = {"content": "x", "title": given} if field == "title" else {"content": "x", "payload": {field: given}}
        assert (await client.post("/remember", json=body)).status_code == 201
        assert (await client.post("/recall", json={"query": given})).status_code == 200
