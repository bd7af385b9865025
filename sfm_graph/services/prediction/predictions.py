"""Asking the predictor: bounded, budgeted, cached, and never believed without a check."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sfm_graph.domain import prompts
from sfm_graph.domain.answers import WrongAnswer, checked
from sfm_graph.domain.deadline import out_of_time, within
from sfm_graph.domain.prompts import Prompt
from sfm_graph.errors import BudgetSpent, NamespaceNotFound, PredictorUnavailable
from sfm_graph.ports.cache import Cache
from sfm_graph.ports.predictor import Predictor
from sfm_graph.services.prediction.breaker import PAUSE_SECONDS, Breaker
from sfm_graph.services.prediction.kept_answers import KeptAnswers
from sfm_graph.store import namespaces, predictor_use
from sfm_graph.store.database import Database, WriteSession

log = logging.getLogger(__name__)

# Models answer a few at a time; more would wait there instead of here.
AT_ONCE: Final = 4
# Longer answers are checked in a thread.
CHARS_IN_PLACE: Final = 16_384


class Predictions:
    """The predictor as services use it. Whatever it answers is text: it becomes memories and links, never an action.

    Its methods ask for no scope: the services that use it do.
    """

    def __init__(
        self,
        predictor: Predictor | None,
        database: Database,
        cache: Cache | None = None,
        *,
        daily_calls: int,
        timeout_ms: int,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """`predictor` None: there is none. `daily_calls`: of one namespace on one day (UTC). `timeout_ms`: how long
        one waits for its turn; the predictor has a timeout of its own."""
        self._predictor = predictor
        self._database = database
        self._kept = KeptAnswers(cache)
        self._daily_calls = daily_calls
        self._wait_seconds = timeout_ms / 1000
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._breaker = Breaker(pause_seconds)

    @property
    def model(self) -> str | None:
        """The model's name, None without a predictor."""
        return None if self._predictor is None else self._predictor.name

    async def ask(self, namespace: str, prompt: Prompt) -> Any:
        """The JSON value of an answer that matches the prompt's schema.

        Raises PredictorUnavailable (`details["state"]`: off, away, slow, wrong_answer or too_large; `asked` False
        when it was left alone), BudgetSpent, NamespaceNotFound, DeadlineExceeded.
        """
        predictor = self._predictor
        if predictor is None:
            raise PredictorUnavailable("there is no predictor: SFM_PREDICTOR is none", state="off")
        digest = prompt.digest(namespace, predictor.name)
        kept = await self._kept_answer(digest, prompt)
        if kept is not None:
            return kept
        self._breaker.check()
        async with self._slot():
            namespace_id = await self._spend(namespace)
            try:
                completion = await predictor.complete(prompt)
                answer = await _checked(completion.text, prompt.schema)
            except WrongAnswer as wrong:
                error = PredictorUnavailable(f"{predictor.name} answered with {wrong}", state="wrong_answer")
                self._breaker.failed(error)
                raise error from None
            except PredictorUnavailable as error:
                self._breaker.failed(error)
                raise
            self._breaker.succeeded()
        await self._count(namespace_id, completion.tokens)
        await self._kept.keep(digest, completion.text)
        return answer

    async def summarise(self, namespace: str, texts: Sequence[str], max_chars: int = 500) -> str:
        """What texts say together, in at most `max_chars` characters. Raises what `ask` raises."""
        answer = await self.ask(namespace, prompts.summary(texts, max_chars))
        return shortened(answer["summary"], max_chars)

    async def state(self) -> dict[str, Any]:
        """The predictor's part of the health report: `status` up, degraded or off, and the `reason`."""
        if self._predictor is None:
            return {"status": "off"}
        problem = self._breaker.problem
        if problem is None:
            return {"status": "up", "model": self._predictor.name}
        state = problem.details.get("state")
        return {
            "status": "degraded", "reason": problem.message, "state": state, "paused": self._breaker.is_open,
            "model": self._predictor.name,
        }  # fmt: skip

    async def aclose(self) -> None:
        """Close the predictor."""
        if self._predictor is not None:
            await self._predictor.aclose()

    async def _kept_answer(self, digest: str, prompt: Prompt) -> Any:
        text = await self._kept.find(digest)
        if text is None:
            return None
        try:
            return await _checked(text, prompt.schema)
        except WrongAnswer:
            # Of a shared cache, which may hold anything.
            self._kept.drop(digest)
            return None

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        seconds = within(self._wait_seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._slots.acquire()
        except TimeoutError:
            if seconds < self._wait_seconds:
                raise out_of_time() from None
            raise PredictorUnavailable("too many wait for the predictor", state="slow", asked=False) from None
        try:
            yield
        finally:
            self._slots.release()

    async def _spend(self, namespace: str) -> int:
        """Take one call from the namespace's budget; the namespace's id."""

        async def work(session: WriteSession) -> tuple[int, bool]:
            found = await namespaces.lock_existing(session, namespace)
            if found is None:
                raise NamespaceNotFound(f"there is no namespace {namespace!r}", namespace=namespace)
            return found.id, await predictor_use.spend(session, found.id, self._daily_calls)

        namespace_id, allowed = await self._database.write(work)
        if not allowed:
            raise BudgetSpent(
                f"the predictor's {self._daily_calls} calls of this day are used up in {namespace!r}",
                state="budget", retry_after=_until_midnight(datetime.now(UTC)),
            )  # fmt: skip
        return namespace_id

    async def _count(self, namespace_id: int, tokens: int) -> None:
        if tokens:
            await self._database.write(lambda session: predictor_use.count_tokens(session, namespace_id, tokens))


async def _checked(text: str, schema: Mapping[str, Any]) -> Any:
    if len(text) <= CHARS_IN_PLACE:
        return checked(text, schema)
    return await asyncio.to_thread(checked, text, schema)


def shortened(text: str, max_chars: int) -> str:
    """A text of at most `max_chars` characters, cut between words where it has any."""
    plain = " ".join(text.split())
    if len(plain) <= max_chars:
        return plain
    head = plain[: max(max_chars - 1, 0)]
    return (head.rsplit(" ", 1)[0] if " " in head else head) + "…"


def _until_midnight(now: datetime) -> int:
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(1, int((tomorrow - now).total_seconds()))
