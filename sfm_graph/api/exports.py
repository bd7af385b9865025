"""What an export is asked for, and its chunks, for every face."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from sfm_graph.domain import inputs
from sfm_graph.domain.as_of import NOW, AsOf
from sfm_graph.errors import InvalidInput
from sfm_graph.services.registry import Services

FORMATS = ("ndjson", "graphml")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """`form`: one of FORMATS. `vectors`: only of everything."""

    form: str = "ndjson"
    everything: bool = False
    vectors: bool = True
    as_of: AsOf = NOW


def export_request(fields: Mapping[str, Any]) -> ExportRequest:
    """From `format`, `everything`, `vectors`, `valid_at` and `known_at`. Raises InvalidInput."""
    form = fields.get("format") or "ndjson"
    everything, vectors = _flag(fields, "everything", default=False), _flag(fields, "vectors", default=True)
    if form not in FORMATS:
        raise InvalidInput(f"format is one of {', '.join(FORMATS)}", field="format")
    if everything and form != "ndjson":
        raise InvalidInput("everything is exported as ndjson", field="format")
    as_of = inputs.as_of(fields.get("valid_at"), fields.get("known_at"))
    return ExportRequest(form, everything, vectors, as_of)


async def exported(services: Services, namespace: str, request: ExportRequest) -> AsyncGenerator[bytes]:
    """The cursor at which the changes of the snapshot go on, empty for another moment than now; then its chunks.

    What is refused is refused before the cursor.
    """
    async with services.views.open(request.as_of) as view:
        cursor = await services.changes.cursor(view, namespace)
        if request.everything:
            chunks = services.transfer.export_everything(view, namespace, vectors=request.vectors)
        elif request.form == "graphml":
            chunks = services.transfer.export_graphml(view, namespace)
        else:
            chunks = services.transfer.export(view, namespace)
        first = await anext(chunks, b"")
        yield cursor.encode() if request.as_of == NOW else b""
        yield first
        async for chunk in chunks:
            yield chunk


def _flag(fields: Mapping[str, Any], field: str, *, default: bool) -> bool:
    value = fields.get(field)
    if not isinstance(value, bool | None):
        raise InvalidInput(f"{field} must be true or false", field=field)
    return default if value is None else value
