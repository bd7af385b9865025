"""Consolidation: episodes that belong together become a semantic memory, linked to them."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.consolidation import DEFAULT_RULES, ConsolidationRules, Window
from sfm_graph.domain.cues import own_text
from sfm_graph.domain.deadline import remaining_seconds
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.sentences import sentences
from sfm_graph.domain.summary import summary_of
from sfm_graph.errors import (
    BudgetSpent,
    ContentRefused,
    HookRefused,
    LegalHold,
    NamespaceNotFound,
    Overloaded,
    SfmError,
    TooLarge,
    Unavailable,
)
from sfm_graph.services.access.guard import needs
from sfm_graph.services.consolidation.plans import Plan
from sfm_graph.services.consolidation.progress import Progress, ends, places
from sfm_graph.services.consolidation.windows import planned
from sfm_graph.services.consolidation.writing import Stale, Writing
from sfm_graph.services.fading.room import Room
from sfm_graph.services.hooks import NO_HOOKS, Hooks
from sfm_graph.services.indexing import Indexing
from sfm_graph.services.settling import Settling
from sfm_graph.store import change_stream, jobs, memories, namespaces
from sfm_graph.store import consolidation as store
from sfm_graph.store.change_stream import Scope as LogScope
from sfm_graph.store.database import Database, WriteSession

log = logging.getLogger(__name__)

JOB = "consolidation"
EXTRACTIVE, PREDICTED = "extractive", "predictor"
MAX_CHARS = 2_000
# The sentences of a summary: two, and one for every three sources, up to so many.
MAX_SENTENCES = 12
# A report shows so many of its groups.
MAX_REPORTED = 100
# Changes that are looked at before it is noted how far that has come.
SLICE_CHANGES = 200
# A window that others change all the time is left for the next run.
ATTEMPTS = 4
# How long a call goes on, how often the service looks whose turn it is, how many namespaces it then takes.
CALL_SECONDS = 5.0
ROUND_SECONDS = 30.0
ROUND_NAMESPACES = 4
# A process that died with a namespace in its hands lets go of it after so long.
LEASE = timedelta(minutes=10)

# What texts of a namespace say together, in at most so many characters.
Summarise = Callable[[str, Sequence[str], int], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class ConsolidatedGroup:
    """A group that was consolidated, or in a dry run would be. `memory`: None in a dry run; `created`: it is new.

    `method`: who wrote the content, "extractive" or "predictor". `sources` in the order of time.
    """

    memory: Memory | None
    created: bool
    sources: tuple[MemoryId, ...]
    content: str
    method: str


@dataclass(slots=True)
class ConsolidationReport:
    """What one call did. `complete`: nothing is left to be looked at; else the next call goes on from here.

    `groups` holds the first 100 of those created and updated. `put_off`: groups whose sources kept changing, or that
    a hook, the content policy or the limit of memories refused.
    """

    created: int = 0
    updated: int = 0
    put_off: int = 0
    episodes: int = 0
    complete: bool = False
    groups: list[ConsolidatedGroup] = field(default_factory=list)

    def note(self, group: ConsolidatedGroup) -> None:
        """Count a group."""
        if group.created:
            self.created += 1
        else:
            self.updated += 1
        if len(self.groups) < MAX_REPORTED:
            self.groups.append(group)


class Consolidation:
    """Consolidates namespaces: at a caller's wish, and in the background those whose settings ask for it."""

    def __init__(
        self, database: Database, indexing: Indexing, settling: Settling, summarise: Summarise | None = None,
        hooks: Hooks = NO_HOOKS, room: Room | None = None,
    ) -> None:  # fmt: skip
        """`summarise`: a predictor's; without one, and when it is unavailable, summaries are extractive."""
        self._database = database
        self._writing = Writing(database, indexing, settling, hooks, room)
        self._summarise = summarise
        self._next_round = 0.0

    @needs(Scope.WRITE)
    async def run(
        self, namespace: str, *, dry_run: bool = False, seconds: float = CALL_SECONDS
    ) -> ConsolidationReport:
        """Consolidate what has changed since the last run, for about so many seconds; the first run sees everything.

        By the namespace's rules, or the default ones where consolidation is off. Every group is a transaction of its
        own, and how far the run has come is kept. A dry run writes nothing. Raises NamespaceNotFound.
        """
        target = await self._target(namespace)
        left = remaining_seconds()
        until = time.monotonic() + (seconds if left is None else min(seconds, left / 2))
        run = _Run(self._database, self._writing, self._summarise, target, dry_run=dry_run)
        await run.go(until)
        return run.report

    async def round(self) -> None:
        """Consolidate namespaces whose turn it is, each for a while. Raises the last one's error, after all were
        tried; that of each is kept with its job."""
        if time.monotonic() < self._next_round:
            return
        self._next_round = time.monotonic() + ROUND_SECONDS
        async with self._database.read() as session:
            due = await store.due(session, ROUND_NAMESPACES)
        trouble: SfmError | None = None
        for namespace in due:
            try:
                await self._take(namespace)
            except NamespaceNotFound:
                log.debug("a namespace was deleted before its turn")
            except SfmError as error:
                trouble = error
        if trouble is not None:
            raise trouble

    async def _take(self, namespace: str) -> None:
        target = await self._target(namespace)

        async def claim(session: WriteSession) -> bool:
            return await jobs.claim(session, target.id, JOB, LEASE) is not None

        if not await self._database.write(claim):
            return
        rules = target.settings.consolidation or DEFAULT_RULES
        run = _Run(self._database, self._writing, self._summarise, target, dry_run=False)
        try:
            await run.go(time.monotonic() + CALL_SECONDS)
        except SfmError as error:
            await self._finish(target, timedelta(hours=rules.every_hours), error.message)
            raise
        if not run.report.complete:
            self._next_round = 0.0
        pause = timedelta(hours=rules.every_hours) if run.report.complete else timedelta()
        await self._finish(target, pause, None)

    async def _finish(self, target: Namespace, pause: timedelta, error: str | None) -> None:
        async def finish(session: WriteSession) -> None:
            state = await store.progress(session, target.id)
            await jobs.finish(session, target.id, JOB, state, pause=pause, error=error)

        await self._database.write(finish)

    async def _target(self, namespace: str) -> Namespace:
        async with self._database.read() as session:
            found = await namespaces.by_name(session, namespace)
        if found is None:
            raise NamespaceNotFound(f"there is no namespace {namespace!r}", namespace=namespace)
        return found


