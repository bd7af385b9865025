"""Random GraphQL documents: whatever is asked, nothing is the service's own fault."""

import random
from collections.abc import AsyncIterator

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNamedType,
    GraphQLNonNull,
    GraphQLObjectType,
    build_schema,
    get_named_type,
    is_leaf_type,
)
from graphql_client import Graph, open_graph

from sfm_graph.api.gql.schema import schema_sdl
from sfm_graph.services.registry import Services

SCHEMA = build_schema(schema_sdl())


@pytest.fixture
async def graph(services: Services) -> AsyncIterator[Graph]:
    async with open_graph(services) as opened:
        yield opened


class Documents:
    """Random documents of the schema, their values now right, now wrong."""

    hostile = (
        "null", "true", "0", "-1", "1e999", "99999999999999999999", '""', '"\\u0000"', '"é"', '"__proto__"', "[]",
        "{}", "[null]", "{a: [1, {b: null}]}", "EPISODIC", "NONE", '"2020-01-01"', '"10000-01-01T00:00:00Z"',
        '"bToxOmRlZmF1bHQ"', '"bDoxOmRlZmF1bHQ"', '{key: "k1"}', '[{key: "k0"}, {id: "x"}]', "$v", '"default"',
        "1.5", '"' + "x" * 3_000 + '"',
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.fields = 0

    def document(self) -> str:
        kind, root = self.random.choice([("query", "Query"), ("query", "Query"), ("mutation", "Mutation")])
        selection = self.selection(SCHEMA.type_map[root], 0)
        text = f"{kind} Q{'($v: JSON)' if '$v' in selection else ''} {selection}"
        if self.random.random() < 0.1:
            place = self.random.randrange(len(text))
            text = (
                text[:place]
                + self.random.choice(["", "{", "}", "!", "\x00", "@skip", "...", '"'])
                + text[place + 1 :]
            )
        return text

    def selection(self, type_: GraphQLNamedType, depth: int) -> str:
        if not isinstance(type_, GraphQLObjectType):
            return "{ id ... on Memory { key } }"
        names = list(type_.fields)
        chosen = self.random.sample(names, min(len(names), self.random.randint(1, 3)))
        parts = [self.field(name, type_.fields[name], depth) for name in chosen]
        return "{ " + (" ".join(part for part in parts if part) or "__typename") + " }"

    def field(self, name: str, field: GraphQLField, depth: int) -> str:
        self.fields += 1
        inner = get_named_type(field.type)
        if not is_leaf_type(inner) and (depth > 6 or self.fields > 40):
            return ""
        given = [
            f"{argument}: {self.value(one.type, 0)}"
            for argument, one in field.args.items()
            if isinstance(one.type, GraphQLNonNull) or self.random.random() < 0.5
        ]
        arguments = f"({', '.join(given)})" if given else ""
        alias = f"a{self.fields}: "
        return alias + name + arguments + ("" if is_leaf_type(inner) else " " + self.selection(inner, depth + 1))

    def value(self, type_: GraphQLInputType, depth: int) -> str:
        if self.random.random() < 0.03:
            return self.random.choice(self.hostile)
        if isinstance(type_, GraphQLNonNull):
            return self.value(type_.of_type, depth)
        if isinstance(type_, GraphQLList):
            return (
                "[" + ", ".join(self.value(type_.of_type, depth + 1) for _ in range(self.random.randint(0, 3))) + "]"
            )
        if isinstance(type_, GraphQLEnumType):
            return self.random.choice(list(type_.values))
        if isinstance(type_, GraphQLInputObjectType):
            return self.input_object(type_, depth)
        return {
            "Int": str(self.random.choice([1, 1, 2, 2, 5, 5, 100, 0, 101, -1])),
            "Float": self.random.choice(["0", "-0.0", "1.5", "1e308", "-3"]),
            "Boolean": self.random.choice(["true", "false"]),
            "ID": self.random.choice(['"bToxOmRlZmF1bHQ"', '"bDoxOmRlZmF1bHQ"', '"x"']),
            # Nearly every field takes two of them: one that none answers with is to be rare.
            "DateTime": self.random.choice(
                ['"2020-01-01"', '"1999-12-31T23:59:59+01:00"', '"2999-01-01T00:00:00Z"'] * 3
                + ['"0001-01-01T00:00:00+14:00"']
            ),
            "Vector": self.random.choice(["[1, 0]", "[0]", "[]", '"x"']),
            "MemoryItem": self.random.choice(['{content: "x"}', '{key: "k1", kind: "entity"}', "{}", "{nope: 1}"]),
            "LinkItem": self.random.choice(['{source: {key: "k0"}, target: {key: "k1"}}', "{}", '{source: "1,2"}']),
        }.get(str(type_), self.random.choice(['"k0"', '"k1"', '"default"', '"other"', '""', '"a.b"']))

    def input_object(self, type_: GraphQLInputObjectType, depth: int) -> str:
        names = list(type_.fields)
        if str(type_) == "MemoryRef":
            return self.random.choice(
                ['{key: "k0"}', '{key: "k1"}', "{coordinate: [1, 2]}", '{id: "bToxOmRlZmF1bHQ"}']
            )
        if str(type_) == "AsOf" and self.random.random() < 0.8:
            # No moment that can be written here is one of which it is known what was known.
            return self.random.choice(["{}", '{valid: "2020-01-01"}', '{valid: "2999-01-01T00:00:00Z", known: null}'])
        often = 0.3 if depth < 3 else 0.05
        given = [
            f"{name}: {self.value(type_.fields[name].type, depth + 1)}"
            for name in names
            if isinstance(type_.fields[name].type, GraphQLNonNull) or self.random.random() < often
        ]
        return "{" + ", ".join(given) + "}"


async def test_random_documents_never_meet_an_internal_error(graph: Graph) -> None:
    await graph.data(
        """mutation {
            a: storeMemory(input: {key: "k0", coordinate: [1, 2], content: "a"}) { operation }
            b: remember(input: {key: "k1", content: "b"}) { operation }
            link(input: {source: {key: "k0"}, target: {key: "k1"}}) { operation } }"""
    )
    codes: set[str] = set()
    answered = 0
    for seed in range(550):
        documents = Documents(seed)
        query = documents.document()
        body = {"query": query, "variables": {"v": documents.random.choice([None, {}, [1]])}}
        response = await graph.http.post("/graphql", json=body)
        assert response.status_code in (200, 400), (seed, query, response.text)
        answer = response.json()
        found = {error["extensions"]["code"] for error in answer.get("errors", [])}
        assert "internal_error" not in found, (seed, query, response.text)
        codes |= found
        answered += "errors" not in answer
    assert answered >= 30
    assert {"graphql_invalid", "invalid_input", "memory_not_found"} <= codes
