"""Charging an operation before it is executed."""

from collections.abc import Mapping
from typing import Any

from graphql import DocumentNode, GraphQLSchema

from sfm_graph.api.gql.context import Context
from sfm_graph.api.gql.cost.bill import Bill
from sfm_graph.api.gql.cost.plan import Measurement, plan_of
from sfm_graph.errors import QueryTooComplex


async def charge(
    context: Context, schema: GraphQLSchema, document: DocumentNode, name: str | None, variables: Mapping[str, Any]
) -> None:
    """Let the caller pay for an operation of a validated document; of a subscription, for the first event.

    `context.bill` and `looks_back` are set. Raises QueryTooComplex when one request may not cost so much, or a whole
    budget does not suffice for it, and BudgetSpent when what is left of it does not.
    """
    budget = context.services.limits.budget
    most = context.services.settings.max_query_cost
    limit = most if budget is None else min(most, budget.most)
    plan = plan_of(schema, document, name)
    if plan is None:
        return
    measured = Measurement(plan, variables)
    context.looks_back = measured.looks_back
    context.bill = Bill(measured.total, limit, plan.is_subscription, budget)
    if measured.total > limit:
        await context.bill.look(context.services)
        heaviest = measured.heaviest()
        raise QueryTooComplex(
            f"the request may cost {measured.total}, most of it for {heaviest}; at most {limit} is answered",
            cost=measured.total, limit=limit, heaviest=heaviest,
        )  # fmt: skip
    await context.bill.pay(context.services)
