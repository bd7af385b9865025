"""Parsing statements: which tables they touch, how, and whether each use is held to one namespace."""

import re
from collections.abc import Iterator

import sqlglot
from sqlglot import exp

from sfm_graph.store.statements import sql_folder


def namespace_tables() -> set[str]:
    """Tables of the schema that have a namespace, `namespaces` itself left out."""
    schema = (sql_folder() / "schema.sql").read_text()
    tables = re.findall(r"^create table (\w+) \((.*?)^\)", schema, re.MULTILINE | re.DOTALL)
    return {name for name, columns in tables if re.search(r"^\s*namespace_id\s", columns, re.MULTILINE)}


def parsed(text: str) -> exp.Expression:
    """A statement as a tree. The parser knows neither psycopg's placeholders nor pgvector's operator, nor COPY of a
    query."""
    copied = re.fullmatch(r"\s*copy \((.*)\) to stdout.*", text, re.DOTALL)
    neutral = re.sub(r"%\((\w+)\)[sb]", r":\1", copied[1] if copied else text)
    neutral = neutral.replace("<#>", "+").replace("%%", "%")
    tree = sqlglot.parse_one(neutral, dialect="postgres")
    assert isinstance(tree, exp.Expression)
    return tree


def uses(tree: exp.Expression) -> Iterator[tuple[exp.Table, str]]:
    """Every table that a statement names, with what is done to it: select, insert, update or delete."""
    named = {one.alias for one in tree.find_all(exp.CTE)}
    for table in tree.find_all(exp.Table):
        if table.name in named or not table.name:
            continue
        parent = table.parent.parent if isinstance(table.parent, exp.Schema) else table.parent
        done = "select"
        for kind in (exp.Insert, exp.Update, exp.Delete):
            target = parent.this if isinstance(parent, kind) else None
            if target is table or (isinstance(target, exp.Schema) and target.this is table):
                done = kind.__name__.lower()
        yield table, done


def unscoped(text: str, tables: set[str]) -> list[str]:
    """The uses of these tables that are not held to one namespace; none in a statement as it should be."""
    tree = parsed(text)
    return [f"{done} {table.sql()}" for table, done in uses(tree) if table.name in tables and not _held(table, done)]


def _held(table: exp.Table, done: str) -> bool:
    if done == "insert":
        insert = table.find_ancestor(exp.Insert)
        assert insert is not None
        return _inserts_namespace(insert)
    scope = table.find_ancestor(exp.Select, exp.Update, exp.Delete)
    assert scope is not None
    others = list(scope.find_all(exp.Table))
    alone = sum(one.find_ancestor(exp.Select, exp.Update, exp.Delete) is scope for one in others) == 1
    return any(_is_namespace(one, table.alias_or_name, alone=alone) for one in _conditions(scope))


def _conditions(scope: exp.Expression) -> Iterator[exp.Expression]:
    """What a row has to fulfil, each condition by itself: none of them is one side of an `or`."""
    where = scope.args.get("where")
    found = [where.this] if where else []
    joins = [*(scope.args.get("joins") or [])]
    source = scope.args.get("from_") or scope.args.get("from")
    if source is not None:
        joins += source.this.args.get("joins") or []
    found += [join.args["on"] for join in joins if join.args.get("on")]
    for one in found:
        flat = one.unnest()
        yield from (part.unnest() for part in (flat.flatten() if isinstance(flat, exp.And) else [flat]))


def _is_namespace(condition: exp.Expression, alias: str, *, alone: bool) -> bool:
    if isinstance(condition, exp.Is) and condition.expression == exp.true():
        condition = condition.this.unnest()
    if not isinstance(condition, exp.EQ):
        return False
    sides = [condition.left, condition.right]
    for column, value in (sides, sides[::-1]):
        if not isinstance(column, exp.Column) or column.name != "namespace_id":
            continue
        if (column.table == alias or (alone and not column.table)) and _gives_namespace(value):
            return True
    return False


def _gives_namespace(value: exp.Expression) -> bool:
    """The statement's parameter, a literal, or another row's namespace."""
    value = value.unnest()
    if isinstance(value, exp.Cast):
        value = value.this
    if isinstance(value, exp.Column):
        return value.name == "namespace_id" or (value.name, value.table) in (("id", "n"), ("id", "g"))
    return isinstance(value, exp.Placeholder | exp.Parameter | exp.Literal)


def _inserts_namespace(insert: exp.Insert) -> bool:
    columns = [one.name for one in insert.this.expressions]
    if "namespace_id" not in columns:
        return False
    place = columns.index("namespace_id")
    source = insert.expression
    if isinstance(source, exp.Values):
        return all(_gives_namespace(row.expressions[place]) for row in source.expressions)
    selects = list(_branches(source))
    return bool(selects) and all(_gives_namespace(one.selects[place].unalias()) for one in selects)


def _branches(query: exp.Expression) -> Iterator[exp.Select]:
    """The selects whose rows a query consists of."""
    query = query.unnest()
    if isinstance(query, exp.SetOperation):
        yield from _branches(query.this)
        yield from _branches(query.expression)
    elif isinstance(query, exp.Select):
        yield query
