"""Postgres snapshots as cursors: what a reader has seen, comparable without asking the database."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The text of a `pg_snapshot` (`xmin:xmax:in,progress`), taken in a transaction that wrote nothing."""

    text: str

    def precedes(self, other: "Snapshot") -> bool:
        """True when everything that this snapshot sees is also seen by `other`."""
        _, my_end, mine = self._parts()
        _, end, running = other._parts()
        return my_end <= end and all(xid >= my_end or xid in mine for xid in running)

    def _parts(self) -> tuple[int, int, frozenset[int]]:
        start, end, running = self.text.split(":")
        return int(start), int(end), frozenset(int(xid) for xid in running.split(",") if xid)
