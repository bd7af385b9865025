"""Routes that predict, report outcomes, reflect, and show background work."""

from fastapi import APIRouter, Request, Response

from sfm_graph.api.rest import foresight_schemas as schemas
from sfm_graph.api.rest.answers import JsonResponse
from sfm_graph.api.rest.call import body_call, query_call
from sfm_graph.api.rest.documented import WRITE, documented
from sfm_graph.api.rest.foresight_answers import foresight_json, job_json, outcome_json, reflection_json

router = APIRouter(tags=["foresight"])


@router.post(
    "/predict",
    **documented(
        "Predict what comes next; each prediction is stored with its evidence",
        schemas.FORESIGHT, body=schemas.PREDICT, headers=WRITE,
    ),
)  # fmt: skip
async def predict(request: Request) -> Response:
    """By the predictor, or by what followed similar episodes."""
    call = await body_call(request, schemas.PREDICT)
    around = None if call.get("around") is None else call.ref("around")
    found = await call.services.foresights.predict(
        call.namespace, context=call.get("context"), around=around, first=call.get("first", 3),
        agent=call.get("agent"), key=call.key(),
    )  # fmt: skip
    return JsonResponse(foresight_json(found))


@router.post(
    "/outcomes",
    **documented(
        "Report what became of a prediction, and get its error", schemas.OUTCOME_STORED, body=schemas.OUTCOME,
        headers=WRITE,
    ),
)  # fmt: skip
async def report_outcome(request: Request) -> Response:
    """The same Idempotency-Key of the same prediction gives the same outcome."""
    call = await body_call(request, schemas.OUTCOME)
    done = await call.services.outcomes.report(
        call.namespace, call.ref("prediction"), call.get("outcome"), correct=call.get("correct"),
        value=call.get("value"), agent=call.get("agent"), key=call.idempotency_header,
    )  # fmt: skip
    return JsonResponse(outcome_json(done))


@router.post(
    "/reflect",
    **documented("Look back for what errs, surprises or contradicts", schemas.REFLECTION, body=schemas.REFLECT),
)
async def reflect(request: Request) -> Response:
    """Insights are stored with their evidence, once each."""
    call = await body_call(request, schemas.REFLECT)
    found = await call.services.reflections.reflect(
        call.namespace, since=call.get("since"), dry_run=call.flag("dry_run")
    )
    return JsonResponse(reflection_json(call.namespace, found))


@router.get(
    "/jobs", **documented("Background work of a namespace and how it went", schemas.JOBS, query=schemas.JOBS_QUERY)
)
async def list_jobs(request: Request) -> Response:
    """A handful."""
    call = query_call(request, schemas.JOBS_QUERY)
    async with call.services.views.open() as view:
        found = await call.services.jobs.list(view, call.namespace)
    return JsonResponse({"jobs": [job_json(one) for one in found]})
