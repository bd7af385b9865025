"""A GraphQL client on an app with nothing but the GraphQL route."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from sfm_graph.api.gql.router import graphql_router
from sfm_graph.services.registry import Services


class Graph:
    """Sends operations to `/graphql`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def send(self, query: str, /, **variables: Any) -> dict[str, Any]:
        """The whole response."""
        response = await self.http.post("/graphql", json={"query": query, "variables": variables})
        assert response.status_code == 200, response.text
        return response.json()

    async def data(self, query: str, /, **variables: Any) -> dict[str, Any]:
        """The data of a response without errors."""
        answer = await self.send(query, **variables)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    async def codes(self, query: str, /, **variables: Any) -> list[str]:
        """The codes of a response's errors."""
        return [error["extensions"]["code"] for error in (await self.send(query, **variables)).get("errors", [])]


@asynccontextmanager
async def open_graph(services: Services) -> AsyncIterator[Graph]:
    """A client on opened services."""
    app = FastAPI()
    app.include_router(graphql_router(services))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
        yield Graph(http)


async def remember(graph: Graph, key: str, content: str = "", **fields: Any) -> dict[str, Any]:
    """Store a memory; its id, key and version."""
    given = {"key": key, "content": content or f"about {key}", **fields}
    query = "mutation ($input: RememberInput!) { remember(input: $input) { memory { id key version } } }"
    return (await graph.data(query, input=given))["remember"]["memory"]


async def link(graph: Graph, source: str, target: str, **fields: Any) -> str:
    """Link two memories by key; the link's id."""
    query = "mutation ($input: LinkInput!) { link(input: $input) { link { id } } }"
    given = {"source": {"key": source}, "target": {"key": target}, **fields}
    return (await graph.data(query, input=given))["link"]["link"]["id"]


def keys(connection: dict[str, Any]) -> list[str]:
    """The keys of a connection's memories, in order."""
    return [edge["node"]["key"] for edge in connection["edges"]]
