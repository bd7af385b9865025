"""What a look at a memory that came due decides, and what a summarised memory keeps. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sfm_graph.domain.fading import Act, FadingRules, Reason, Step, Vitals, due_at, retention
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import Memory, NewMemory
from sfm_graph.domain.summary import summary
from sfm_graph.domain.words import ENGLISH

# What is held, or cannot be told, is looked at again after so long.
LATER = timedelta(days=30)
# Texts up to this stay as they are.
SHORT_CHARS = 500
SUMMARY_SENTENCES = 3


@dataclass(frozen=True, slots=True)
class Faded:
    """A memory that fades, as stored. `vitals` None: there is no such memory any more.

    due_at: None where nobody has noted any. stepped_at, touched_at: when it was summarised, and when it had last
    been touched by then.
    """

    id: MemoryId
    due_at: datetime | None
    step: Step
    stepped_at: datetime | None
    touched_at: datetime | None
    vitals: Vitals | None
    held: bool = False
    key: str | None = None
    title: str | None = None

    def seen(self) -> "Faded":
        """As it counts: summarising it was no touch, and a touch after that undoes the step."""
        if self.vitals is None or self.step is Step.WHOLE:
            return self
        since, touched = self.stepped_at, self.touched_at
        if self.step is not Step.SUMMARISED or since is None or touched is None or self.vitals.touched > since:
            return replace(self, step=Step.WHOLE, stepped_at=None, touched_at=None)
        return replace(self, vitals=replace(self.vitals, touched=touched))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of it: an act, or, without one, a later look; without either there is nothing more to look at."""

    act: Act | None = None
    reason: Reason | None = None
    retention: float | None = None
    later: datetime | None = None


def verdict(rules: FadingRules, faded: Faded, now: datetime) -> Verdict:
    """What to do with a memory, as `Faded.seen` gives it, at a moment."""
    if faded.due_at is not None and faded.due_at > now:
        # Somebody else was faster.
        return Verdict(later=faded.due_at)
    if faded.vitals is None:
        return _of_gone(rules, faded, now)
    if faded.held:
        return Verdict(later=now + LATER)
    left = retention(rules, faded.vitals, now)
    if left >= rules.threshold:
        return Verdict(later=max(due_at(rules, faded.vitals), now + timedelta(seconds=1)))
    act = Act.SUMMARISE if rules.summarise and faded.step is Step.WHOLE else Act.FORGET
    return Verdict(act, Reason.FADED, left)


def _of_gone(rules: FadingRules, faded: Faded, now: datetime) -> Verdict:
    if faded.step is not Step.FORGOTTEN or rules.erase_after is None or faded.stepped_at is None:
        return Verdict()
    end = faded.stepped_at + rules.erase_after
    return Verdict(later=end) if end > now else Verdict(Act.ERASE, Reason.FORGOTTEN_LONG_AGO)


def summarised(memory: Memory, language: str = ENGLISH) -> NewMemory | None:
    """A memory cut down to what says most of it; None where it is short already.

    The content becomes its summary. Of the payload, numbers, flags, structure and short texts stay; a text of more
    than 500 characters becomes its summary. Everything else stays as it is.
    """
    content, payload = _cut(memory.content, language), _cut_all(memory.payload, language)
    if content == memory.content and payload == memory.payload:
        return None
    return NewMemory(
        memory.coordinate, memory.key, memory.kind, memory.title, content, payload, memory.importance,
        memory.valid_from, memory.valid_to, expires_at=memory.expires_at, agent=memory.agent,
    )  # fmt: skip


def _cut(text: str, language: str) -> str:
    if len(text) <= SHORT_CHARS:
        return text
    # A text without words has no summary.
    return summary(text, sentences=SUMMARY_SENTENCES, max_chars=SHORT_CHARS, language=language) or text[:SHORT_CHARS]


def _cut_all(value: Any, language: str) -> Any:
    if isinstance(value, str):
        return _cut(value, language)
    if isinstance(value, Mapping):
        return {name: _cut_all(one, language) for name, one in value.items()}
    if isinstance(value, list):
        return [_cut_all(one, language) for one in value]
    return value
