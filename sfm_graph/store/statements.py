"""The SQL files, by statement name.

A file in `sql/queries/` holds statements under `-- name: x` headers. `{memory_columns}` and `{link_columns}`
stand for the column lists that `rows.py` reads.
"""

from functools import cache
from pathlib import Path
from typing import LiteralString

from sfm_graph.store.rows import CHANGE_FIELDS, LINK_COLUMNS, MEMORY_COLUMNS, SLICE_ROWS

_COLUMNS = {
    "{memory_columns}": MEMORY_COLUMNS,
    "{link_columns}": LINK_COLUMNS,
    "{change_fields}": CHANGE_FIELDS,
    "{slice_rows}": SLICE_ROWS,
}


def sql_folder() -> Path:
    """The folder `sql/`: inside the package when installed from a wheel, at the root of a checkout."""
    shipped = Path(__file__).parent.parent / "sql"
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "sql"


@cache
def all_statements() -> dict[str, LiteralString]:
    """Every named statement."""
    found: dict[str, LiteralString] = {}
    for path in sorted((sql_folder() / "queries").glob("*.sql")):
        for block in path.read_text().split("-- name: ")[1:]:
            name, body = block.split("\n", 1)
            for placeholder, columns in _COLUMNS.items():
                body = body.replace(placeholder, columns)
            found[name.strip()] = body.strip().rstrip(";")
    return found


def statement(name: str) -> LiteralString:
    """One statement by name. Raises KeyError for an unknown one."""
    return all_statements()[name]
