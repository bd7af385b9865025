"""The SQL itself: every statement is valid, keeps to its namespace, and runs on its index."""

import ast
import asyncio
import itertools
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlglot import exp
from statement_scope import namespace_tables, parsed, unscoped, uses

import sfm_graph
from sfm_graph.domain.link import Direction
from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.domain.page import OrderBy, OrderField
from sfm_graph.domain.walk import WalkFilter
from sfm_graph.domain.where import EVERYTHING, parse_link_where, parse_where
from sfm_graph.services.links import LinkRequest
from sfm_graph.services.registry import Services
from sfm_graph.store import dense, link_columns, links, search, text_rows
from sfm_graph.store.embedded.site import server_programs
from sfm_graph.store.migrations import make_ready
from sfm_graph.store.roles import TABLES, grant
from sfm_graph.store.search_columns import prefix_query, stems_query
from sfm_graph.store.statements import all_statements, sql_folder, statement
from sfm_graph.store.vector_indexes import Span, _create
from sfm_graph.store.where import listing

NAMESPACE_TABLES = namespace_tables()
# Maintenance and followers of the log are about all namespaces at once; no caller reaches them.
ACROSS_NAMESPACES = {
    "backup_counts",
    "copies_adopt",
    "copies_due",
    "copies_end",
    "copies_out",
    "copy_withdraw",
    "idempotent_prune",
    "vector_index_retired",
    "vector_index_unfinished",
    "vector_index_forget",
    "vector_ranges",
    "change_log_settle",
    "change_log_unread",
    "vector_index_lag",
    "change_partition_last",
    "imported_versions_prune",
    "past_embeddings_prune",
    "past_names_prune",
    "past_words_prune",
    "changes_any_everywhere",
    "changes_new_everywhere",
    "changes_least_everywhere",
    "changes_between_everywhere",
}

# Run over the connection that owns the tables: where a log is adopted or pruned, or its partitions are made.
OWNERS_STATEMENTS = {"change_log_adopt", "change_log_unread", "change_log_settle", "followers_adopt", "audit_prune"}


@pytest.mark.parametrize("name", sorted(all_statements().keys() - ACROSS_NAMESPACES))
def test_every_use_of_a_namespaces_table_names_the_namespace(name: str) -> None:
    assert unscoped(statement(name), NAMESPACE_TABLES) == []


def test_statements_about_all_namespaces_are_few_and_named() -> None:
    assert {name for name, text in all_statements().items() if unscoped(text, NAMESPACE_TABLES)} == ACROSS_NAMESPACES


@pytest.mark.parametrize(
    "text",
    [
        "select * from memories m where m.id = 1",
        "select * from memories m where m.namespace_id = %(namespace_id)s or m.id = 1",
        "select * from memories m where not m.namespace_id = %(namespace_id)s",
        "select * from memories m where m.namespace_id <> %(namespace_id)s",
        "select * from memories m where m.namespace_id = m.id",
        "select * from memories m join links l on l.source_id = m.id where m.namespace_id = %(namespace_id)s",
        "select m.namespace_id = %(namespace_id)s from memories m",
        "with x as (select * from words) select * from x where x.namespace_id = %(namespace_id)s",
        "delete from links using memories m where m.namespace_id = %(namespace_id)s",
        "insert into names (memory_id, name, head, name_id) select 1, 'a', 'a', 1",
        "insert into links (namespace_id) select l.id from links l where l.namespace_id = %(namespace_id)s",
        "update links l set weight = 1 from memories m where m.namespace_id = %(namespace_id)s and m.id = l.id",
    ],
)
def test_the_namespace_check_can_fail(text: str) -> None:
    assert unscoped(text, NAMESPACE_TABLES)


async def test_the_tables_with_a_namespace_are_those_of_the_catalog(database_dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_dsn) as connection:
        cursor = await connection.execute(
            "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid "
            "where a.attname = 'namespace_id' and c.relkind in ('r', 'p') and not c.relispartition"
        )
        assert {row[0] for row in await cursor.fetchall()} == NAMESPACE_TABLES


