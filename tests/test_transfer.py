"""Import and export of whole namespaces."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from sfm_graph.services.registry import Services


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


async def chunked(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def exported(services: Services, namespace: str) -> list[bytes]:
    async with services.views.open() as view:
        text = b"".join([chunk async for chunk in services.transfer.export(view, namespace)])
    return text.splitlines()


async def test_round_trip(services: Services) -> None:
    data = lines(
        {"type": "memory", "key": "a", "content": "alpha", "title": "A", "payload": {"n": 1, "x": 1.0}},
        {"type": "memory", "coordinate": [1, 2.5, -0.0], "kind": "entity", "payload": {"text": "bee"}, "importance": 3},
        {"type": "memory", "content": "no name", "valid_from": "2024-01-01T00:00:00Z", "valid_to": "2025-01-01"},
        {"type": "link", "source": {"key": "a"}, "target": {"coordinate": [1, 2.5, 0]}, "link_type": "cites",
         "weight": 2, "properties": {"p": [1]}, "valid_from": "2024-05-01T00:00:00Z"},
    )  # fmt: skip
    report = await services.transfer.import_ndjson(chunked(data, 7), "one")
    assert report.as_json() == {
        "memories": {"created": 3, "updated": 0, "unchanged": 0},
        "links": {"created": 1, "updated": 0, "unchanged": 0},
        "failed": 0,
        "failures": [],
    }
    first = await exported(services, "one")
    again = await services.transfer.import_ndjson(chunked(b"\n".join(first)), "one")
    assert (again.memories.unchanged, again.links.unchanged, again.records) == (3, 1, 4)
    copied = await services.transfer.import_ndjson(chunked(b"\n".join(first)), "two")
    assert (copied.memories.created, copied.links.created) == (3, 1)
    assert await exported(services, "two") == first


@pytest.fixture(params=[1])
def _unused() -> None: ...
