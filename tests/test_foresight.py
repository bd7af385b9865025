"""Predictions, their outcomes, and reflection, by services and by every face."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from predicting import NAMESPACE, chat, predicting, remember, saying
from scripted_server import Reply, ScriptedServer, scripted_server

from sfm_graph.app import app_for
from sfm_graph.domain.foresight import Method, brier
from sfm_graph.domain.identity import MemoryId, MemoryRef
from sfm_graph.domain.insights import InsightKind, Judged, novel, recurrent_errors, surprising_outcomes
from sfm_graph.errors import IdempotencyConflict, InvalidInput, MemoryNotFound, NamespaceNotFound
from sfm_graph.services.idempotency import idempotency_key
from sfm_graph.services.registry import Services

SHARES = st.floats(0, 1)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as opened:
        yield opened


async def _links(services: Services, type_: str) -> set[tuple[str, str]]:
    """Ends of the links of a type, by content."""
    async with services.views.open() as view:
        rows = await view.session.dynamic(
            "select s.content, t.content from links l join memories s on s.id = l.source_id"
            " join memories t on t.id = l.target_id where l.type = %(type)s",
            {"type": type_},
        )
    return set(rows)


@given(SHARES, SHARES)
def test_the_error_of_a_prediction(confidence: float, correct: float) -> None:
    error = brier(confidence, correct)
    assert 0 <= error <= 1
    assert error == brier(correct, confidence)
    assert brier(correct, correct) == 0
    # Further from what came true is never less wrong.
    assert brier(correct + (confidence - correct) / 2, correct) <= error


async def _episodes(services: Services) -> None:
    """Three mornings of rain, two of them followed by a jam and one by a fire; and one of sun."""
    days = [("rain in the morning", "a traffic jam"), ("rain in the morning again", "A traffic  jam"),
            ("morning rain", "a fire"), ("sun at noon", "a picnic")]  # fmt: skip
    for place, (first, then) in enumerate(days):
        items = [
            {"content": text, "payload": {"sequence": f"day {place}", "position": at}}
            for at, text in enumerate((first, then))
        ]
        await services.memory_writes.store_many(NAMESPACE, items)


async def test_without_a_predictor_the_past_is_the_prediction(database_dsn: str) -> None:
    async with predicting(database_dsn, None) as services:
        await _episodes(services)
        where = {"context": "rain in the morning"}
        found = await services.foresights.predict(NAMESPACE, **where, first=2)
        assert found.method is Method.STRUCTURAL
        assert "SFM_PREDICTOR" in (found.reason or "")
        # Two episodes that are alike were followed by the same; the one of sun is not like this.
        assert [one.memory.content.casefold() for one in found.predictions] == ["a traffic jam", "a fire"]
        confidences = [one.confidence for one in found.predictions]
        assert 1 > confidences[0] > confidences[1] > 0
        (jam, _) = found.predictions
        assert jam.memory.kind == "semantic"
        assert jam.memory.payload["method"] == "structural"
        evidence = {end for source, end in await _links(services, "predicted_from") if "jam" in source.casefold()}
        assert evidence == {"rain in the morning", "rain in the morning again", "a traffic jam", "A traffic  jam"}
        # What was predicted is no past to predict from.
        again = await services.foresights.predict(NAMESPACE, **where, first=2)
        assert [one.confidence for one in again.predictions] == pytest.approx(confidences)
        assert [one.memory.id for one in again.predictions] == [one.memory.id for one in found.predictions]
        unlike = await services.foresights.predict(NAMESPACE, context="tea recipe with lemon")
        assert unlike.predictions == ()
        assert "nothing followed an episode that is like this" in (unlike.reason or "")


async def test_nothing_is_predicted_from_nothing(database_dsn: str) -> None:
    async with predicting(database_dsn, None) as services:
        with pytest.raises(NamespaceNotFound):
            await services.foresights.predict(NAMESPACE, context="rain")
        await remember(services, "rain")
        found = await services.foresights.predict(NAMESPACE, context="rain")
        assert found.predictions == ()
        with pytest.raises(InvalidInput):
            await services.foresights.predict(NAMESPACE, context=" ")
        with pytest.raises(InvalidInput):
            await services.foresights.predict(NAMESPACE, context="rain", first=11)
        with pytest.raises(MemoryNotFound):
            await services.foresights.predict(NAMESPACE, around=MemoryRef(key="nobody"))


async def test_a_predictors_prediction(database_dsn: str, server: ScriptedServer) -> None:
    said = [
        {"prediction": "It floods.", "confidence": 0.2, "because": [1, 99 % 12, 0]},
        {"prediction": "A traffic jam", "confidence": 0.9, "because": [1]},
        {"prediction": "a traffic jam", "confidence": 0.8, "because": []},
    ]
    async with predicting(database_dsn, server.url) as services:
        (rain,) = await remember(services, "rain in the morning")
        server.script(saying(lambda _: {"predictions": said}))
        key = idempotency_key("local", "once", {})
        found = await services.foresights.predict(NAMESPACE, context="rain", around=MemoryRef(key="m0"), key=key)
        assert (found.method, found.reason) == (Method.PREDICTOR, None)
        assert [(one.memory.content, one.confidence) for one in found.predictions] == [
            ("A traffic jam", 0.9), ("It floods.", 0.2),
        ]  # fmt: skip
        assert found.predictions[0].memory.payload["model"] == "tiny"
        assert found.predictions[0].memory.payload["evidence"] == [rain]
        assert await _links(services, "predicted_from") == {
            ("A traffic jam", "rain in the morning"), ("It floods.", "rain in the morning"),
        }  # fmt: skip
        again = await services.foresights.predict(NAMESPACE, context="rain", around=MemoryRef(key="m0"), key=key)
        assert [one.memory.id for one in again.predictions] == [one.memory.id for one in found.predictions]
        assert len(server.requests) == 1
        # One that is away makes no error of it.
        server.script(Reply({}, status=500, headers={"retry-after": "0"}))
        other = await services.foresights.predict(NAMESPACE, context="something else")
        assert (other.method, other.predictions) == (Method.STRUCTURAL, ())
        assert "status 500" in (other.reason or "")


async def _predicted(services: Services, text: str, confidence: float, **payload: Any) -> MemoryRef:
    fields = {"content": text, "payload": {"prediction": text, "confidence": confidence, **payload}}
    return MemoryRef(id=(await services.memory_writes.store(NAMESPACE, fields)).memory.id)


async def test_outcomes(database_dsn: str) -> None:
    async with predicting(database_dsn, None) as services:
        report = services.outcomes.report
        ref = await _predicted(services, "it rains tomorrow", 0.75)
        done = await report(NAMESPACE, ref, "It rained.", correct=True, key="k")
        assert (done.correct, done.error, done.judged_by) == (1.0, 0.0625, "caller")
        assert (done.memory.kind, done.link.type, done.link.target_id) == ("episodic", "outcome_of", ref.id)
        assert done.link.properties == {"correct": 1.0, "error": 0.0625, "judged_by": "caller", "confidence": 0.75}
        again = await report(NAMESPACE, ref, "It rained.", correct=True, key="k")
        assert (again.memory.id, again.memory.version) == (done.memory.id, 1)
        assert (again.link.id, again.link.version) == (done.link.id, 1)
        with pytest.raises(IdempotencyConflict):
            await report(NAMESPACE, ref, "It did not.", correct=False, key="k")
        assert (await report(NAMESPACE, ref, "A drizzle.", value=0.25)).error == 0.25
        other = await _predicted(services, "it rains tomorrow", 0.75)
        alike = await report(NAMESPACE, other, "it rains tomorrow")
        assert (alike.judged_by, alike.error) == ("cosine", pytest.approx(0.0625, abs=1e-3))
        for wrong in ({"correct": True, "value": 1.0}, {"value": 2}, {"value": float("nan")}, {"correct": "yes"}):
            with pytest.raises(InvalidInput):
                await report(NAMESPACE, ref, "x", **wrong)
        with pytest.raises(InvalidInput):
            await report(NAMESPACE, ref, "  ")
        with pytest.raises(InvalidInput, match="no prediction"):
            await report(NAMESPACE, MemoryRef(id=done.memory.id), "x")
        with pytest.raises(MemoryNotFound):
            await report("elsewhere", ref, "x")


def test_errors_are_recurrent_when_they_are_many() -> None:
    def judged(method: str, *errors: float) -> list[Judged]:
        return [Judged(MemoryId(place), MemoryId(100 + place), method, one) for place, one in enumerate(errors)]

    group = [*judged("bad", 0.5, 0.2, 0.1), *judged("good", 0.1, 0.2, 0.2), *judged("rare", 1, 1)]
    (found,) = recurrent_errors(group)
    assert found.figures["method"] == "bad"
    assert found.evidence == (0, 1, 2)
    assert [one.figures["error"] for one in surprising_outcomes(group)] == [1, 1, 0.5]


def test_novelty_is_far_below_the_rest() -> None:
    usual = {MemoryId(place): 0.7 + place / 100 for place in range(12)}
    assert novel(usual) == []
    (found,) = novel({**usual, MemoryId(99): 0.05})
    assert found.evidence == (99,)
    assert novel({MemoryId(1): 0.9, MemoryId(2): 0.1}) == []
    assert novel({MemoryId(place): 0.3 for place in range(20)}) == []


async def _a_past_to_reflect_on(services: Services) -> None:
    await services.namespaces.put(NAMESPACE, settings={"functional_types": []}, model=None)
    for place in range(3):
        ref = await _predicted(services, f"guess {place}", 0.9, method="structural")
        await services.outcomes.report(NAMESPACE, ref, f"not so {place}", correct=False)
    await remember(services, "old", "new", "Berlin", "Ada", "up", "down")
    link = services.links.link
    await link(NAMESPACE, {"key": "m3"}, {"key": "m0"}, {"type": "relies_on"})
    await link(NAMESPACE, {"key": "m1"}, {"key": "m0"}, {"type": "supersedes"})
    await link(NAMESPACE, {"key": "m4"}, {"key": "m5"}, {"type": "contradicts"})
    await link(NAMESPACE, {"key": "m3"}, {"key": "m1"}, {"type": "lives_in"})
    await link(NAMESPACE, {"key": "m3"}, {"key": "m2"}, {"type": "lives_in"})
    await services.namespaces.put(NAMESPACE, settings={"functional_types": ["lives_in"]}, model=None)


async def test_reflection(database_dsn: str, server: ScriptedServer) -> None:
    async with predicting(database_dsn, server.url) as services:
        await _a_past_to_reflect_on(services)
        reflect = services.reflections.reflect
        dry = await reflect(NAMESPACE, dry_run=True)
        assert {one.memory for one in dry.insights} == {None}
        assert server.requests == []
        server.script(saying(lambda one: {"insight": f"Learnt: {one['kind']}"}))
        found = await reflect(NAMESPACE)
        kinds = [one.finding.kind for one in found.insights]
        assert sorted(kinds) == sorted([
            InsightKind.RECURRENT_ERROR, *[InsightKind.SURPRISE] * 3, *[InsightKind.CONTRADICTION] * 2,
            InsightKind.STALE_LINK,
        ])  # fmt: skip
        assert [one.finding.key for one in dry.insights] == [one.finding.key for one in found.insights]
        assert found.created == len(kinds)
        assert {one.worded_by for one in found.insights} == {"predictor"}
        (error,) = [one for one in found.insights if one.finding.kind is InsightKind.RECURRENT_ERROR]
        assert error.text == "Learnt: recurrent_error"
        assert error.finding.figures["mean_error"] == pytest.approx(0.81)
        assert error.memory is not None
        assert (error.memory.kind, error.memory.agent) == ("semantic", "reflection")
        evidence = {end for source, end in await _links(services, "evidenced_by") if source == error.text}
        assert evidence == {"not so 0", "not so 1", "not so 2"}
        (stale,) = [one for one in found.insights if one.finding.kind is InsightKind.STALE_LINK]
        assert stale.finding.figures == {"type": "relies_on"}
        # The same again: nothing is new, nothing is asked, nothing is written.
        asked = len(server.requests)
        again = await reflect(NAMESPACE)
        assert again.created == 0
        assert [one.memory.id for one in again.insights if one.memory] == [
            one.memory.id for one in found.insights if one.memory
        ]
        assert {one.memory.version for one in again.insights if one.memory} == {1}
        assert len(server.requests) == asked
        assert (await reflect(NAMESPACE, since="2999-01-01")).insights[0].finding.kind is InsightKind.CONTRADICTION


async def test_reflection_without_a_predictor_uses_its_own_words(database_dsn: str) -> None:
    async with predicting(database_dsn, None) as services:
        with pytest.raises(NamespaceNotFound):
            await services.reflections.reflect(NAMESPACE)
        await _a_past_to_reflect_on(services)
        found = await services.reflections.reflect(NAMESPACE, since="1h")
        assert {one.worded_by for one in found.insights} == {"template"}
        (error,) = [one for one in found.insights if one.finding.kind is InsightKind.RECURRENT_ERROR]
        assert "mean error 0.81 of 3 outcomes" in error.text
        assert '"not so 0"' in error.text
        with pytest.raises(InvalidInput):
            await services.reflections.reflect(NAMESPACE, since="long ago")


async def test_the_faces(database_dsn: str, server: ScriptedServer) -> None:
    prediction = {"prediction": "It floods.", "confidence": 0.9, "because": [1]}
    async with predicting(database_dsn, server.url) as services:
        await remember(services, "rain")
        server.script(chat("openai", {"predictions": [prediction]}))
        app = app_for(services)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            body = {"namespace": NAMESPACE, "context": "rain"}
            made = (await client.post("/predict", json=body)).json()
            (one,) = made["predictions"]
            assert (one["confidence"], one["method"], made["reason"]) == (0.9, "predictor", None)
            said = {
                "namespace": NAMESPACE,
                "prediction": {"id": one["memory"]["id"]},
                "outcome": "dry",
                "correct": False,
            }
            headers = {"Idempotency-Key": "first"}
            outcome = (await client.post("/outcomes", json=said, headers=headers)).json()
            assert outcome["error"] == pytest.approx(0.81)
            refused = await client.post("/outcomes", json={**said, "outcome": "wet"}, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_conflict")
            document = """mutation ($id: ID!) {
              predictNext(input: {namespace: "demo", context: "rain"}) { predictions { memory { id } method } }
              reportOutcome(input: {namespace: "demo", prediction: {id: $id}, outcome: "wet", value: 1}) {
                error judgedBy memory { content } link { type } }
              reflect(input: {namespace: "demo", dryRun: true}) {
                created insights { kind text evidence figures } } }"""
            variables = {"id": one["memory"]["id"]}
            answer = (await client.post("/graphql", json={"query": document, "variables": variables})).json()["data"]
            assert answer["reportOutcome"]["error"] == pytest.approx(0.01)
            assert answer["reportOutcome"]["judgedBy"] == "CALLER"
            assert {one["kind"] for one in answer["reflect"]["insights"]} == {"SURPRISE"}
            reflected = (await client.post("/reflect", json={"namespace": NAMESPACE})).json()
            assert reflected["created"] == len(reflected["insights"]) > 0
            await services.namespaces.put(NAMESPACE, settings={"extraction": True}, model=None)
            await services.extraction.round()
            listed = (await client.get("/jobs", params={"namespace": NAMESPACE})).json()["jobs"]
            (job,) = [one for one in listed if one["name"] == "extraction"]
            assert "not what was asked for" in job["error"]
            shown = await client.post("/graphql", json={"query": '{ jobs(namespace: "demo") { name error } }'})
            assert job["error"] in [one["error"] for one in shown.json()["data"]["jobs"]]
            health = (await client.get("/health")).json()["parts"]["predictor"]
            assert (health["status"], health["state"]) == ("degraded", "wrong_answer")
