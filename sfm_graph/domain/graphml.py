"""A graph as GraphML 1.0, piece by piece: memories are nodes, links are directed edges, ids are global ones.

Texts keep every character that XML 1.0 can say; the others become U+FFFD.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# It writes XML and reads none.
from xml.sax.saxutils import escape, quoteattr  # nosec B406

import orjson

from sfm_graph.domain.link import Link
from sfm_graph.domain.memory import Memory

FOOT = b"</graph>\n</graphml>\n"
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# Otherwise readers make line feeds of them.
_KEPT = {"\r": "&#13;"}
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
    'xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">\n'
)
_NODE_KEYS = {
    "key": "string", "kind": "string", "title": "string", "content": "string", "payload": "string",
    "importance": "double", "coordinate": "string", "version": "int", "agent": "string", "created_at": "string",
    "updated_at": "string", "valid_from": "string", "valid_to": "string",
}  # fmt: skip
_EDGE_KEYS = {
    "type": "string", "weight": "double", "properties": "string", "maker": "string", "version": "int",
    "agent": "string", "created_at": "string", "updated_at": "string", "valid_from": "string", "valid_to": "string",
}  # fmt: skip


def head(namespace: str) -> bytes:
    """What comes before the nodes: all attributes with their types, and the graph's name."""
    keys = "".join(
        f'<key id="{entity[0]}_{name}" for="{entity}" attr.name="{name}" attr.type="{type_}"/>\n'
        for entity, names in (("node", _NODE_KEYS), ("edge", _EDGE_KEYS))
        for name, type_ in names.items()
    )
    title = '<key id="g_namespace" for="graph" attr.name="namespace" attr.type="string"/>\n'
    return f'{_HEAD}{keys}{title}<graph edgedefault="directed">\n{_data("g_namespace", namespace)}\n'.encode()


def nodes(memories: Iterable[Memory]) -> bytes:
    """Nodes; payload as JSON, coordinate as `1.0,2.0`, times in ISO 8601. What is not given is left out."""
    return "".join(
        f"<node id={quoteattr(one.global_id)}>{_values('n', _node(one))}</node>\n" for one in memories
    ).encode()


def edges(links: Iterable[Link], ends: Mapping[int, str]) -> bytes:
    """Edges between nodes; properties as JSON. `ends`: global ids of memories."""
    return "".join(
        f"<edge id={quoteattr(one.global_id)} source={quoteattr(ends[one.source_id])}"
        f" target={quoteattr(ends[one.target_id])}>{_values('e', _edge(one))}</edge>\n"
        for one in links
    ).encode()


def _node(memory: Memory) -> dict[str, Any]:
    return {
        "key": memory.key, "kind": memory.kind.value, "title": memory.title, "content": memory.content,
        "payload": _json(memory.payload), "importance": memory.importance,
        "coordinate": ",".join(map(repr, memory.coordinate)), "version": memory.version, "agent": memory.agent,
        "created_at": memory.created_at.isoformat(), "updated_at": memory.updated_at.isoformat(),
        "valid_from": memory.valid_from and memory.valid_from.isoformat(),
        "valid_to": memory.valid_to and memory.valid_to.isoformat(),
    }  # fmt: skip


def _edge(link: Link) -> dict[str, Any]:
    return {
        "type": link.type, "weight": link.weight, "properties": _json(link.properties), "maker": link.maker,
        "version": link.version, "agent": link.agent, "created_at": link.created_at.isoformat(),
        "updated_at": link.updated_at.isoformat(), "valid_from": link.valid_from and link.valid_from.isoformat(),
        "valid_to": link.valid_to and link.valid_to.isoformat(),
    }  # fmt: skip


def _json(value: Mapping[str, Any]) -> str | None:
    return orjson.dumps(value).decode() if value else None


def _values(prefix: str, values: Mapping[str, Any]) -> str:
    return "".join(_data(f"{prefix}_{name}", value) for name, value in values.items() if value is not None)


def _data(key: str, value: object) -> str:
    text = escape(_FORBIDDEN.sub("\ufffd", str(value)), _KEPT)
    return f'<data key="{key}">{text}</data>'