class _Sent(Exception):
    """A built statement got as far as the session."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Recorder:
    """A session that notes the statement it is given, and who gave it."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self._ranges = ranges
        self.senders: set[str] = set()

    async def rows(self, name: str, /, **parameters: object) -> list[tuple[int, int]]:
        return self._ranges

    async def run(self, name: str, /, **parameters: object) -> None:
        pass

    async def dynamic(self, query: sql.Composable | str, parameters: object = None) -> None:
        self._note(query, sys._getframe(1).f_code.co_name)

    async def copy_out(self, query: sql.Composable) -> AsyncIterator[memoryview]:
        self._note(query, "")
        yield memoryview(b"")

    def _note(self, query: sql.Composable | str, sender: str) -> None:
        raise _Sent(query if isinstance(query, str) else query.as_string())


def _built(recorder: Any) -> dict[str, list[Coroutine[Any, Any, object]]]:
    """Calls that send every kind of built statement, by the function that sends it."""
    ids, vector, walk = np.arange(1, 40_000, dtype=np.int64), np.ones(4, np.float32), WalkFilter(types=("a",))
    where = parse_where({"payload": [{"path": ["n"], "eq": 17}], "_not": {"kind": "entity"}})
    either = parse_where({"_or": [{"kind": "entity"}, {"importance": {"gt": 1}}]})
    weighed = parse_link_where({"_or": [{"weight": {"gt": 1}}, {"properties": [{"path": ["n"], "eq": 1}]}]})
    model, coordinate = (3, 4), OrderBy(OrderField.COORDINATE)
    return {
        "list_memories": [
            search.list_memories(recorder, 7, "demo", one, order, place, 5)
            for one in (EVERYTHING, where, either)
            for order, place in ((OrderBy(), None), (OrderBy(OrderField.KEY), ["a", 1]), (coordinate, ["{1}"]))
        ],
        "_packed_ids": [
            *(search.matching_ids(recorder, 7, one, limit) for one in (where, either) for limit in (None, 5)),
            *(search.matching_link_ids(recorder, 7, weighed, among) for among in (None, ids[:9])),
        ],
        "kept_of_memories": [
            links.kept_of_memories(recorder, 7, "demo", weighed, [1, 2], replace(walk, direction=way), 0, 5)
            for way in Direction
        ],
        "dense": [
            dense.dense(recorder, 7, model, vector, 5, allowed, windows=windows)
            for allowed in (None, ids[:9], ids, ids * 1_000)
            for windows in (False, True)
        ],
        "among": [dense.among(recorder, 7, model, vector, 5, ids[:9])],
        "_copied": [
            text_rows._copied(recorder, query, 7, 3, "m.memory_id", chosen)
            for query in (text_rows._WORDS, text_rows._NAMES, text_rows._VECTORS)
            for chosen in (None, [1, 2])
        ],
        "read_all_links": [link_columns.read_all_links(recorder, 7)],
    }


@pytest.mark.parametrize("ranges", [[], [(1, 5), (6, 9)]])
async def test_every_built_statement_names_the_namespace(ranges: list[tuple[int, int]]) -> None:
    recorder = _Recorder(ranges)
    for sender, calls in _built(recorder).items():
        for call in calls:
            with pytest.raises(_Sent) as sent:
                await call
            assert {one.name for one, _ in uses(parsed(sent.value.text))} & NAMESPACE_TABLES, sender
            assert unscoped(sent.value.text, NAMESPACE_TABLES) == [], sender


def test_no_built_statement_is_left_out() -> None:
    """Every function that sends a built statement is among those above."""
    senders = set()
    for path in Path(sfm_graph.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.AsyncFunctionDef) and any(
                isinstance(node, ast.Attribute) and node.attr in ("dynamic", "copy_out")
                for node in ast.walk(function)
            ):
                senders.add(function.name)
    calls = _built(_Recorder([]))
    for one in itertools.chain.from_iterable(calls.values()):
        one.close()
    assert senders == calls.keys()


def test_vector_indexes_are_of_one_namespace() -> None:
    span = Span(7, 3, ModelIdentity("m", "1", 4), 10, 20)
    made = _create(span, "hnsw", sql.SQL("part >= 0")).as_string()
    condition = made.split(" where ", 1)[1]
    assert unscoped(f"select 1 from embeddings where {condition}", NAMESPACE_TABLES) == []


