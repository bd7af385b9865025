"""The SQL itself: every statement is valid, keeps to its namespace, and runs on its index."""

import re
import subprocess

import psycopg
import pytest
import sqlglot
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlglot import exp

from sfm_graph.domain.page import OrderBy, OrderField
from sfm_graph.domain.where import EVERYTHING, parse_where
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.store.embedded.site import _programs
from sfm_graph.store.search_columns import prefix_query, stems_query
from sfm_graph.store.statements import all_statements, sql_folder, statement
from sfm_graph.store.where import listing

NAMESPACE_TABLES = {"memories", "links", "embeddings", "words", "changes", "idempotency_keys", "vector_indexes"}
# Maintenance and followers of the log are about all namespaces at once; no caller reaches them.
ACROSS_NAMESPACES = {
    "idempotent_prune",
    "vector_index_unfinished",
    "vector_index_forget",
    "vector_heads",
    "vector_ranges",
    "change_log_settle",
    "change_log_unread",
    "vector_index_lag",
    "change_partition_last",
    "changes_any_everywhere",
    "changes_new_everywhere",
    "changes_least_everywhere",
    "changes_between_everywhere",
}


def _parsed(text: str) -> exp.Expression:
    # The parser knows neither psycopg's placeholders nor pgvector's operator.
    neutral = re.sub(r"%\((\w+)\)[sb]", r":\1", text).replace("<#>", "+")
    return sqlglot.parse_one(neutral, dialect="postgres")


@pytest.mark.parametrize("name", sorted(all_statements().keys() - ACROSS_NAMESPACES))
def test_every_use_of_a_namespaces_table_names_the_namespace(name: str) -> None:
    text = statement(name)
    tree = _parsed(text)
    for table in tree.find_all(exp.Table):
        if table.name not in NAMESPACE_TABLES:
            continue
        scope = table.find_ancestor(exp.Select, exp.Update, exp.Delete, exp.Insert)
        assert scope is not None
        assert "namespace_id" in scope.sql(), f"{name} reads {table.name} without its namespace"
        where = scope.args.get("where")
        joins = " ".join(join.sql() for join in scope.args.get("joins") or [])
        if not isinstance(scope, exp.Insert):
            scoped = f"{where.sql() if where else ''} {joins}"
            alias = table.alias_or_name
            assert f"{alias}.namespace_id = " in scoped or "namespace_id = " in scoped, name


def test_the_namespace_check_can_fail() -> None:
    tree = _parsed("select * from memories m where m.id = 1")
    assert "namespace_id" not in tree.sql()


