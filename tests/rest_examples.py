"""One working request for every REST route: what the tests of all routes are made of.

It works on a namespace filled by `fill`. A test compares this table with the OpenAPI document.
"""

from dataclasses import dataclass, field
from typing import Any

import httpx

from sfm_graph.services.registry import Services

Json = dict[str, Any]
# The link from b to c in each namespace that was filled last.
_links: dict[str, str] = {}


@dataclass(frozen=True)
class Example:
    """A request. `shows`: the answer shows something of what the memories hold."""

    method: str
    path: str
    url: str = ""
    query: dict[str, str] = field(default_factory=dict)
    body: Json | None = None
    lines: bytes | None = None
    shows: bool = False

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"

    async def send(self, client: httpx.AsyncClient, namespace: str) -> httpx.Response:
        """Send it to a namespace."""
        body: Json = {}
        if self.body is not None:
            body = {"json": {name: _filled(value, namespace) for name, value in self.body.items()}}
        if self.lines is not None:
            body = {"content": self.lines, "headers": {"Content-Type": "application/x-ndjson"}}
        url = (self.url or self.path).replace("{name}", namespace)
        query = {name: _filled(value, namespace) for name, value in self.query.items()}
        return await client.request(self.method, url, params={**query, "namespace": namespace}, **body)


async def fill(services: Services, namespace: str, word: str) -> None:
    """Three memories in a row; the same keys and coordinates everywhere, the word in all that they say."""
    for place, key in enumerate(("a", "b", "c")):
        fields = {"key": key, "coordinate": [place, 0, 0], "content": f"plan {word}", "payload": {"word": word}}
        await services.memory_writes.store(namespace, fields)
    for source, target in (("a", "b"), ("b", "c")):
        fields = {"type": "next", "properties": {"word": word}}
        stored = await services.links.link(namespace, {"key": source}, {"key": target}, fields)
        _links[namespace] = stored.link.global_id
    # What is copied from.
    await services.memory_writes.store(f"{namespace}/source", {"key": "s", "content": f"source {word}"})


def _filled(value: Any, namespace: str) -> Any:
    if not isinstance(value, str):
        return value
    return value.replace("{name}", namespace).replace("{link}", _links.get(namespace, ""))


_A, _B, _C = {"key": "a"}, {"key": "b"}, {"key": "c"}
# What an outcome can be told of.
_PREDICTION = {"key": "p", "content": "so", "payload": {"prediction": "so", "confidence": 0.5}}
_QUERY = {"query": "plan", "top_k": 10}
_ENDS = {"from_coord": _A, "to_coord": _C}

# Reads first, then what changes little, then what removes.
EXAMPLES = (
    Example("GET", "/healthz"),
    Example("GET", "/ping"),
    Example("GET", "/readyz"),
    Example("GET", "/health"),
    Example("GET", "/memories", shows=True),
    Example("GET", "/memories/{coordinate}", "/memories/0,0,0", shows=True),
    Example("GET", "/memories/{coordinate}/history", "/memories/0,0,0/history", shows=True),
    Example("GET", "/memories/{coordinate}/diff", "/memories/0,0,0/diff", query={"from": "1", "to": "1"}),
    Example("GET", "/link/history", query={"id": "{link}"}, shows=True),
    Example("GET", "/range", query={"min": "0,0,0", "max": "9,9,9"}, shows=True),
    Example("GET", "/neighbors", query={"coord": "key:a", "hops": "2"}, shows=True),
    Example("GET", "/graph/neighbors", query={"coord": "0,0,0"}, shows=True),
    Example("GET", "/shortest_path", query={"frm": "key:a", "to": "key:c"}, shows=True),
    Example("GET", "/graph/path", query={"frm": "0,0,0", "to": "2,0,0"}, shows=True),
    Example("GET", "/rank", query={"by": "jaccard", "seed": "key:a"}, shows=True),
    Example("GET", "/traverse", query={"start": "key:a", "depth": "3"}),
    Example("GET", "/namespaces"),
    Example("GET", "/namespaces/{name}"),
    Example("GET", "/stats"),
    Example("GET", "/export", shows=True),
    Example("GET", "/export", query={"everything": "true"}, shows=True),
    Example("GET", "/export", query={"format": "graphml"}, shows=True),
    Example("GET", "/changes", shows=True),
    Example("POST", "/recall", body=_QUERY, shows=True),
    Example("POST", "/memories/search", body=_QUERY, shows=True),
    Example("POST", "/recall_with_scores", body=_QUERY, shows=True),
    Example("POST", "/recall_with_context", body={**_QUERY, "context": {"text": "plan"}}, shows=True),
    Example("POST", "/recall_batch", body={"queries": ["plan", _QUERY]}, shows=True),
    Example("POST", "/keyword_search", body={"term": "pla"}, shows=True),
    Example("POST", "/payloads_by_coords", body={"coords": [_A, [1, 0, 0], "2,0,0"]}, shows=True),
    Example("GET", "/duplicates", query={"threshold": "0.8"}, shows=True),
    Example("GET", "/jobs"),
    # It stores what it predicts.
    Example("POST", "/predict", body={"context": "plan", "around": _A}, shows=True),
    Example("POST", "/store", body={"coordinate": [0, 0, 0], "payload": {"word": "new"}}),
    Example("POST", "/memories", body={"coordinate": [7], "payload": {"word": "new"}}),
    Example("POST", "/remember", body={"content": "new", "key": "b"}),
    Example("POST", "/store_bulk", body={"items": [_PREDICTION, {"key": "c", "content": "new"}]}),
    Example("PATCH", "/memories/{coordinate}", "/memories/key:a", body={"title": "new"}),
    Example("POST", "/link", body=_ENDS),
    Example("POST", "/graph/link", body={**_ENDS, "type": "next", "weight": 2}),
    Example("POST", "/memories/restore", body={"coord": _A, "version": 1}, shows=True),
    Example("POST", "/link/restore", body={"id": "{link}", "version": 1}, shows=True),
    Example("POST", "/copies", body={"source": "{name}/source", "start": [{"key": "s"}], "follow": True}),
    Example("GET", "/copies"),
    Example("DELETE", "/copies/{id}", "/copies/1", query={"forget": "true"}),
    Example("GET", "/memories/{coordinate}/accesses", "/memories/key:a/accesses"),
    Example("POST", "/import", lines=b'{"type":"memory","key":"a","content":"imported"}'),
    Example("POST", "/outcomes", body={"prediction": {"key": "p"}, "outcome": "not so", "correct": False}),
    Example("POST", "/reflect", body={"since": "1d"}),
    Example("PUT", "/namespaces/{name}", body={"settings": {"payload_paths": ["word"]}}),
    Example("POST", "/consolidate", body={"dry_run": True}),
    Example("POST", "/merge", body={"into": _A, "from": [_C]}),
    Example("POST", "/hold", body={"coord": _A}),
    Example("POST", "/release", body={"coord": _A}),
    Example("POST", "/decay", body={"dry_run": True, "limit": 5}),
    Example("DELETE", "/link", query={"from_coord": "key:a", "to_coord": "key:b"}),
    Example("DELETE", "/memories/{coordinate}", "/memories/key:b", query={"erase": "true"}),
    Example("POST", "/delete_many", body={"coords": [_A, [1, 0, 0]]}),
    Example("DELETE", "/namespaces/{name}", query={"confirm": "{name}"}),
)


def documented_routes(document: Json) -> set[str]:
    """`METHOD /path` of everything in an OpenAPI document."""
    return {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