def test_the_services_rights_are_exactly_what_statements_use() -> None:
    """Beside reading; `for update` and its like need the right to update some column."""
    used: dict[str, set[str]] = {}
    updated: dict[str, set[str]] = {}
    for name, text in all_statements().items():
        if name in OWNERS_STATEMENTS:
            continue
        for table, done in uses(parsed(text)):
            used.setdefault(table.name, set()).add(done)
            node = table.parent
            if done == "update" and isinstance(node, exp.Update):
                updated.setdefault(table.name, set()).update(one.this.name for one in node.expressions)
            conflict = node.find_ancestor(exp.Insert) if done == "insert" and node else None
            if conflict is not None and (on := conflict.args.get("conflict")) is not None:
                updated.setdefault(table.name, set()).update(
                    one.this.name for one in on.args.get("expressions") or []
                )
    # Triggers and the stamp of a commit write as the service.
    bodies = re.findall(r"\$\$(.*?)\$\$", (sql_folder() / "schema.sql").read_text(), re.DOTALL)
    for body in bodies:
        for table_name in re.findall(r"insert into (\w+)", body):
            used.setdefault(table_name, set()).add("insert")
    for table_name, rights in TABLES.items():
        assert ("insert" in used[table_name], "delete" in used[table_name]) == (rights.insert, rights.delete), (
            table_name
        )
        expected = {"embedding"} if table_name == "embeddings" else updated.get(table_name, set())
        assert set(rights.update) == expected, table_name
    assert not any("namespace_id" in rights.update for rights in TABLES.values())


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
            with asyncio.Runner() as runner:
                runner.run(_granted(whole))
            assert _dump(whole) == _dump(database_dsn)
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


async def _granted(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        schema = await make_ready(connection)
        assert schema == "public"
        await grant(connection, schema)


def _dump(dsn: str) -> list[str]:
    tools = server_programs()
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
        await connection.execute(
            "insert into fading (namespace_id, memory_id, due_at, step) select namespace_id, id, "
            "now() + id * interval '1 hour', case id % 10 when 0 then 'forgotten' else 'whole' end from memories"
        )
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
            {"low": "{0,0,0}", "high": "{0.01,1,1}", "after": "{}", "kind": None, "limit": 10, "valid": None},
            ["memories_coordinate"],
        ),
        ("memory_words", {"query": prefix_query(large, ["word17"], prefix=True), "after": 0, "pattern": None,
                          "limit": 10, "valid": None}, ["words_lexemes"]),
        ("lexical_search", {"query": stems_query(large, ["word17"]), "term_ids": [17], "k1": 1.2, "b": 0.75,
                            "limit": 10, "at": "2026-01-01"}, ["words_lexemes"]),
        ("steps_from", {"frontier": [5], "outward": True, "inward": True, "types": None, "limit": 10,
                        "at": "2026-01-01", "after": 0},
         ["links_out", "links_in"]),
        ("newest_change", {}, ["namespace_id_xid_idx"]),
        ("changed_links", {"since": "999999:999999:"}, ["namespace_id_xid_idx"]),
        ("links_of_memories", {"ids": [5], "outward": True, "inward": True, "types": None, "after": 0, "limit": 10},
         ["links_out", "links_in"]),
        ("changed_memories", {"since": "999999:999999:"}, ["namespace_id_xid_idx"]),
        ("importance_sample", {}, ["memories_importance", "memories_pkey"]),
        ("fading_due", {"now": datetime.now(UTC), "limit": 100}, ["fading_due", "fading_erasure"]),
        ("fading_least", {"limit": 100}, ["fading_due"]),
        ("fading_expired", {"now": datetime.now(UTC), "limit": 100, "namespace": None, "put_off": []},
         ["memories_expiry"]),
        ("memory_digests", {"keys": ["k1"], "coordinates": ["{1}"]}, ["memories_key", "memories_coordinate"]),
    ]  # fmt: skip
    for name, parameters, indexes in expected:
        plan = await _plan(crowded, statement(name), {"namespace_id": large, **parameters})
        for index in indexes:
            assert index in plan, f"{name} does not use {index}:\n{plan}"
        assert not re.search(r"Seq Scan on (memories|fading)\b", plan), f"{name}:\n{plan}"


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