async def test_every_statement_prepares(database_dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        for name, text in all_statements().items():
            numbered = _numbered(text)
            await connection.execute(f"prepare check_{name} as {numbered}")  # type: ignore[arg-type]


def _numbered(text: str) -> str:
    order: dict[str, int] = {}
    return re.sub(r"%\((\w+)\)[sb]", lambda m: f"${order.setdefault(m[1], len(order) + 1)}", text)


def test_schema_file_equals_the_migrations(server_dsn: str, database_dsn: str, worker_id: str) -> None:
    name = f"schema_{worker_id}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            whole = make_conninfo(server_dsn, dbname=name)
            with psycopg.connect(whole, autocommit=True) as fresh:
                fresh.execute("create extension vector; grant create, usage on schema public to sfm_service")
                fresh.execute("set role sfm_service")
                fresh.execute((sql_folder() / "schema.sql").read_text())  # type: ignore[arg-type]
                fresh.execute(
                    "create table schema_migrations (number integer primary key, name text not null, "
                    "checksum text not null, applied_at timestamptz not null default now())"
                )
            assert _dump(whole) == _dump(database_dsn)
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _dump(dsn: str) -> list[str]:
    tools = _programs()
    parts = conninfo_to_dict(dsn)
    command = [
        tools / "pg_dump", "--schema-only", "-h", parts["host"], "-p", str(parts["port"]), "-U", parts["user"],
        "-d", parts["dbname"],
    ]  # fmt: skip
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    # The partitions of the change log begin on the day that the schema was made.
    return sorted(line for line in lines if line and not line.startswith(("--", "\\")) and "FOR VALUES" not in line)


@pytest.fixture
async def crowded(services: Services, database_dsn: str) -> str:
    """A namespace of 3,000 memories beside 20 small ones, with statistics: large enough that indexes pay."""
    for number in range(20):
        await services.memory_writes.store_many(f"small{number}", [{"content": "a b c"} for _ in range(50)])
    items = [
        {"key": f"k{i}", "content": f"word{i} word{i % 50} common", "importance": i % 7, "payload": {"n": i}}
        for i in range(3_000)
    ]
    await services.memory_writes.store_many("large", items)
    requests = [LinkRequest({"key": f"k{i}"}, {"key": f"k{(i * 7) % 3000}"}, {}) for i in range(3_000)]
    await services.links.link_many("large", requests)
    async with await psycopg.AsyncConnection.connect(database_dsn, autocommit=True) as connection:
        await connection.execute("vacuum analyze")
    return database_dsn


async def _plan(dsn: str, query: str, parameters: dict[str, object]) -> str:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        cursor = await connection.execute("explain " + query, parameters)  # type: ignore[arg-type]
        return "\n".join(row[0] for row in await cursor.fetchall())


def _large(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select id from namespaces where name = 'large'").fetchone()
        assert row
        return int(row[0])


async def test_hot_statements_run_on_their_index(crowded: str) -> None:
    large = _large(crowded)
    refs = {"ids": [5], "keys": ["k7"], "coordinates": ["{1,2,3}"]}
    expected: list[tuple[str, dict[str, object], list[str]]] = [
        ("memory_find", refs, ["memories_pkey", "memories_key", "memories_coordinate"]),
        ("memory_lock", refs, ["memories_pkey", "memories_key", "memories_coordinate"]),
        ("memory_by_ids", {"ids": [1, 2, 3]}, ["memories_pkey"]),
        (
            "memory_range",
            {"low": "{0,0,0}", "high": "{0.01,1,1}", "after": "{}", "kind": None, "limit": 10},
            ["memories_coordinate"],
        ),
        ("memory_words", {"query": prefix_query(large, ["word17"], prefix=True), "after": 0, "pattern": None,
                          "limit": 10}, ["words_lexemes"]),
        ("lexical_search", {"query": stems_query(large, ["word17"]), "term_ids": [17], "k1": 1.2, "b": 0.75,
                            "limit": 10}, ["words_lexemes"]),
        ("steps_from", {"frontier": [5], "outward": True, "inward": True, "types": None, "limit": 10,
                        "at": "2026-01-01", "after": 0},
         ["links_out", "links_in"]),
        ("newest_change", {}, ["namespace_id_xid_idx"]),
        ("changed_links", {"since": "999999:999999:"}, ["namespace_id_xid_idx"]),
        ("links_of_memories", {"ids": [5], "outward": True, "inward": True, "types": None, "after": 0, "limit": 10},
         ["links_out", "links_in"]),
        ("changed_memories", {"since": "999999:999999:"}, ["namespace_id_xid_idx"]),
        ("memory_digests", {"keys": ["k1"], "coordinates": ["{1}"]}, ["memories_key", "memories_coordinate"]),
    ]  # fmt: skip
    for name, parameters, indexes in expected:
        plan = await _plan(crowded, statement(name), {"namespace_id": large, **parameters})
        for index in indexes:
            assert index in plan, f"{name} does not use {index}:\n{plan}"
        assert "Seq Scan on memories" not in plan, f"{name}:\n{plan}"


@pytest.mark.parametrize(
    ("order", "index"),
    [
        (OrderField.ID, "memories_pkey"),
        (OrderField.CREATED_AT, "memories_created"),
        (OrderField.UPDATED_AT, "memories_updated"),
        (OrderField.IMPORTANCE, "memories_importance"),
        (OrderField.KEY, "memories_key"),
        (OrderField.COORDINATE, "memories_coordinate"),
    ],
)
async def test_listings_run_on_the_index_of_their_order(crowded: str, order: OrderField, index: str) -> None:
    query, parameters = listing(_large(crowded), EVERYTHING, OrderBy(order), None, 20)
    plan = await _plan(crowded, query, parameters)
    assert index in plan
    assert "Seq Scan" not in plan


async def test_payload_conditions_run_on_the_payload_index(crowded: str) -> None:
    for condition in ({"path": ["n"], "eq": 17}, {"path": ["n"], "in": [17, 18]}, {"path": ["rare"], "exists": True}):
        where = parse_where({"payload": [condition]})
        query, parameters = listing(_large(crowded), where, OrderBy(), None, 20)
        plan = await _plan(crowded, query, parameters)
        assert "memories_payload" in plan, condition
