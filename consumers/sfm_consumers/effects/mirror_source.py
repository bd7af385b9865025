"""Reading whole namespaces of a service with the ids of what is in them, as states like those of events."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from sfm_consumers.contract import Retry
from sfm_consumers.effects.mirror_http import Refused, Remote
from sfm_graph.domain.identity import decode_global_id
from sfm_graph.errors import InvalidInput

State = dict[str, Any]
PAGE = 50
_MEMORY = "id key coordinate kind title content payload importance version validFrom validTo"
_LINK = "id type weight properties version maker validFrom validTo source { id } target { id }"
_LINKS = f"pageInfo {{ hasNextPage endCursor }} edges {{ node {{ {_LINK} }} }}"
_PAGE = f"""
query MirrorPage($namespace: String!, $first: Int!, $after: String) {{
  memories(namespace: $namespace, first: $first, after: $after) {{
    pageInfo {{ hasNextPage endCursor }}
    edges {{ node {{
      {_MEMORY}
      links(direction: OUT, first: 100) {{ {_LINKS} }}
    }} }}
  }}
}}"""
_MORE_LINKS = f"""
query MirrorLinks($id: ID!, $after: String!) {{
  node(id: $id) {{ ... on Memory {{ links(direction: OUT, first: 100, after: $after) {{ {_LINKS} }} }} }}
}}"""

_ONE = f"""
query MirrorOne($id: ID!) {{
  node(id: $id) {{ __typename ... on Memory {{ {_MEMORY} }} ... on Link {{ {_LINK} }} }}
}}"""


@dataclass(frozen=True, slots=True)
class SourcePage:
    """Some memories, by id, and all links out of them: from one snapshot, unless a memory has over 100 links."""

    memories: list[State] = field(default_factory=list)
    links: list[State] = field(default_factory=list)


async def namespaces(remote: Remote) -> list[str]:
    """The names of all namespaces. Raises Retry, Refused."""
    found: list[str] = []
    query = {"first": "100"}
    while True:
        page = await remote.call("GET", "/namespaces", query=query)
        found += [one["name"] for one in page["namespaces"]]
        if page["next"] is None:
            return found
        query["after"] = page["next"]


async def settings(remote: Remote, namespace: str) -> Mapping[str, Any]:
    """A namespace's settings; empty when there is no such namespace. Raises Retry, Refused."""
    try:
        answer = await remote.call("GET", f"/namespaces/{_quoted(namespace)}")
    except Refused as error:
        if error.code == "namespace_not_found":
            return {}
        raise
    return dict(answer["settings"])


async def pages(remote: Remote, namespace: str) -> AsyncIterator[SourcePage]:
    """Everything in a namespace, nothing when it does not exist. Pages are read one after the other. Raises Retry."""
    after = None
    while True:
        try:
            data = await remote.graphql(_PAGE, namespace=namespace, first=PAGE, after=after)
        except Refused as error:
            if error.code == "namespace_not_found":
                return
            raise Retry(f"the source refuses: {error}") from error
        found = data["memories"]
        page = SourcePage()
        for edge in found["edges"]:
            node = edge["node"]
            page.memories.append(_memory(node))
            page.links.extend([one async for one in _links(remote, node)])
        yield page
        if not found["pageInfo"]["hasNextPage"]:
            return
        after = found["pageInfo"]["endCursor"]


async def one(remote: Remote, global_id: str) -> SourcePage:
    """A memory without its links, or a link; nothing when it does not exist. Raises Retry, Refused."""
    node = (await remote.graphql(_ONE, id=global_id))["node"]
    if node is None:
        return SourcePage()
    return SourcePage(links=[_link(node)]) if node["__typename"] == "Link" else SourcePage([_memory(node)])


def row_id(global_id: str) -> int:
    """The row id that a global id holds. Raises Retry for what is none: another kind of service answers there."""
    try:
        return decode_global_id(global_id)[2]
    except InvalidInput as error:
        raise Retry(f"the source answers with an unknown kind of id: {error}") from error


async def _links(remote: Remote, memory: Mapping[str, Any]) -> AsyncIterator[State]:
    found = memory["links"]
    while True:
        for edge in found["edges"]:
            yield _link(edge["node"])
        if not found["pageInfo"]["hasNextPage"]:
            return
        try:
            data = await remote.graphql(_MORE_LINKS, id=memory["id"], after=found["pageInfo"]["endCursor"])
        except Refused as error:
            raise Retry(f"the source refuses: {error}") from error
        if not data["node"]:
            return  # forgotten meanwhile: its event follows
        found = data["node"]["links"]


def _memory(node: Mapping[str, Any]) -> State:
    names = ("key", "coordinate", "title", "content", "payload", "importance", "version")
    return {
        "id": row_id(node["id"]),
        **{name: node[name] for name in names},
        "kind": node["kind"].lower(),
        "valid_from": node["validFrom"],
        "valid_to": node["validTo"],
    }


def _link(node: Mapping[str, Any]) -> State:
    return {
        "id": row_id(node["id"]),
        **{name: node[name] for name in ("type", "weight", "properties", "version", "maker")},
        "source_id": row_id(node["source"]["id"]),
        "target_id": row_id(node["target"]["id"]),
        "valid_from": node["validFrom"],
        "valid_to": node["validTo"],
    }


def _quoted(name: str) -> str:
    return quote(name, safe="")
