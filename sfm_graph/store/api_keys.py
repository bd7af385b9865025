"""API keys in Postgres."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sfm_graph.domain.access import Grant, Reach, Scope
from sfm_graph.domain.api_key import ApiKey, StoredKey
from sfm_graph.store.database import Row, Session, WriteSession

_SCOPES = {scope.value: scope for scope in Scope}


async def create(
    session: WriteSession, name: str, hash: bytes, grant: Grant, created_by: str, expires_at: datetime | None
) -> ApiKey | None:
    """A new key; None when one that is not revoked has the name."""
    row = await session.row(
        "api_key_create", name=name, hash=hash, scopes=_names(grant), namespaces=list(grant.reach.patterns),
        created_by=created_by, expires_at=expires_at,
    )  # fmt: skip
    return _stored(row).key if row else None


async def by_ids(session: Session, ids: Sequence[int]) -> dict[int, StoredKey]:
    """The keys that exist, revoked ones too, by id."""
    found = [_stored(row) for row in await session.rows("api_keys_by_ids", ids=list(ids))]
    return {one.key.id: one for one in found}


async def lock(session: WriteSession, *, id: int | None, name: str | None) -> ApiKey | None:
    """The key with an id, or the one with a name that is not revoked; held until the transaction ends."""
    row = await session.row("api_key_lock", id=id, name=name)
    return _stored(row).key if row else None


async def revoke(session: WriteSession, id: int) -> ApiKey:
    """Make a key worth nothing; one that is so already stays as it is."""
    return _stored(await session.one("api_key_revoke", id=id)).key


async def page(session: Session, grant: Grant, after: int, limit: int) -> list[ApiKey]:
    """Up to `limit` of the keys with an id above `after` whose grants a grant covers, by id."""
    reach = grant.reach
    rows = await session.rows(
        "api_keys_page", scopes=_names(grant), names=reach.names, prefixes=reach.prefixes, after=after, limit=limit
    )
    return [_stored(row).key for row in rows]


async def used(session: WriteSession, times: Mapping[int, datetime]) -> None:
    """Note when keys were last used. In the order of their ids, so that two processes never wait for each other."""
    ids = sorted(times)
    await session.run("api_keys_used", ids=ids, times=[times[one] for one in ids])


def _names(grant: Grant) -> list[str]:
    return sorted(scope.value for scope in grant.scopes)


def _stored(row: Row) -> StoredKey:
    id, name, scopes, namespaces, created_by, created_at, expires_at, revoked_at, last_used_at, hash = row
    # A scope of a later version is none of this one.
    grant = Grant(frozenset(_SCOPES[one] for one in scopes if one in _SCOPES), Reach(tuple(namespaces)))
    key = ApiKey(id, name, grant, created_by, created_at, expires_at, revoked_at, last_used_at)
    return StoredKey(key, bytes(hash))
