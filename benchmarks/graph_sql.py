"""Recursive queries on the service's own tables and indexes, as a user would write them.

They leave out that a link has to be valid now, which the service checks: with it no index would hold all they read.
"""

from typing import Any

import psycopg

from benchmarks.graph_data import Graph
from benchmarks.graph_load import NAMESPACE
from benchmarks.graph_questions import Unfinished, first_links

# A walk of more links than this is not looked for.
MAX_HOPS = 24

_STEPS = """
    select {columns}, target_id as to_id from links where namespace_id = %(namespace)s and source_id = {origin}
    union all
    select {columns}, source_id from links where namespace_id = %(namespace)s and target_id = {origin}"""

LINKS = _STEPS.format(columns="id", origin="%(node)s") + " order by 1 limit %(limit)s"

_WALK = f"""with recursive walk (id, hops) as (
    select %(node)s::bigint, 0
    union
    select steps.to_id, hops + 1 from walk cross join lateral (
        {_STEPS.format(columns="id", origin="walk.id")}
    ) steps where hops < %(hops)s
) """

WITHIN = _WALK + "select count(distinct id) - 1 from walk"

# A recursive query yields its rows level by level and is not carried on beyond the limit.
SHORTEST = _WALK + "select hops from walk where id = %(goal)s limit 1"

# Each level keeps the cheapest way to each memory, for a recursive term may hold no aggregate over earlier levels.
CHEAPEST = f"""with recursive walk (id, hops, cost, place) as (
    select %(node)s::bigint, 0, 0::double precision, 1::bigint
    union all
    select * from (
        select steps.to_id, hops + 1, cost + steps.weight,
               row_number() over (partition by steps.to_id order by cost + steps.weight) as place
        from walk cross join lateral ({_STEPS.format(columns="weight", origin="walk.id")}) steps
        where hops < %(hops)s
    ) reached where place = 1
) select min(cost) from walk where id = %(goal)s"""


class RecursiveSql:
    """Prepared statements over one connection of the blocking driver."""

    def __init__(self, dsn: str, timeout_ms: int) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._connection.execute(f"set statement_timeout = {timeout_ms}".encode())
        found = self._connection.execute("select id from namespaces where name = %s", (NAMESPACE,)).fetchone()
        self._namespace = found[0] if found else None
        self._ids: list[int] = []

    def load(self, graph: Graph) -> None:
        """Nothing: the data is there."""
        self._ids = graph.memory_ids.tolist()

    def neighbours(self, node: int, limit: int) -> list[int]:
        return first_links(lambda count: self._rows(LINKS, node=self._ids[node], limit=count), limit)

    def two_hops(self, node: int) -> int:
        return self._within(node, 2)

    def three_hops(self, node: int) -> int:
        return self._within(node, 3)

    def _within(self, node: int, hops: int) -> int:
        return int(self._rows(WITHIN, node=self._ids[node], hops=hops)[0][0])

    def shortest(self, start: int, goal: int) -> int | None:
        rows = self._rows(SHORTEST, node=self._ids[start], goal=self._ids[goal], hops=MAX_HOPS)
        return rows[0][0] if rows else None

    def cheapest(self, start: int, goal: int) -> float | None:
        rows = self._rows(CHEAPEST, node=self._ids[start], goal=self._ids[goal], hops=MAX_HOPS)
        return None if rows[0][0] is None else float(rows[0][0])

    def _rows(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        try:
            cursor = self._connection.execute(
                query.encode(), {"namespace": self._namespace, **parameters}, prepare=True, binary=True
            )
            return cursor.fetchall()
        except psycopg.errors.QueryCanceled as exc:
            raise Unfinished("time limit") from exc

    def close(self) -> None:
        self._connection.close()
