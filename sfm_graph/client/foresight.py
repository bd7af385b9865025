"""The methods of a memory system that predict, report outcomes and reflect."""

from sfm_graph.api.rest import foresight_answers as answers
from sfm_graph.client.fields import Json, Reference
from sfm_graph.client.opening import OpenNamespace, as_json


class ForesightMethods(OpenNamespace):
    """Predictions, their outcomes, insights, and background work."""

    async def predict(
        self,
        context: str | None = None,
        *,
        around: Reference | None = None,
        first: int = 3,
        agent: str | None = None,
    ) -> Json:
        """What comes next, in a context or around a memory: `predictions` of `memory`, `confidence` and `method`.

        `reason`: why the predictor did not make them. Raises InvalidInput without a context and a memory.
        """
        found = await self._services.foresights.predict(
            self._namespace, context=context, around=None if around is None else self._ref(around), first=first,
            agent=agent,
        )  # fmt: skip
        return as_json(answers.foresight_json(found))

    async def report_outcome(
        self,
        prediction: Reference,
        outcome: str,
        *,
        correct: bool | None = None,
        value: float | None = None,
        key: str | None = None,
        agent: str | None = None,
    ) -> Json:
        """Store what became of a prediction: `memory`, `link`, `correct`, `error` (a Brier score) and `judged_by`.

        `value`: how far it came true, from 0 to 1, instead of `correct`; without both the texts are compared. The
        same `key` of the same prediction gives the same outcome.
        """
        done = await self._services.outcomes.report(
            self._namespace, self._ref(prediction), outcome, correct=correct, value=value, agent=agent, key=key
        )
        return as_json(answers.outcome_json(done))

    async def reflect(self, *, since: str | None = None, dry_run: bool = False) -> Json:
        """Look back for what errs, surprises, is stale or contradicts: `insights`, stored once each; `created`,
        `more`.

        `since`: an ISO 8601 time, or how long ago, such as 30d.
        """
        found = await self._services.reflections.reflect(self._namespace, since=since, dry_run=dry_run)
        return as_json(answers.reflection_json(self._namespace, found))

    async def jobs(self) -> list[Json]:
        """Background work: `name`, `due_at`, `ran_at`, `error`, `progress`. Raises NamespaceNotFound."""
        async with self._services.views.open() as view:
            found = await self._services.jobs.list(view, self._namespace)
        return [as_json(answers.job_json(one)) for one in found]
