"""Bounds on a document, its variables and its cost, checked before anything is validated or executed.

Strawberry's own depth and alias limiters walk every spread of a fragment anew, so that thirty fragments that each
spread the next one twice keep them busy for hours. Here each fragment is measured once.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    OperationDefinitionNode,
    SelectionSetNode,
    type_from_ast,
)
from strawberry.extensions import SchemaExtension

from sfm_graph.api.gql.context import Context
from sfm_graph.api.gql.cost.charge import charge
from sfm_graph.errors import QueryTooComplex, TooLarge

MAX_QUERY_CHARS = 100_000
MAX_TOKENS = 2_000
# GraphiQL's introspection query is 15 deep.
MAX_DEPTH = 20
MAX_ALIASES = 50
# With fragments in place: what the executor may visit in one object of each level.
MAX_FIELDS = 2_000
# Validation compares every two fields that share a name: the sum over names of the squares of their counts.
MAX_COMPARISONS = 20_000
# Elements of typed lists in the variables: each costs the event loop about 2 us. Lists inside of JSON are free.
MAX_LIST_ELEMENTS = 100_000


class RequestLimits(SchemaExtension):
    """Refuses what is too complex with `query_too_complex`, and variables that are too large with `too_large`.

    What is left is paid for before it is executed.
    """

    def on_parse(self) -> Iterator[None]:
        """Bound the text before it is parsed, and the document before it is validated."""
        text = self.execution_context.query
        if text is not None and len(text) > MAX_QUERY_CHARS:
            raise QueryTooComplex(f"the document is longer than {MAX_QUERY_CHARS} characters; use variables")
        yield
        document = self.execution_context.graphql_document
        if document is None:
            return
        excess = excess_of(document)
        if excess:
            raise QueryTooComplex(excess)
        # Strawberry would run the first one.
        operations = sum(isinstance(node, OperationDefinitionNode) for node in document.definitions)
        if operations > 1 and not self.execution_context._provided_operation_name:
            raise GraphQLError("the document has several operations; operationName must say which")

    async def on_execute(self) -> AsyncIterator[None]:
        """Bound the variables before they are coerced, and the cost before it arises."""
        asked = self.execution_context
        document, schema, variables = asked.graphql_document, asked.schema._schema, asked.variables or {}
        if document is not None:
            if variables:
                check_variables(schema, document, variables)
            if isinstance(asked.context, Context):
                await charge(asked.context, schema, document, asked._provided_operation_name, variables)
        yield


@dataclass(frozen=True, slots=True)
class _Extent:
    """How far a selection reaches: levels below it; fields and aliases with fragments in place."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0


@lru_cache(maxsize=128)
def excess_of(document: DocumentNode) -> str | None:
    """Which limit a document exceeds, in words; None when it keeps them all. Linear in its size."""
    measure = _Measure(document)
    for node in document.definitions:
        if not isinstance(node, OperationDefinitionNode):
            continue
        extent = measure.of(node.selection_set)
        if extent.depth > MAX_DEPTH:
            return f"the document is nested {extent.depth} levels deep; at most {MAX_DEPTH} are answered"
        if extent.aliases > MAX_ALIASES:
            return f"the document has more than {MAX_ALIASES} aliases"
        if extent.fields > MAX_FIELDS:
            return f"the document asks for more than {MAX_FIELDS} fields"
    if sum(count**2 for count in measure.names.values()) > MAX_COMPARISONS:
        return "the document repeats the same fields too often"
    return None


class _Measure:
    def __init__(self, document: DocumentNode) -> None:
        self.names: Counter[str] = Counter()
        self._fragments = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        # A fragment that spreads itself counts as empty there; validation refuses it.
        self._known: dict[str, _Extent] = {}

    def of(self, selections: SelectionSetNode | None) -> _Extent:
        depth = fields = aliases = 0
        for node in selections.selections if selections else ():
            if isinstance(node, FieldNode):
                inner = self.of(node.selection_set)
                inner = _Extent(inner.depth + 1, inner.fields + 1, inner.aliases + (node.alias is not None))
                self.names[(node.alias or node.name).value] += 1
            elif isinstance(node, FragmentSpreadNode):
                inner = self._fragment(node.name.value)
            else:
                inner = self.of(getattr(node, "selection_set", None))
            depth, fields, aliases = max(depth, inner.depth), fields + inner.fields, aliases + inner.aliases
        return _Extent(depth, fields, aliases)

    def _fragment(self, name: str) -> _Extent:
        if name not in self._known:
            self._known[name] = _Extent()
            if name in self._fragments:
                self._known[name] = self.of(self._fragments[name].selection_set)
        return self._known[name]


def check_variables(schema: GraphQLSchema, document: DocumentNode, variables: Mapping[str, Any]) -> None:
    """Raises TooLarge when typed lists hold more elements than can be coerced in a moment."""
    left = MAX_LIST_ELEMENTS
    stack: list[tuple[object, object]] = [
        (variables[one.variable.name.value], type_from_ast(schema, one.type))
        for node in document.definitions
        if isinstance(node, OperationDefinitionNode)
        for one in node.variable_definitions or ()
        if one.variable.name.value in variables
    ]
    while stack:
        value, type_ = stack.pop()
        if isinstance(type_, GraphQLNonNull):
            type_ = type_.of_type
        if isinstance(type_, GraphQLList) and isinstance(value, list):
            left -= len(value)
            if left < 0:
                raise TooLarge(f"the variables hold more than {MAX_LIST_ELEMENTS} list elements")
            stack.extend((one, type_.of_type) for one in value)
        elif isinstance(type_, GraphQLInputObjectType) and isinstance(value, Mapping):
            stack.extend((value[name], field.type) for name, field in type_.fields.items() if name in value)
