"""API keys and the audit log as GraphQL objects."""

from datetime import datetime
from typing import Self

import strawberry

from sfm_graph.api.gql.context import GraphInfo
from sfm_graph.api.gql.page_info import PageInfo
from sfm_graph.domain import audit, page
from sfm_graph.domain.access import Scope
from sfm_graph.domain.api_key import ApiKey as DomainKey
from sfm_graph.domain.api_key import CreatedKey

strawberry.enum(
    Scope,
    description="What a token may do; none includes another. ADMIN: settings and ends of namespaces, API keys, the "
    "audit log. METRICS: the service's metrics.",
)


@strawberry.type(description="A named token of the service's own. Its secret is stored nowhere.")
class ApiKey:
    """A key as stored."""

    id: strawberry.ID = strawberry.field(description="Its number: the middle of its token.")
    name: str = strawberry.field(description="Its name, unique among keys that are not revoked.")
    scopes: list[Scope] = strawberry.field(description="What it may do.")
    namespaces: list[str] = strawberry.field(description="Where: names, prefixes such as team/*, or * for all.")
    created_by: str = strawberry.field(description="Who made it, such as key:7 (ci).")
    created_at: datetime = strawberry.field(description="When it was made.")
    expires_at: datetime | None = strawberry.field(description="From when on it is worth nothing; null: never.")
    revoked_at: datetime | None = strawberry.field(description="Since when it is revoked; null: it is not.")
    last_used_at: datetime | None = strawberry.field(description="When it was last used, to a minute; null: never.")

    @classmethod
    def from_domain(cls, one: DomainKey) -> Self:
        """The GraphQL form of a key."""
        return cls(
            id=strawberry.ID(str(one.id)), name=one.name, scopes=sorted(one.grant.scopes),
            namespaces=list(one.grant.reach.patterns), created_by=one.created_by, created_at=one.created_at,
            expires_at=one.expires_at, revoked_at=one.revoked_at, last_used_at=one.last_used_at,
        )  # fmt: skip


@strawberry.type(description="A listed API key.")
class ApiKeyEdge:
    """One place of an ApiKeyConnection."""

    node: ApiKey = strawberry.field(description="The key.")
    cursor: str = strawberry.field(description="The place of this edge: give it as `after` to go on behind it.")


@strawberry.type(description="A page of API keys.")
class ApiKeyConnection:
    """A page of keys."""

    edges: list[ApiKeyEdge] = strawberry.field(description="The keys with their places.")
    page_info: PageInfo = strawberry.field(description="Where the page stands.")

    @classmethod
    async def read(cls, info: GraphInfo, first: int, after: str | None) -> Self:
        """The connection of a page."""
        async with info.context.reading() as view:
            found = await info.context.services.keys.list(view, first=page.page_size(first), after=after)
        edges = [
            ApiKeyEdge(node=ApiKey.from_domain(one), cursor=cursor)
            for one, cursor in zip(found.items, found.cursors, strict=True)
        ]
        return cls(edges=edges, page_info=PageInfo.of(found, after))


@strawberry.type(
    description="The decision on a denied action, or on one of an administrator. It is written down before the "
    "action is done, and does not tell what became of it: what was allowed may have failed afterwards."
)
class AuditRecord:
    """A record of the audit log."""

    id: strawberry.ID = strawberry.field(description="Its number; later ones are mostly larger.")
    at: datetime = strawberry.field(description="When.")
    principal: str = strawberry.field(description="Who: local, token, key:<id> or jwt:<issuer>#<subject>.")
    principal_name: str | None = strawberry.field(description="The name of the key, where it was one.")
    action: str = strawberry.field(description="What: a service and its method, such as namespaces.delete.")
    scope: str = strawberry.field(description="The scope that it needs.")
    namespace: str | None = strawberry.field(description="Where; null: in none in particular.")
    target: str | None = strawberry.field(description="What else it was about, such as a key's name.")
    allowed: bool = strawberry.field(description="Whether it was allowed; not, whether it then succeeded.")
    reason: str = strawberry.field(description="Why not; empty when it was.")

    @classmethod
    def from_domain(cls, one: audit.AuditRecord) -> Self:
        """The GraphQL form of a record."""
        return cls(
            id=strawberry.ID(str(one.id)), at=one.at, principal=one.principal, principal_name=one.label,
            action=one.action, scope=one.scope, namespace=one.namespace, target=one.target, allowed=one.allowed,
            reason=one.reason,
        )  # fmt: skip


@strawberry.type(description="A listed record.")
class AuditEdge:
    """One place of an AuditConnection."""

    node: AuditRecord = strawberry.field(description="The record.")
    cursor: str = strawberry.field(description="The place of this edge: give it as `after` to go on behind it.")


@strawberry.type(description="A page of the audit log, the newest first.")
class AuditConnection:
    """A page of records."""

    edges: list[AuditEdge] = strawberry.field(description="The records with their places.")
    page_info: PageInfo = strawberry.field(description="Where the page stands.")

    @classmethod
    async def read(cls, info: GraphInfo, first: int, after: str | None, wanted: audit.AuditFilter) -> Self:
        """The connection of a page."""
        async with info.context.reading() as view:
            size = page.page_size(first)
            found = await info.context.services.audit.list(view, first=size, after=after, wanted=wanted)
        edges = [
            AuditEdge(node=AuditRecord.from_domain(one), cursor=cursor)
            for one, cursor in zip(found.items, found.cursors, strict=True)
        ]
        return cls(edges=edges, page_info=PageInfo.of(found, after))


@strawberry.input(description="An API key to make. Sent again it is refused: there is a key of that name.")
class CreateApiKeyInput:
    """A key's name and what it may do. Without an idempotency key: the token is stored nowhere to be shown again."""

    name: str = strawberry.field(description="Its name: 1 to 100 printable characters, not a number.")
    scopes: list[Scope] = strawberry.field(description="What it may do: at least one, none that its maker lacks.")
    namespaces: list[str] = strawberry.field(
        description="Where: names, prefixes such as team/*, or * for all; none beyond its maker's."
    )
    expires_at: datetime | None = strawberry.field(
        description="From when on it is worth nothing; null: never.", default=None
    )


@strawberry.type(description="A new key.")
class CreateApiKeyPayload:
    """Answer of createApiKey."""

    api_key: ApiKey = strawberry.field(description="The key.")
    token: str = strawberry.field(description="Its token: shown now, and never again.")

    @classmethod
    def from_domain(cls, one: CreatedKey) -> Self:
        """The GraphQL form of a new key."""
        return cls(api_key=ApiKey.from_domain(one.key), token=one.token)


@strawberry.input(description="An API key to revoke.")
class RevokeApiKeyInput:
    """A key."""

    key: str = strawberry.field(description="Its id or its name.")


@strawberry.type(description="The key as revoked. In other processes it stops within 5 seconds.")
class RevokeApiKeyPayload:
    """Answer of revokeApiKey."""

    api_key: ApiKey = strawberry.field(description="The key.")
    token_needed: bool = strawberry.field(
        description="Whether a request still needs a token. False: no key is left, of a service that only "
        "this machine can reach, and whoever reaches it may do everything now."
    )
