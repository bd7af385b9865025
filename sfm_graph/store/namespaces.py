"""Namespaces and embedding models in Postgres."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from sfm_graph.domain.access import Reach
from sfm_graph.domain.identity import Entity, encode_global_id
from sfm_graph.domain.namespace import (
    ModelIdentity,
    Namespace,
    NamespaceCounts,
    NamespaceSettings,
    StoredModel,
    namespace_settings,
)
from sfm_graph.errors import LegalHold, NamespaceNotFound
from sfm_graph.store.database import LostRace, Session, WriteSession

_TABLES = (
    "links", "embeddings", "words", "names", "memories", "fading", "memory_counts", "jobs", "predictor_use",
    "accesses", "copied_memories", "copied_links", "copies", "changes", "keys", "import_batches",
    "imported_versions",
)  # fmt: skip

_PAST_TABLES = ("past_words", "past_names", "past_embeddings")


async def by_name(session: Session, name: str) -> Namespace | None:
    """A namespace, or None."""
    row = await session.row("namespace_by_name", name=name)
    return _namespace(row) if row else None


async def lock(session: WriteSession, name: str) -> Namespace:
    """The namespace to write to, made if there is none, held against deletion."""
    found = await lock_existing(session, name)
    if found is None:
        await session.run("namespace_create", name=name, settings=_json(NamespaceSettings()))
        found = await lock_existing(session, name)
    if found is None:
        raise LostRace(f"namespace {name!r} was deleted while it was made")
    return found


async def lock_existing(session: WriteSession, name: str) -> Namespace | None:
    """The namespace to take something out of, held against deletion; None where there is nothing to take."""
    row = await session.row("namespace_lock", name=name)
    return _namespace(row) if row else None


async def page(session: Session, reach: Reach, after: str, limit: int) -> list[Namespace]:
    """Up to `limit` of the namespaces within reach whose name comes after `after`, by name."""
    rows = await session.rows("namespace_list", names=reach.names, prefixes=reach.prefixes, after=after, limit=limit)
    return [_namespace(row) for row in rows]


async def has_memories(session: WriteSession, namespace: Namespace) -> bool:
    """Whether anything is stored in a namespace; none is from then on until the transaction ends."""
    return bool((await session.one("namespace_has_memories", namespace_id=namespace.id))[0])


async def set_settings(session: WriteSession, namespace: Namespace, settings: NamespaceSettings) -> None:
    """Replace the settings."""
    await session.run("namespace_settings", namespace_id=namespace.id, settings=_json(settings))


async def model(session: WriteSession, identity: ModelIdentity) -> StoredModel:
    """The stored model with this identity, made if there is none."""
    parameters = {"name": identity.name, "revision": identity.revision, "dimension": identity.dimension}
    row = await session.row("model_id", **parameters)
    if row is None:
        await session.run("model_create", **parameters)
        row = await session.one("model_id", **parameters)
    return StoredModel(row[0], identity)


async def set_model(session: WriteSession, namespace: Namespace, chosen: StoredModel) -> None:
    """Give the namespace its model, unless another writer was first."""
    await session.run("namespace_model", namespace_id=namespace.id, model_id=chosen.id)


async def counts(session: Session, namespace: Namespace, valid: datetime | None = None) -> NamespaceCounts:
    """Memories by kind and links by type (the 1,000 most frequent); those `valid` at a time when given."""
    if valid is None:
        memories = await session.rows("memory_counts", namespace_id=namespace.id)
        links = await session.rows("link_counts", namespace_id=namespace.id)
    else:
        memories = await session.rows("memory_counts_valid", namespace_id=namespace.id, at=valid)
        links = await session.rows("link_counts_valid", namespace_id=namespace.id, at=valid)
    vectors, indexed = (0, 0)
    if namespace.model is not None:
        vectors, indexed = await session.one("vector_counts", namespace_id=namespace.id, model_id=namespace.model.id)
    return NamespaceCounts({row[0]: row[1] for row in memories}, {row[0]: row[1] for row in links}, vectors, indexed)


async def delete(session: WriteSession, name: str) -> int:
    """Delete a namespace with everything in it, its log included; its vector indexes are left to maintenance. Its id.

    Raises NamespaceNotFound, LegalHold while a memory in it is held.
    """
    row = await session.row("namespace_delete_lock", name=name)
    if row is None:
        raise NamespaceNotFound(f"there is no namespace {name!r}", namespace=name)
    if held := await session.rows("namespace_held", namespace_id=row[0]):
        ids = [encode_global_id(Entity.MEMORY, name, memory_id) for (memory_id,) in held]
        which = f"memory {ids[0]} is" if len(ids) == 1 else "memories are"
        raise LegalHold(f"{which} under legal hold in namespace {name!r}", namespace=name, ids=ids)
    (number, _) = await session.one("namespace_delete_begin")
    for table in (*_TABLES, *_PAST_TABLES):
        await session.run(f"namespace_delete_{table}", namespace_id=row[0])
    await session.run("copies_end", namespace_id=row[0])
    await session.run("namespace_delete_end", tx=number)
    await session.run("namespace_log_end", namespace_id=row[0], name=name)
    await session.run("namespace_delete_indexes", namespace_id=row[0])
    await session.run("namespace_delete", namespace_id=row[0])
    return int(row[0])


def _namespace(row: Sequence[Any]) -> Namespace:
    id_, name, settings, created_at, model_id, model_name, revision, dimension = row
    stored = StoredModel(model_id, ModelIdentity(model_name, revision, dimension)) if model_id is not None else None
    return Namespace(id_, name, namespace_settings(settings), created_at, stored)


def _json(settings: NamespaceSettings) -> str:
    return orjson.dumps(settings.as_json()).decode()
