"""Postgres snapshots as cursors: what a reader has seen, comparable without asking the database."""

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The text of a `pg_snapshot` (`xmin:xmax:in,progress`), taken in a transaction that wrote nothing."""

    text: str

    def precedes(self, other: "Snapshot") -> bool:
        """True when everything that this snapshot sees is also seen by `other`."""
        _, my_end, mine = self._parts()
        _, end, running = other._parts()
        return my_end <= end and all(xid >= my_end or xid in mine for xid in running)

    def covers(self, xid: int | None) -> bool:
        """True when nothing of the transactions up to this one is unseen; None: there is no such transaction."""
        if xid is None:
            return True
        _, end, running = self._parts()
        return xid < end and all(one > xid for one in running)

    def sees(self, xid: int) -> bool:
        """Whether what this transaction did, if it was committed, is visible."""
        _, end, running = self._parts()
        return xid < end and xid not in running

    def bounds(self) -> tuple[int, int, list[int]]:
        """The first transaction in progress, the first that had not begun, and those in progress, ascending."""
        start, end, running = self._parts()
        return start, end, sorted(running)

    def _parts(self) -> tuple[int, int, frozenset[int]]:
        return _parsed(self.text)


@lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[int, int, frozenset[int]]:
    start, end, running = text.split(":")
    return int(start), int(end), frozenset(int(xid) for xid in running.split(",") if xid)
