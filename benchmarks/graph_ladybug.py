"""Ladybug, the embedded graph database that carries on Kuzu, asked in Cypher; it caches plans by their text."""

import tempfile
from pathlib import Path
from typing import Any

import ladybug

from benchmarks.graph_data import Graph, blocks
from benchmarks.graph_questions import Unfinished, first_links

_STATEMENTS = {
    "links": "match (a:Memory {id: $node})-[l:Link]-(b:Memory) return l.id as id, b.id order by id limit $limit",
    # The distinct ends of plain two-link patterns take three times as long, of `*1..2` two hundred times at a hub.
    "two_hops": "match (a:Memory {id: $node})-[:Link* shortest 1..2]-(b:Memory) where b.id <> $node return count(*)",
    "three_hops": "match (a:Memory {id: $node})-[:Link* shortest 1..3]-(b:Memory) where b.id <> $node "
    "return count(*)",
    "shortest": "match (a:Memory {id: $start})-[l:Link* shortest 1..30]-(b:Memory {id: $goal}) return length(l)",
    "cheapest": "match (a:Memory {id: $start})-[l:Link* wshortest(weight)]-(b:Memory {id: $goal}) return cost(l)",
}


class Ladybug:
    """A database in a temporary folder. PageRank is in an extension that has to be downloaded, without seeds."""

    def __init__(self, timeout_ms: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sfm-bench-ladybug-")
        self._database = ladybug.Database(str(self._path("graph.db")))
        self._connection = ladybug.Connection(self._database)
        self._connection.set_query_timeout(timeout_ms)
        self._timeout_ms = timeout_ms

    def prepare(self, graph: Graph) -> None:
        """The files that are loaded."""
        self._path("memories.csv").write_text("".join(f"{node}\n" for node in range(graph.nodes)))
        with self._path("links.csv").open("w") as file:
            for block in blocks(len(graph.link_ids), 100_000):
                columns = (graph.source, graph.target, graph.link_ids, graph.type, graph.weight)
                rows = zip(*(column[block].tolist() for column in columns), strict=True)
                file.writelines(f"{','.join(map(repr, row))}\n" for row in rows)

    def load(self, graph: Graph) -> None:
        self._connection.set_query_timeout(0)
        for command in (
            "create node table Memory(id int64 primary key)",
            "create rel table Link(from Memory to Memory, id int64, type int64, weight double)",
            f"copy Memory from '{self._path('memories.csv')}'",
            f"copy Link from '{self._path('links.csv')}'",
        ):
            self._connection.execute(command)
        self._connection.set_query_timeout(self._timeout_ms)

    def neighbours(self, node: int, limit: int) -> list[int]:
        return first_links(lambda count: self._rows("links", node=node, limit=count), limit)

    def two_hops(self, node: int) -> int:
        return int(self._rows("two_hops", node=node)[0][0])

    def three_hops(self, node: int) -> int:
        return int(self._rows("three_hops", node=node)[0][0])

    def shortest(self, start: int, goal: int) -> int | None:
        rows = self._rows("shortest", start=start, goal=goal)
        return rows[0][0] if rows else None

    def cheapest(self, start: int, goal: int) -> float | None:
        rows = self._rows("cheapest", start=start, goal=goal)
        return rows[0][0] if rows else None

    def _rows(self, name: str, **parameters: Any) -> list[Any]:
        try:
            result = self._connection.execute(_STATEMENTS[name], parameters)
        except RuntimeError as exc:
            if "nterrupt" in str(exc) or "imeout" in str(exc):
                raise Unfinished("time limit") from exc
            raise
        return list(result.get_all())

    def _path(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def close(self) -> None:
        self._connection.close()
        self._database.close()
        self._folder.cleanup()