class _Run:
    """One call's way through a namespace."""

    def __init__(
        self, database: Database, writing: Writing, summarise: Summarise | None, target: Namespace, *, dry_run: bool
    ) -> None:
        self.report = ConsolidationReport()
        self._database = database
        self._writing = writing
        self._summarise = summarise
        self._target = target
        self._rules: ConsolidationRules = target.settings.consolidation or DEFAULT_RULES
        self._dry_run = dry_run

    async def go(self, until: float) -> None:
        """Until a moment by `time.monotonic`, at least one window."""
        progress = await self._begin()
        while not self.report.complete:
            progress = await self._step(progress)
            if not self._dry_run:
                await self._note(progress)
            if time.monotonic() >= until:
                break

    async def _begin(self) -> Progress:
        async with self._database.read() as session:
            kept = await store.progress(session, self._target.id)
            log_now = await change_stream.log_of(session)
            known = Progress.kept(kept, self._rules, log_now)
            return known or Progress.begin(self._rules, log_now, session.snapshot)

    async def _note(self, progress: Progress) -> None:
        state = progress.as_json()
        target_id = self._target.id

        async def put(session: WriteSession) -> None:
            if await namespaces.lock_existing(session, self._target.name) is not None:
                await store.put_progress(session, target_id, state)

        await self._database.write(put)

    async def _step(self, progress: Progress) -> Progress:
        """A window of the way through all episodes, or a slice of the log."""
        if progress.scan is not None:
            async with self._database.read() as session:
                found = await store.next_episode(session, self._target.id, *progress.scan)
            return progress.at((await self._window(*found)).after() if found else None)
        async with self._database.read() as session:
            part = await change_stream.read_slice(
                session, LogScope(self._target.id), progress.position, SLICE_CHANGES
            )
            around = {place for one in part.changes for place in places(one)}
            linked = {id_ for one in part.changes for id_ in ends(one)}
            around |= {(one.at, one.id) for one in await store.episodes(session, self._target.id, linked)}
        await self._around(sorted(around))
        self.report.complete = part.complete
        return progress.read(progress.position.after(part))

    async def _around(self, found: Sequence[tuple[int, MemoryId]]) -> None:
        """The windows around places in time, each once."""
        last: Window | None = None
        for at, id_ in found:
            if last is None or not (last.start <= at < last.end and last.first_id <= id_ < last.end_id):
                last = await self._window(at, id_)

    async def _window(self, at: int, id_: MemoryId) -> Window:
        """Carry out what is to be done in a window; planned anew when something in it has changed meanwhile."""
        for attempt in range(ATTEMPTS):
            window, episodes, plans = await planned(self._database, self._target, self._rules, at, id_)
            stale = 0
            for plan in plans:
                stale += not await self._carried_out(plan)
            if not stale:
                break
            await asyncio.sleep(0.01 * 2**attempt)
        self.report.put_off += stale
        self.report.episodes += episodes
        return window

    async def _carried_out(self, plan: Plan) -> bool:
        """Whether it could be."""
        wanted = [one.id for one in plan.sources] + ([plan.into.id] if plan.into else [])
        async with self._database.read() as session:
            # Its rules may have changed since the run began.
            target = await namespaces.by_name(session, self._target.name)
            found = await memories.by_ids(session, self._target.id, self._target.name, wanted)
        if target is None or target.id != self._target.id or len(found) < len(wanted):
            return False
        sources = [found[one.id] for one in plan.sources]
        prior = found[plan.into.id] if plan.into else None
        content, method = await self._text(plan, sources, prior)
        memory = None
        if not self._dry_run:
            try:
                memory = await self._writing.carry_out(target, plan, sources, prior, content, method)
            except (Stale, Overloaded):
                return False
            except (HookRefused, ContentRefused, LegalHold, TooLarge) as error:
                # Refused it stays, until something in the window changes; others go on.
                log.warning("a group is not consolidated: %s", error.message)
                self.report.put_off += 1
                return True
        ids = tuple(one.id for one in sources)
        self.report.note(ConsolidatedGroup(memory, prior is None, ids, content, method))
        return True

    async def _text(self, plan: Plan, sources: Sequence[Memory], prior: Memory | None) -> tuple[str, str]:
        """What the sources say, and who says so; of sources that are gone, what was said of them before."""
        texts = [_text_of(one) for one in sources]
        before = prior.content if prior is not None and plan.gone else ""
        if self._summarise is not None:
            try:
                given = [before, *texts] if before else texts
                said = (await self._summarise(self._target.name, given, MAX_CHARS)).strip()
                if said:
                    return validate.text(said, "content", max_chars=MAX_CHARS), PREDICTED
            except SfmError as error:
                log.warning("consolidation goes on without the predictor: %s", error.message)
                if not _is_about_question(error):
                    self._summarise = None
        return await asyncio.to_thread(_extract, before, texts, self._target.settings.language), EXTRACTIVE


def _is_about_question(error: SfmError) -> bool:
    """Whether another question may be answered all the same."""
    lacking = isinstance(error, Unavailable | BudgetSpent)
    return not lacking or error.details.get("state") in ("wrong_answer", "too_large")


def _extract(before: str, texts: Sequence[str], language: str) -> str:
    """The sentences that say most of texts; what is said in nothing but `before` has up to half of the room."""
    known = {sentence for text in texts for sentence in sentences(text)}
    only = "\n\n".join(sentence for sentence in sentences(before) if sentence not in known)
    kept = summary_of([only], sentences=MAX_SENTENCES // 2, max_chars=MAX_CHARS // 2, language=language)
    count = min(2 + len(texts) // 3, MAX_SENTENCES)
    made = summary_of(texts, sentences=count, max_chars=MAX_CHARS - len(kept) - 1, language=language)
    return "\n".join(part for part in (kept, made) if part) or next((text[:MAX_CHARS] for text in texts if text), "")


def _text_of(memory: Memory) -> str:
    own = own_text(memory.title, memory.content)
    return f"{memory.title}\n\n{own}" if memory.title else own
