"""The changes of late, for all subscribers of a process: a bounded row of entries that each reads at its own pace."""

from collections import deque
from dataclasses import dataclass

from sfm_graph.domain.change import Change, Operation
from sfm_graph.domain.snapshot import Snapshot

# What it holds at most.
MAX_CHANGES = 10_000
MAX_CHARS = 32 * 1024**2


@dataclass(frozen=True, slots=True)
class Entry:
    """Changes that were read at once, by namespace and in id order.

    `since`: the last snapshot that was read whole before them; `until`: the one that sees them; `seen`: the last one
    that is read whole with them, `since` again when the delta goes on in the next entry.
    """

    since: Snapshot
    until: Snapshot
    seen: Snapshot
    changes: dict[int, tuple[Change, ...]]

    @property
    def count(self) -> int:
        """Of changes."""
        return sum(map(len, self.changes.values()))

    @property
    def chars(self) -> int:
        """Of their states."""
        return sum(one.chars for some in self.changes.values() for one in some)

    @property
    def erases(self) -> bool:
        """Whether what was said before is to be said no more."""
        return any(one.operation is Operation.ERASE for some in self.changes.values() for one in some)


class Ring:
    """Entries by ascending number. The oldest go when there are too many, all when something was erased."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self.first = 0
        self._count = self._chars = 0
        self._latest: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def end(self) -> int:
        """The number of the next entry."""
        return self.first + len(self._entries)

    def latest(self, namespace_id: int) -> int:
        """The number of the last entry with changes of a namespace, whether it is still there or not; -1: none."""
        return self._latest.get(namespace_id, -1)

    def next(self, namespace_id: int, number: int) -> tuple[int, Entry] | None:
        """The first entry from a number on with changes of a namespace, and its number; None: it is gone."""
        for at in range(number, self.end) if number >= self.first else ():
            entry = self._entries[at - self.first]
            if namespace_id in entry.changes:
                return at, entry
        return None

    def append(self, entry: Entry) -> None:
        """Add what was read last. States that are erased with it are not kept for anyone."""
        for namespace_id in entry.changes:
            self._latest[namespace_id] = self.end
        self._entries.append(entry)
        self._count += entry.count
        self._chars += entry.chars
        if entry.erases:
            self.clear()
        while self._count > MAX_CHANGES or self._chars > MAX_CHARS:
            oldest = self._entries.popleft()
            self.first += 1
            self._count -= oldest.count
            self._chars -= oldest.chars

    def clear(self) -> None:
        """Drop all entries; their readers go on in the database."""
        self.first = self.end
        self._entries.clear()
        self._count = self._chars = 0

    def forget(self, namespace_id: int) -> None:
        """Nobody reads this namespace any more."""
        self._latest.pop(namespace_id, None)
