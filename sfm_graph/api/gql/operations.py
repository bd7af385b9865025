"""GraphQL operations as streams of answers, whatever carries them."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import orjson
from graphql import DocumentNode, GraphQLError, get_operation_ast, parse
from graphql import OperationType as OperationKind
from strawberry.types.execution import ExecutionResult, PreExecutionError
from strawberry.types.graphql import OperationType

from sfm_graph.api.gql.context import Context
from sfm_graph.api.gql.errors import rendered
from sfm_graph.api.gql.limits import MAX_QUERY_CHARS, MAX_TOKENS
from sfm_graph.api.gql.schema import build_schema
from sfm_graph.errors import InvalidInput, SfmError

READS = frozenset({OperationType.QUERY})
READS_AND_WRITES = frozenset({OperationType.QUERY, OperationType.MUTATION})
STREAMED = frozenset({OperationType.SUBSCRIPTION})


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request: a document, its variables, and which of its operations."""

    query: str | None
    variables: dict[str, Any]
    name: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One result. `refused`: nothing was executed, and nothing follows."""

    body: dict[str, Any]
    refused: bool


def asked_of(members: Mapping[str, Any]) -> Asked:
    """The request in the members of a JSON object. Raises InvalidInput."""
    query, variables, name = members.get("query"), members.get("variables"), members.get("operationName")
    if not isinstance(query, str | None) or not isinstance(name, str | None):
        raise InvalidInput("query and operationName must be strings")
    if not isinstance(variables, dict | None):
        raise InvalidInput("variables must be an object")
    return Asked(query, variables or {}, name or None)


def is_subscription(asked: Asked) -> bool:
    """Whether a request is a subscription: known before it counts as one. Of a document that is wrong it is not."""
    if not asked.query or len(asked.query) > MAX_QUERY_CHARS:
        return False
    try:
        operation = get_operation_ast(_parsed(asked.query), asked.name)
    except (GraphQLError, RecursionError):
        return False
    return operation is not None and operation.operation is OperationKind.SUBSCRIPTION


@lru_cache(maxsize=128)
def _parsed(query: str) -> DocumentNode:
    return parse(query, max_tokens=MAX_TOKENS, no_location=True)


async def only_answer(context: Context, asked: Asked, allowed: Iterable[OperationType]) -> Answer:
    """The answer to what is no subscription."""
    async with aclosing(answers(context, asked, allowed)) as found:
        return await anext(found)


async def answers(context: Context, asked: Asked, allowed: Iterable[OperationType]) -> AsyncGenerator[Answer]:
    """The answers to an operation: one, or of a subscription one for each event.

    No database connection is held while an answer is with the caller. The context is closed at the end. Each event
    is paid for before it is read; a stream whose budget is spent goes on when there is some again.
    """
    try:
        stream = await build_schema().stream(
            asked.query, variable_values=asked.variables, operation_name=asked.name, context_value=context,
            allowed_operation_types=allowed,
        )  # fmt: skip
        # Other shapes are those of @defer and @stream, which the schema does not have.
        results = cast("AsyncGenerator[ExecutionResult]", stream)
        async with aclosing(results):
            async for result in results:
                body = with_cost({"data": result.data}, context)
                await context.rest()
                if result.errors:
                    body["errors"] = rendered(result.errors)
                # What is raised before the first event, strawberry gives as an answer.
                yield Answer(body, isinstance(result, PreExecutionError) or not _is_paid(context))
                if context.bill is not None and context.bill.is_subscription:
                    await context.bill.pay_patiently(context.services)
    except (GraphQLError, SfmError, RecursionError) as error:
        # What extensions raise before anything is executed, strawberry leaves to the caller of a stream.
        body = with_cost({"data": None, "errors": rendered([_as_graphql(error)])}, context)
        yield Answer(body, refused=True)
    finally:
        await context.close()


def with_cost(answer: dict[str, Any], context: Context) -> dict[str, Any]:
    """The answer, with `extensions.cost` when the cost is known."""
    cost = context.cost()
    return answer if cost is None else {**answer, "extensions": {"cost": cost}}


def _is_paid(context: Context) -> bool:
    return context.bill is not None and context.bill.paid


def _as_graphql(error: Exception) -> GraphQLError:
    return error if isinstance(error, GraphQLError) else GraphQLError(str(error), original_error=error)


def failure(error: SfmError, cursor: str | None = None) -> list[dict[str, Any]]:
    """The `errors` of an answer that failed as a whole; the cursor where a subscriber goes on."""
    errors = rendered([GraphQLError(error.message, original_error=error)])
    if cursor is not None:
        errors[0]["extensions"]["cursor"] = cursor
    return errors


def encoded(value: object) -> bytes:
    """The JSON of an answer."""
    return orjson.dumps(value, default=str)
