"""The fields of an operation that cost something, and what they cost with the variables of a request.

A plan is made once for a document; measuring it is linear in its size, since each fragment is measured once: what a
selection costs is a part that is fixed and a part for each place of the page around it, which differs by spread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    Undefined,
    ValueNode,
    get_named_type,
    get_operation_ast,
)

from sfm_graph.api.gql.cost.arguments import Arguments, Variables
from sfm_graph.api.gql.cost.rules import RULES, Rule


class _Cost(NamedTuple):
    fixed: int
    per_place: int

    def on(self, page: int) -> int:
        return self.fixed + page * self.per_place


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    label: str
    rule: Rule
    given: Mapping[str, ValueNode]
    defaults: Mapping[str, Any]
    inner: "_Selection"


@dataclass(frozen=True, slots=True, eq=False)
class _Selection:
    """Fields, and the fragments that are spread among them."""

    parts: "list[_Field | _Selection]" = field(default_factory=list)

    def add(self, other: "_Selection") -> None:
        """Take another selection in: whole when it is small, so that no chain of fragments is kept."""
        if len(other.parts) > 1:
            self.parts.append(other)
        else:
            self.parts.extend(other.parts)

    def fields(self) -> list[_Field]:
        """With fragments in place: as many as MAX_FIELDS at most."""
        return [
            one for part in self.parts for one in ([part] if isinstance(part, _Field) else part.fields())
        ]  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """An operation's fields that cost something, and the literals that stand for variables."""

    root: _Selection
    defaults: Mapping[str, ValueNode]
    is_subscription: bool
    # The fields that say as of when they are read.
    dated: "list[_Field]"


@lru_cache(maxsize=128)
def plan_of(schema: GraphQLSchema, document: DocumentNode, name: str | None) -> Plan | None:
    """The plan of an operation of a validated document; None when there is no such operation."""
    operation = get_operation_ast(document, name)
    if operation is None:
        return None
    defaults = {
        one.variable.name.value: one.default_value
        for one in operation.variable_definitions or ()
        if one.default_value is not None
    }
    planner = _Planner(schema, document)
    root = planner.operation(operation)
    return Plan(root, defaults, operation.operation is OperationType.SUBSCRIPTION, planner.dated)


class _Planner:
    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self._schema = schema
        self._definitions = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self._fragments: dict[str, _Selection] = {}
        self.dated: list[_Field] = []

    def operation(self, node: OperationDefinitionNode) -> _Selection:
        return self._selection(self._schema.get_root_type(node.operation), node.selection_set)

    def _selection(self, parent: GraphQLNamedType | None, selections: SelectionSetNode | None) -> _Selection:
        found = _Selection()
        for node in selections.selections if selections else ():
            if isinstance(node, FieldNode):
                found.parts.extend(self._field(parent, node))
            elif isinstance(node, FragmentSpreadNode):
                found.add(self._fragment(node.name.value))
            else:
                condition = getattr(node, "type_condition", None)
                inside = self._schema.get_type(condition.name.value) if condition else parent
                found.add(self._selection(inside, getattr(node, "selection_set", None)))
        return found

    def _fragment(self, name: str) -> _Selection:
        if name not in self._fragments:
            node = self._definitions[name]
            on = self._schema.get_type(node.type_condition.name.value)
            self._fragments[name] = self._selection(on, node.selection_set)
        return self._fragments[name]

    def _field(self, parent: GraphQLNamedType | None, node: FieldNode) -> list[_Field]:
        """The field, unless it is free: a leaf without a rule, or introspection."""
        name = node.name.value
        if name.startswith("__") or not isinstance(parent, GraphQLObjectType | GraphQLInterfaceType):
            return []
        definition = parent.fields[name]
        rule = RULES.get(f"{parent.name}.{name}")
        if rule is None:
            return []
        inner = self._selection(get_named_type(definition.type), node.selection_set)
        given = {one.name.value: one.value for one in node.arguments or ()}
        defaults = {
            key: one.default_value for key, one in definition.args.items() if one.default_value is not Undefined
        }
        found = _Field((node.alias or node.name).value, rule, given, defaults, inner)
        if "asOf" in given:
            self.dated.append(found)
        return [found]


class Measurement:
    """What an operation costs with its variables. Each selection is measured once."""

    def __init__(self, plan: Plan, variables: Mapping[str, Any]) -> None:
        self._root = plan.root
        self._variables = Variables(variables, plan.defaults)
        self._known: dict[int, _Cost] = {}
        self.total = self._selection(plan.root).fixed
        self.looks_back = any(self._arguments(one).has("asOf", "known") for one in plan.dated)

    def heaviest(self) -> str:
        """The path of the field with the largest share, as far down as one field has most of what is above it."""
        path, selection, page = list[str](), self._root, 0
        while fields := selection.fields():
            costs = [self._field(one).on(page) for one in fields]
            place = max(range(len(fields)), key=costs.__getitem__)
            dearest, within = fields[place], costs[place]
            if path and 2 * within < sum(costs):
                break
            path.append(dearest.label)
            selection, own_page = dearest.inner, dearest.rule.page(self._arguments(dearest))
            objects = dearest.rule.count(self._arguments(dearest)) + dearest.rule.per_page * page
            page = own_page
            if 2 * objects * self._selection(selection).on(page) < within:
                break
        return ".".join(path)

    def _selection(self, selection: _Selection) -> _Cost:
        known = self._known.get(id(selection))
        if known is None:
            fixed = per_place = 0
            for part in selection.parts:
                cost = self._field(part) if isinstance(part, _Field) else self._selection(part)
                fixed += cost.fixed
                per_place += cost.per_place
            known = self._known[id(selection)] = _Cost(fixed, per_place)
        return known

    def _field(self, one: _Field) -> _Cost:
        rule, arguments = one.rule, self._arguments(one)
        inside = rule.read
        if one.inner.parts:
            inside += self._selection(one.inner).on(rule.page(arguments))
        return _Cost(rule.own(arguments) + rule.count(arguments) * inside, rule.per_page * inside)

    def _arguments(self, one: _Field) -> Arguments:
        return Arguments(one.given, one.defaults, self._variables)
