"""How far extraction has come in a namespace: a place in its changes, or in a first pass over its memories."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Self
from uuid import UUID

from sfm_graph.domain.position import ChangeLog, Position
from sfm_graph.domain.snapshot import Snapshot

# A question that has been answered wrongly so often is given up.
MAX_TRIES: Final = 3
_FIRST_PAUSE_SECONDS: Final = 5.0
_LONGEST_PAUSE_SECONDS: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class ExtractionState:
    """`after`: the last memory of the first pass, None when that is done. `skipped`: memories about which the
    predictor gave no usable answer. `failures`: runs in a row that failed; `tries`: those at one memory, `tried`."""

    epoch: UUID
    position: Position
    after: int | None = 0
    extracted: int = 0
    skipped: int = 0
    failures: int = 0
    tried: int = 0
    tries: int = 0

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Self | None:
        """The state from its JSON form; None before the first run."""
        if "_seen" not in state:
            return None
        until = None if state["_until"] is None else Snapshot(state["_until"])
        return cls(
            UUID(state["_epoch"]), Position(Snapshot(state["_seen"]), until, state["_last_id"]), state["_after"],
            state["extracted"], state["skipped"], state["_failures"], state["_tried"], state["_tries"],
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The JSON form; callers see what has no `_` in front."""
        position = self.position
        return {
            "_epoch": str(self.epoch), "_seen": position.seen.text,
            "_until": None if position.until is None else position.until.text, "_last_id": position.last_id,
            "_after": self.after, "extracted": self.extracted, "skipped": self.skipped, "_failures": self.failures,
            "_tried": self.tried, "_tries": self.tries,
        }  # fmt: skip

    @classmethod
    def beginning(cls, log: ChangeLog, snapshot: str, before: Self | None) -> Self:
        """The state that begins with all memories that a snapshot sees."""
        fresh = cls(log.epoch, Position(Snapshot(snapshot)))
        return fresh if before is None else replace(fresh, extracted=before.extracted, skipped=before.skipped)

    def follows(self, log: ChangeLog) -> bool:
        """Whether the log still holds all that comes after the place."""
        return self.epoch == log.epoch and log.keeps(self.position.seen)

    def behind(self, place: Self) -> Self:
        """At the place of another state, with one more memory read."""
        return replace(self, position=place.position, after=place.after, tried=0, tries=0)

    def failed(self, memory_id: int, *, wrong: bool) -> Self:
        """After a run that failed at a memory. `wrong`: by an answer that cannot be used."""
        tries = (self.tries if self.tried == memory_id else 0) + wrong
        return replace(self, failures=self.failures + 1, tried=memory_id, tries=tries)

    def gives_up(self, memory_id: int) -> bool:
        """Whether a memory has been asked about in vain often enough."""
        return self.tried == memory_id and self.tries >= MAX_TRIES

    @property
    def pause(self) -> timedelta:
        """How long to wait after a failure: twice as long each time, from 5 seconds to an hour."""
        seconds = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(self.failures - 1, 20), _LONGEST_PAUSE_SECONDS)
        return timedelta(seconds=seconds * random.uniform(0.75, 1))  # noqa: S311 - jitter, not a secret
