"""Extraction in the background: reads what is stored, asks the predictor, links what it finds. No write waits."""

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from sfm_graph.domain.change import Change
from sfm_graph.domain.extraction import AGENT, grounded, question
from sfm_graph.domain.identity import Entity, MemoryId, MemoryRef
from sfm_graph.domain.memory import Memory, MemoryKind
from sfm_graph.errors import BudgetSpent, PredictorUnavailable, SfmError, Unavailable
from sfm_graph.services.prediction.extracting import Extracting
from sfm_graph.services.prediction.extraction_state import ExtractionState
from sfm_graph.services.prediction.predictions import Predictions
from sfm_graph.services.tasks import attempted, heed_cancellation, repeated
from sfm_graph.store import extraction, jobs, memories
from sfm_graph.store.change_stream import Scope, log_of, read_slice
from sfm_graph.store.database import Database, ReadSession
from sfm_graph.store.extraction import Due

log = logging.getLogger(__name__)

JOB: Final = "extraction"
# Of one namespace in one run, each with a question to the predictor.
MAX_MEMORIES: Final = 10
MAX_CHANGES: Final = 200
# At once; each of them asks one question at a time.
MAX_NAMESPACES: Final = 4
# Who has died within a run is replaced after so long, beside the time that the predictor may take.
_LEASE_SECONDS: Final = 60.0
# Agents whose memories are made of others: reading them again would go on for ever.
_MADE_OF_OTHERS: Final = frozenset({AGENT, "reflection", "consolidation", "prediction"})

# States of the predictor that say something about a question.
_WRONG: Final = frozenset({"wrong_answer", "too_large", "slow"})


class _Stopped(Exception):
    """A run ends before its time."""

    def __init__(self, state: ExtractionState, message: str, pause: timedelta) -> None:
        super().__init__(message)
        self.state = state
        self.message = message
        self.pause = pause


@dataclass(frozen=True, slots=True)
class _Step:
    """One memory to look at, None for one that is gone; and the place behind it."""

    memory_id: int
    memory: Memory | None
    place: ExtractionState


@dataclass(frozen=True, slots=True)
class _Batch:
    """What a run has before it, and the places where it begins and ends."""

    begin: ExtractionState
    steps: tuple[_Step, ...]
    end: ExtractionState


