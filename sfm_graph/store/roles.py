"""The two roles in the database: one owns the tables, the other has just the rights that statements use.

What the service's role cannot do, whatever a statement says: make, change or drop anything, empty a table, change or
remove what was audited, move a row into another namespace, read what is not the service's.
"""

import logging
from dataclasses import dataclass
from typing import Any, LiteralString, NamedTuple, cast

import psycopg
from psycopg import AsyncConnection, sql

from sfm_graph.errors import DatabaseUnavailable
from sfm_graph.store.statements import statement

log = logging.getLogger(__name__)

OWNER_ROLE = "sfm_owner"
SERVICE_ROLE = "sfm_service"


class Right(NamedTuple):
    """A privilege on a table, a column of it, a sequence or a function; column "" for all of it."""

    name: str
    kind: str
    column: str
    privilege: str


@dataclass(frozen=True, slots=True)
class Rights:
    """What statements do with a table beside reading it. `update`: the columns that they set, no others."""

    insert: bool = True
    delete: bool = True
    update: tuple[str, ...] = ()


# Nobody updates `namespace_id`: no statement can move a row. Columns of `changes` that order the log are its owner's.
TABLES: dict[str, Rights] = {
    "namespaces": Rights(update=("model_id", "settings")),
    "models": Rights(delete=False),
    "memories": Rights(
        update=(
            "key", "kind", "title", "content", "payload", "importance", "version", "updated_at", "valid_from",
            "valid_to", "digest", "expires_at", "legal_hold", "agent",
        )
    ),
    "links": Rights(update=("weight", "properties", "version", "updated_at", "valid_to", "maker", "agent")),
    # Never updated; rows are locked before they are deleted, which asks for the right to update some column.
    "embeddings": Rights(update=("embedding",)),
    "vector_indexes": Rights(update=("ready",)),
    "words": Rights(update=("window_length", "window_terms", "window_due")),
    "names": Rights(),
    "changes": Rights(update=("before", "after")),
    "change_log": Rights(insert=False, delete=False, update=("pruned_xid", "pruned_at", "known_from")),
    "commits": Rights(),
    "past_words": Rights(),
    "past_names": Rights(),
    "past_embeddings": Rights(),
    "followers": Rights(update=("seen", "until", "last_id", "epoch", "moved_at")),
    "idempotency_keys": Rights(update=("body", "answer", "created_at")),
    "api_keys": Rights(delete=False, update=("revoked_at", "last_used_at")),
    "audit_log": Rights(delete=False),
    "accesses": Rights(update=("count", "last_at")),
    "fading": Rights(update=("due_at", "step", "stepped_at", "touched_at")),
    "memory_counts": Rights(update=("count",)),
    "jobs": Rights(update=("state", "due_at", "ran_at", "error")),
    "predictor_use": Rights(update=("calls", "tokens")),
    "copies": Rights(update=("follows", "seen", "revoked_at", "error")),
    "copied_memories": Rights(update=("source_version", "version")),
    "import_batches": Rights(),
    "imported_versions": Rights(),
    "copied_links": Rights(update=("link_id", "source_version", "version")),
}  # fmt: skip
# What was known at a moment; only ever read.
VIEWS = (
    "versions_kept", "changes_since", "states_then", "link_states_then", "memories_then", "links_then", "words_then",
    "names_then", "embeddings_then",
)  # fmt: skip
SEQUENCES = ("memory_ids", "link_ids", "embedding_ids", "change_ids")
CALLED_FUNCTIONS = (
    "memory_state",
    "link_state",
    "sort_new_words",
    "current_tx",
    "stamp_commit",
    "known_moment",
    "known_floor",
)
FUNCTIONS = (
    *CALLED_FUNCTIONS, "add_change_partitions", "audit_log_keep", "keep_past_words", "keep_past_names",
    "keep_past_embeddings", "count_memories",
)  # fmt: skip
_OURS = {
    "tables": [*TABLES, *VIEWS, "schema_migrations"],
    "sequences": list(SEQUENCES),
    "functions": list(FUNCTIONS),
}


def wanted_rights() -> set[Right]:
    """Everything that the service's role is granted."""
    found = {Right(name, "sequence", "", "usage") for name in SEQUENCES}
    found |= {Right(name, "function", "", "execute") for name in CALLED_FUNCTIONS}
    found |= {Right(name, "table", "", "select") for name in VIEWS}
    for name, rights in TABLES.items():
        found.add(Right(name, "table", "", "select"))
        found |= {Right(name, "table", "", "insert")} if rights.insert else set()
        found |= {Right(name, "table", "", "delete")} if rights.delete else set()
        found |= {Right(name, "table", column, "update") for column in rights.update}
    return found


async def prepare(connection: AsyncConnection) -> str | None:
    """Make the roles where that is possible, and give what is there to the owner. The schema that tables are in, None
    where the connection's own role has to own them: it may neither make these roles nor take them on.

    Raises DatabaseUnavailable when the tables belong to a role that this connection may not take on.
    """
    me, is_super, may_create, schema = await _one(connection, "role_self")
    if schema is None:
        raise DatabaseUnavailable("the database has no schema for tables: search_path names none that exists")
    for role in (OWNER_ROLE, SERVICE_ROLE):
        if not await _usable(connection, role, me, may_create=is_super or may_create):
            await _stand_alone(connection, me)
            return None
    if not await _may_create(connection, schema):
        await _stand_alone(connection, me)
        return None
    await _attempt(connection, sql.SQL("grant usage on schema {} to {}").format(*_names(schema, SERVICE_ROLE)))
    await _shut_doors(connection, schema)
    # One by one: a lock on all tables at once would meet other processes' transactions in a deadlock.
    for (text,) in await _all(connection, "role_strangers", owner=OWNER_ROLE, schema=schema, **_OURS):
        await connection.execute(cast(LiteralString, text))
    return str(schema)


