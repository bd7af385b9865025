"""What the routes answer with: domain objects as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import Response

from sfm_graph.domain.context import ContextHit
from sfm_graph.domain.copying import Copy
from sfm_graph.domain.identity import Entity, encode_global_id
from sfm_graph.domain.link import Link, StoredLink
from sfm_graph.domain.memory import BulkResult, Memory, StoredMemory, WriteOperation
from sfm_graph.domain.namespace import ModelIdentity, Namespace
from sfm_graph.domain.page import Page
from sfm_graph.domain.recall import Carrier, Hit, LegScore
from sfm_graph.services.agent_reads import AgentAccess
from sfm_graph.services.fading.outcome import Decay
from sfm_graph.services.namespaces import NamespaceStatistics

Json = dict[str, Any]


class JsonResponse(Response):
    """JSON by orjson: times in RFC 3339, enums as their values."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of any JSON value."""
        return orjson.dumps(content)


def memory_json(memory: Memory) -> Json:
    """A memory as every route shows it."""
    return {
        "id": memory.global_id,
        "namespace": memory.namespace,
        "key": memory.key,
        "coordinate": memory.coordinate,
        "kind": memory.kind,
        "title": memory.title,
        "content": memory.content,
        "payload": memory.payload,
        "importance": memory.importance,
        "version": memory.version,
        "created_at": memory.created_at,
        "updated_at": memory.updated_at,
        "valid_from": memory.valid_from,
        "valid_to": memory.valid_to,
        "expires_at": memory.expires_at,
        "legal_hold": memory.legal_hold,
        "agent": memory.agent,
    }


def memories_json(memories: Iterable[Memory]) -> list[Json]:
    """Memories in their order."""
    return [memory_json(memory) for memory in memories]


def link_json(link: Link) -> Json:
    """A link; its ends are references that every route takes."""
    return {
        "id": link.global_id,
        "namespace": link.namespace,
        "source": {"id": encode_global_id(Entity.MEMORY, link.namespace, link.source_id)},
        "target": {"id": encode_global_id(Entity.MEMORY, link.namespace, link.target_id)},
        "type": link.type,
        "weight": link.weight,
        "properties": link.properties,
        "version": link.version,
        "created_at": link.created_at,
        "updated_at": link.updated_at,
        "valid_from": link.valid_from,
        "valid_to": link.valid_to,
        "maker": link.maker,
        "agent": link.agent,
    }


def memory_answer(memory: Memory) -> Response:
    """One memory with its version as ETag."""
    return JsonResponse(memory_json(memory), headers=_etag(memory.version))


def stored_answer(stored: StoredMemory) -> Response:
    """A stored memory: 201 with its Location when it is new, else 200."""
    memory = stored.memory
    if stored.operation is not WriteOperation.CREATED:
        return memory_answer(memory)
    location = f"/memories/id:{memory.global_id}?namespace={quote(memory.namespace)}"
    headers = {**_etag(memory.version), "Location": location}
    return JsonResponse(memory_json(memory), 201, headers)


def linked_answer(stored: StoredLink) -> Response:
    """A made or updated link: 201 when it is new."""
    created = stored.operation is WriteOperation.CREATED
    return JsonResponse(link_json(stored.link), 201 if created else 200, _etag(stored.link.version))


def bulk_json(result: BulkResult[StoredMemory]) -> Json:
    """How many were stored, which were refused and why, and what is stored now."""
    failed = [{"index": one.index, "code": one.code, "message": one.message} for one in result.failed]
    memories = memories_json(one.memory for one in result.stored)
    return {"stored": len(result.stored), "failed": failed, "memories": memories}


def page_json(name: str, page: Page[Memory]) -> Json:
    """A page of memories under `name`, and the cursor of the next one."""
    return {name: memories_json(page.items), "next": next_cursor(page)}


def next_cursor(page: Page[Any]) -> str | None:
    """The cursor behind this page; None when nothing follows."""
    return page.end_cursor if page.has_next else None


def hit_json(hit: Hit) -> Json:
    """A recalled memory with its explained score."""
    return {
        "memory": memory_json(hit.memory),
        "score": hit.score,
        "legs": legs_json(hit.legs),
        "path": _carrier_json(hit.carrier, hit.memory.namespace) if hit.carrier else None,
        "duplicates": [encode_global_id(Entity.MEMORY, hit.memory.namespace, one) for one in hit.duplicates],
        "expanded": hit.expanded,
        "superseded_by": None
        if hit.superseded_by is None
        else encode_global_id(Entity.MEMORY, hit.memory.namespace, hit.superseded_by),
    }


def _carrier_json(carrier: Carrier, namespace: str) -> Json:
    """What carried score to a hit from a better one."""
    return {
        "from": carrier.seed.global_id,
        "link": None if carrier.link is None else encode_global_id(Entity.LINK, namespace, carrier.link),
        "name": carrier.name,
        "share": carrier.share,
    }


def legs_json(legs: Sequence[LegScore]) -> list[Json]:
    """Each leg's part in a score."""
    return [
        {
            "leg": leg.leg,
            "rank": leg.rank,
            "raw_score": leg.raw_score,
            "weight": leg.weight,
            "contribution": leg.contribution,
        }
        for leg in legs
    ]


def context_hit_json(hit: ContextHit) -> Json:
    """A memory with the parts of its score in context."""
    score = hit.score
    parts = {"query": score.query, "text": score.text, "near": score.near, "recent": score.recent}
    return {
        "memory": memory_json(hit.memory), "score": score.total, "context": parts, "legs": legs_json(hit.legs)
    }  # fmt: skip


def namespace_json(namespace: Namespace) -> Json:
    """A namespace without what is in it."""
    return {
        "name": namespace.name,
        "settings": namespace.settings.as_json(),
        "model": model_json(namespace.model.identity) if namespace.model else None,
        "created_at": namespace.created_at,
    }


def model_json(identity: ModelIdentity) -> Json:
    """The identity of an embedding model."""
    return {"name": identity.name, "revision": identity.revision, "dimension": identity.dimension}


def statistics_json(statistics: NamespaceStatistics) -> Json:
    """A namespace with how much is in it."""
    counts: Mapping[str, Any] = {
        "memories": statistics.counts.memories_by_kind,
        "links": statistics.counts.links_by_type,
        "vectors": {"total": statistics.counts.vectors, "indexed": statistics.counts.indexed_vectors},
        "hot_bytes": statistics.hot_bytes,
    }
    return {**namespace_json(statistics.namespace), **counts}


def _etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}


def decay_json(done: Decay) -> dict[str, Any]:
    """What a pass over what is due did, or would do."""
    memories = [
        {
            "id": one.global_id(done.namespace), "key": one.key, "title": one.title, "step": one.act.value,
            "reason": one.reason.value, "retention": one.retention,
        }
        for one in done.outcomes
    ]  # fmt: skip
    return {"dry_run": done.dry_run, "memories": memories, "more": done.more}


def copy_json(one: Copy) -> Json:
    """A copy."""
    return {
        "id": str(one.id), "namespace": one.namespace, "source": one.source, "selection": one.selection,
        "follows": one.follows, "memories": one.memories, "created_by": one.created_by, "created_at": one.created_at,
        "revoked_at": one.revoked_at, "error": one.error,
    }  # fmt: skip


def accesses_json(counts: Iterable[AgentAccess]) -> list[Json]:
    """Who recalled a memory."""
    return [{"agent": one.agent, "count": one.count, "last_at": one.last_at} for one in counts]
