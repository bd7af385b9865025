"""How answers are completed: their values counted, in turns with other requests."""

from collections.abc import AsyncIterable, Collection, ItemsView, ValuesView
from typing import Any

from graphql import (
    FieldNode,
    FragmentSpreadNode,
    GraphQLLeafType,
    GraphQLList,
    GraphQLObjectType,
    SelectionSetNode,
    get_nullable_type,
    is_leaf_type,
)
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from sfm_graph.api.gql.context import Context
from sfm_graph.api.gql.cost.answer_size import AnswerSize


class CountingExecutor(StrawberryGraphQLCoreExecutionContext):
    """Counts an object's fields when it is begun, the elements of a list of leaves, and how long the leaves are.

    A JSON value is one value, however large: it is handed on as it is.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        context = self.context_value
        # By the identity of a field's node, which lives as long as the document.
        self._widths: dict[int, int] = {}
        self._size = context.size if isinstance(context, Context) else AnswerSize()

    def execute_fields(
        self, parent_type: GraphQLObjectType, source_value: Any, path: Any, grouped_field_set: Any, position: Any
    ) -> Any:
        """Execute an object's fields. Raises QueryTooComplex."""
        self._size.add(len(grouped_field_set))
        return super().execute_fields(parent_type, source_value, path, grouped_field_set, position)

    def complete_leaf_value(self, return_type: GraphQLLeafType, result: Any) -> Any:  # type: ignore[override]
        """A leaf as the answer has it. Raises QueryTooComplex."""
        leaf = super().complete_leaf_value(return_type, result)
        self._size.hold(leaf)
        return leaf

    def complete_list_value(
        self, return_type: GraphQLList[Any], field_details_list: Any, info: Any, path: Any, result: Any, position: Any
    ) -> Any:
        """Complete a list: a long one, or one that begins late, in turns. Raises QueryTooComplex."""
        # Introspection answers views of mappings.
        if isinstance(result, list | tuple | ValuesView | ItemsView):
            result = self._in_turns(result, is_leaf_type(get_nullable_type(return_type.of_type)), field_details_list)
        elif isinstance(result, AsyncIterable):
            result = self._size.stream_in_turns(result)
        return super().complete_list_value(return_type, field_details_list, info, path, result, position)

    def _in_turns(
        self, items: Collection[Any], are_leaves: bool, details: Any
    ) -> Collection[Any] | AsyncIterable[Any]:
        values = len(items) * (1 if are_leaves else self._width(details))
        if self._size.fits_in_turn(values) or not items:
            if are_leaves:
                self._size.add(values)
            return items
        if are_leaves:
            self._size.reserve(values)
        return self._size.in_turns(items, each=int(are_leaves))

    def _width(self, details: Any) -> int:
        """How many fields one object of a list has, those of the objects in it with them."""
        node = details[0].node
        known = self._widths.get(id(node))
        if known is None:
            known = self._widths[id(node)] = self._fields(node.selection_set)
        return known

    def _fields(self, selections: SelectionSetNode | None) -> int:
        count = 0
        for node in selections.selections if selections else ():
            if isinstance(node, FragmentSpreadNode):
                count += self._fields(self.fragment_definitions[node.name.value].selection_set)
            else:
                count += isinstance(node, FieldNode) + self._fields(getattr(node, "selection_set", None))
        return count