async def grant(connection: AsyncConnection, schema: str) -> None:
    """As the owner, give the service's role its rights, and take away whatever else it has. Mostly there is nothing
    to do: who grants what is granted already may collide with an index build."""
    rows = await _all(connection, "role_rights", role=SERVICE_ROLE, schema=schema, functions=_OURS["functions"])
    present, wanted = {Right(*row) for row in rows}, wanted_rights()
    for right in sorted(present - wanted):
        await connection.execute(_change("revoke {what} from {role}", right, schema))
    for right in sorted(wanted - present):
        await connection.execute(_change("grant {what} to {role}", right, schema))
    for (name,) in await _all(connection, "role_public_functions", schema=schema, functions=_OURS["functions"]):
        await connection.execute(f"revoke execute on function {name} from public")


def advice(role: str) -> str:
    """What to do so that the service runs with no more rights than it needs."""
    return f"as a superuser: create role {OWNER_ROLE}; create role {SERVICE_ROLE}; " + _membership(role)


def _membership(role: str) -> str:
    return f'grant {OWNER_ROLE}, {SERVICE_ROLE} to "{role}"; grant create, usage on schema public to {OWNER_ROLE}'


async def _stand_alone(connection: AsyncConnection, me: str) -> None:
    """Go on as the owner of the tables, unless they are somebody else's."""
    row = await (await connection.execute(statement("role_owner_of_tables"))).fetchone()
    if row and not row[1]:
        raise DatabaseUnavailable(f"the tables belong to the role {row[0]}: as a superuser: {_membership(me)}")
    log.warning("the service owns its tables: statements are not held to the rights that they need; %s", advice(me))


async def _usable(connection: AsyncConnection, role: str, me: str, *, may_create: bool) -> bool:
    exists, usable = await _one(connection, "role_usable", role=role)
    if not exists and may_create:
        try:
            await connection.execute(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            log.debug("another database's migration created the role meanwhile")
    elif usable:
        return True
    # Who makes a role may give it to itself, but does not have it.
    exists, usable = await _one(connection, "role_usable", role=role)
    if exists and not usable:
        await _attempt(connection, sql.SQL("grant {} to {}").format(*_names(role, me)))
        _, usable = await _one(connection, "role_usable", role=role)
    return bool(usable)


async def _may_create(connection: AsyncConnection, schema: str) -> bool:
    parameters = {"role": OWNER_ROLE, "schema": schema}
    if not (await _one(connection, "role_may_create", **parameters))[0]:
        query = sql.SQL("grant create, usage on schema {} to {}").format(*_names(schema, OWNER_ROLE))
        await _attempt(connection, query)
    return bool((await _one(connection, "role_may_create", **parameters))[0])


async def _shut_doors(connection: AsyncConnection, schema: str) -> None:
    """In a database of one's own: nobody makes tables by default, not even temporary ones, which would hide ours. And
    the service's role no longer makes any where it once owned them."""
    revoked = sql.SQL("revoke create on schema {} from {}").format(*_names(schema, SERVICE_ROLE))
    (makes,) = await _one(connection, "role_may_create", role=SERVICE_ROLE, schema=schema)
    if makes:
        await _attempt(connection, revoked)
    for temporary, tables in await _all(connection, "role_open_doors", schema=schema):
        if temporary:
            name = sql.Identifier(connection.info.dbname)
            await _attempt(connection, sql.SQL("revoke temporary on database {} from public").format(name))
        if tables:
            query = sql.SQL("revoke create on schema {} from public").format(sql.Identifier(schema))
            await _attempt(connection, query)


async def _attempt(connection: AsyncConnection, query: sql.Composed) -> None:
    """Run what may be forbidden; the next question tells whether it was."""
    try:
        await connection.execute(query)
    except psycopg.errors.InsufficientPrivilege as exc:
        log.debug("not allowed: %s", exc)


def _change(form: LiteralString, right: Right, schema: str) -> sql.Composed:
    column = sql.SQL(" ({})").format(sql.Identifier(right.column)) if right.column else sql.SQL("")
    what = sql.SQL("{}{} on {} {}").format(
        # Words of the lists above, or of the catalog.
        sql.SQL(right.privilege),
        column,
        sql.SQL(right.kind),
        sql.Identifier(schema, right.name),
    )
    return sql.SQL(form).format(what=what, role=sql.Identifier(SERVICE_ROLE))


def _names(*names: str) -> list[sql.Identifier]:
    return [sql.Identifier(name) for name in names]


async def _one(connection: AsyncConnection, name: str, **parameters: Any) -> tuple[Any, ...]:
    rows = await _all(connection, name, **parameters)
    return rows[0]


async def _all(connection: AsyncConnection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement(name), parameters)).fetchall()