class Extraction:
    """Follows the changes of each namespace whose settings ask for it; at its beginning all that is stored."""

    def __init__(
        self,
        database: Database,
        predictions: Predictions,
        extracting: Extracting,
        *,
        interval_ms: int,
        timeout_ms: int,
    ) -> None:
        """`timeout_ms`: how long a question may take."""
        self._database = database
        self._predictions = predictions
        self._extracting = extracting
        self._interval = interval_ms / 1000
        self._lease = timedelta(seconds=_LEASE_SECONDS + 2 * MAX_MEMORIES * timeout_ms / 1000)
        # Why the last round failed, None when it did not; what fails in one namespace is in its job.
        self.problem: str | None = None

    async def run(self) -> None:
        """Work until cancelled. What fails is tried again."""
        await repeated(JOB, self.round, self._interval, self._report)

    def _report(self, problem: str | None) -> None:
        self.problem = problem

    async def round(self) -> None:
        """One run in up to 4 namespaces that have something to do. Raises Unavailable with what kept a run from its
        end, after all were tried; what a run itself meets is in its job."""
        async with self._database.read() as session:
            due = await extraction.due(session, MAX_NAMESPACES)
        troubles = await asyncio.gather(*(attempted(JOB, self._namespace(one)) for one in due))
        found = next(filter(None, troubles), None)
        if found is not None:
            raise Unavailable(found)

    async def _namespace(self, due: Due) -> None:
        claimed = await self._database.write(lambda session: jobs.claim(session, due.namespace_id, JOB, self._lease))
        if claimed is None:
            return
        batch = await self._batch(due, ExtractionState.read(claimed))
        state, error, pause = batch.begin, None, timedelta(0)
        try:
            for step in batch.steps:
                heed_cancellation()
                state = await self._step(due, state, step)
            state = replace(state.behind(batch.end), failures=0)
        except _Stopped as stopped:
            state, error, pause = stopped.state, stopped.message, stopped.pause
        await self._database.write(
            lambda session: jobs.finish(session, due.namespace_id, JOB, state.as_json(), pause=pause, error=error)
        )

    async def _batch(self, due: Due, state: ExtractionState | None) -> _Batch:
        async with self._database.read() as session:
            change_log = await log_of(session)
            if state is None or not state.follows(change_log):
                state = ExtractionState.beginning(change_log, session.snapshot, state)
            if state.after is not None:
                return await _first_pass(session, due, state, state.after)
            return await _changed(session, due, state)

    async def _step(self, due: Due, state: ExtractionState, step: _Step) -> ExtractionState:
        """The state behind a memory. Raises _Stopped."""
        behind = state.behind(step.place)
        memory = step.memory
        if memory is not None and (memory.kind is MemoryKind.ENTITY or memory.agent in _MADE_OF_OTHERS):
            return behind
        try:
            if memory is None:
                await self._extracting.withdraw(due.namespace, due.namespace_id, step.memory_id)
                return behind
            text = "\n".join(part for part in (memory.title, memory.content) if part)
            if not text.strip():
                return behind
            found = grounded(await self._predictions.ask(due.namespace, question(text)), text)
            await self._extracting.store(due.namespace, due.namespace_id, memory, found)
        except BudgetSpent as error:
            pause = timedelta(seconds=error.details["retry_after"])
            raise _Stopped(state, error.message, pause) from None
        except SfmError as error:
            failed = state.failed(step.memory_id, wrong=_is_wrong(error))
            if failed.gives_up(step.memory_id):
                log.warning("extraction gives up a memory of %r: %s", due.namespace, error.message)
                return replace(behind, skipped=behind.skipped + 1)
            raise _Stopped(failed, error.message, failed.pause) from None
        return replace(behind, extracted=behind.extracted + 1)


async def _first_pass(session: ReadSession, due: Due, state: ExtractionState, after: int) -> _Batch:
    page = await extraction.page(session, due.namespace_id, due.namespace, after, MAX_MEMORIES)
    steps = tuple(_Step(one.id, one, replace(state, after=one.id)) for one in page)
    last = page[-1].id if len(page) == MAX_MEMORIES else None
    return _Batch(state, steps, replace(state, after=last))


async def _changed(session: ReadSession, due: Due, state: ExtractionState) -> _Batch:
    """The next changes of memories; of one that changed several times the first place leads to what it is now."""
    part = await read_slice(session, Scope(due.namespace_id), state.position, MAX_CHANGES)
    chosen: dict[int, Change] = {}
    end = replace(state, position=state.position.after(part))
    for change in part.changes:
        if change.entity is not Entity.MEMORY or change.entity_id in chosen:
            continue
        if len(chosen) == MAX_MEMORIES:
            last = next(reversed(chosen.values()))
            end = replace(state, position=state.position.within(part.until, last.id))
            break
        chosen[change.entity_id] = change
    refs = [MemoryRef(id=MemoryId(one)) for one in chosen]
    found = await memories.find(session, due.namespace_id, due.namespace, refs)
    steps = tuple(
        _Step(id_, memory, replace(state, position=state.position.within(part.until, change.id)))
        for (id_, change), memory in zip(chosen.items(), found, strict=True)
    )
    return _Batch(state, steps, end)


def _is_wrong(error: SfmError) -> bool:
    """Whether asking the same again will hardly help: the answer was wrong or did not come in time, or what it led
    to is refused."""
    if isinstance(error, PredictorUnavailable):
        return error.details.get("state") in _WRONG and error.details.get("asked", True)
    return error.http_status < 500
