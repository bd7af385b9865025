"""Runs of consolidation, proposals and merges as JSON."""

from collections.abc import Iterable

from sfm_graph.api.rest.answers import Json, memory_json
from sfm_graph.domain.duplicates import Duplicates
from sfm_graph.domain.identity import Entity, MemoryId, encode_global_id
from sfm_graph.domain.merging import MergeResult
from sfm_graph.services.consolidation.consolidation import ConsolidationReport


def consolidation_json(namespace: str, report: ConsolidationReport, *, dry_run: bool) -> Json:
    """What a run made, or would make."""
    groups = [
        {
            "memory": memory_json(one.memory) if one.memory else None, "created": one.created,
            "sources": _ids(namespace, one.sources), "content": one.content, "method": one.method,
        }
        for one in report.groups
    ]  # fmt: skip
    return {
        "dry_run": dry_run, "created": report.created, "updated": report.updated, "put_off": report.put_off,
        "episodes": report.episodes, "complete": report.complete, "groups": groups,
    }  # fmt: skip


def duplicates_json(found: Duplicates) -> Json:
    """Proposals, the nearest first."""
    groups = [
        {
            "kept": memory_json(one.kept),
            "duplicates": [
                {"memory": memory_json(two.memory), "cosine": two.cosine, "same_text": two.same_text}
                for two in one.duplicates
            ],
        }
        for one in found.groups
    ]
    return {"groups": groups, "complete": found.complete, "examined": found.examined}


def merged_json(done: MergeResult) -> Json:
    """The memory that was kept, and what went into it."""
    return {
        "memory": memory_json(done.memory), "merged": _ids(done.memory.namespace, done.merged),
        "links_moved": done.moved, "links_dropped": done.dropped,
    }  # fmt: skip


def _ids(namespace: str, ids: Iterable[MemoryId]) -> list[str]:
    return [encode_global_id(Entity.MEMORY, namespace, one) for one in ids]
