"""What a request asks: its namespace and its fields, from the body or the query, by the route's schema."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from sfm_graph.api.bodies import read_object
from sfm_graph.api.rest.schemas import NAMESPACE_ONLY, Properties, Schema
from sfm_graph.domain import inputs, validate
from sfm_graph.domain.identity import DEFAULT_NAMESPACE, MemoryRef
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.page import MAX_PAGE, page_size
from sfm_graph.domain.strict_json import parse_json
from sfm_graph.errors import InvalidCoordinate, InvalidInput
from sfm_graph.services.access.guard import caller
from sfm_graph.services.idempotency import IdempotencyKey, idempotency_key
from sfm_graph.services.registry import Services
from sfm_graph.services.view import View

DEFAULT_PAGE = 20
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_ETAG = re.compile(r'(?:W/)?"([0-9]{1,10})"|([0-9]{1,10})', re.ASCII)


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `fields` hold what the route's schema names, without the namespace."""

    services: Services
    namespace: str
    fields: Mapping[str, Any]
    idempotency_header: str | None = None

    def get(self, field: str, default: Any = None) -> Any:
        """A field's value; the default when it is absent or null."""
        value = self.fields.get(field)
        return default if value is None else value

    def integer(self, field: str, default: int, *, low: int = 1, high: int) -> int:
        """An integer in [low, high]."""
        return validate.integer(self.get(field, default), field, low=low, high=high)

    def flag(self, field: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self.get(field, default)
        if not isinstance(value, bool):
            raise InvalidInput(f"{field} must be true or false", field=field)
        return value

    def raw_ref(self, field: str) -> object:
        """A required reference to a memory, unread."""
        value = self.get(field)
        if value is None:
            raise InvalidCoordinate(f"{field} is required: a coordinate, or the memory's id or key", field=field)
        return value

    def ref(self, field: str) -> MemoryRef:
        """A required reference to a memory."""
        return inputs.memory_ref(self.namespace, self.raw_ref(field))

    def refs(self, field: str, *, most: int = validate.MAX_BULK_ITEMS) -> list[MemoryRef]:
        """A required list of at most `most` references."""
        return [inputs.memory_ref(self.namespace, value) for value in self.items(field, most=most)]

    def items(self, field: str, *, most: int = validate.MAX_BULK_ITEMS) -> list[Any]:
        """A required list of at most `most` values."""
        value = self.get(field)
        if not isinstance(value, list) or len(value) > most:
            raise InvalidInput(f"{field} must be a list of at most {most} items", field=field)
        return value

    def json(self, field: str) -> object:
        """The value of a field that holds JSON text; None when it is absent."""
        text = self.get(field)
        return None if text is None else parse_json(text.encode())

    def kind(self) -> MemoryKind | None:
        """The kind of memory asked for; None for any."""
        value = self.get("kind")
        return None if value is None else validate.choice(value, MemoryKind, "kind")

    def first(self) -> int:
        """The size of a page: `first`, or `limit`, which means the same."""
        return page_size(self.get("first", self.get("limit")), default=DEFAULT_PAGE, most=MAX_PAGE)

    def after(self) -> str | None:
        """The cursor of a page."""
        value = self.get("after")
        if value is not None and not isinstance(value, str):
            raise InvalidInput("after must be a cursor", field="after")
        return value

    def view(self) -> AbstractAsyncContextManager[View]:
        """What it reads in: as of `valid_at` and `known_at`, now without them. Raises what `Views.open` does."""
        return self.services.views.open(inputs.as_of(self.get("valid_at"), self.get("known_at")))

    def key(self, *target: object) -> IdempotencyKey | None:
        """The idempotency key of this call on `target`, from the Idempotency-Key header."""
        body = [*map(str, target), self.fields]
        return idempotency_key(caller().principal.name, self.idempotency_header, body)


def services_of(request: Request) -> Services:
    """The services of the app that serves this request."""
    services: Services = request.app.state.services
    return services


async def body_call(request: Request, schema: Schema) -> Call:
    """The call in a JSON body, with If-Match as its `expected_version`. Unknown fields are refused.

    `namespace` may stand in the body or in the query, not differently in both.
    """
    fields = await read_object(request)
    known: Properties = schema["properties"]
    _refuse_unknown(fields, known)
    _refuse_unknown(request.query_params, NAMESPACE_ONLY)
    namespace = _namespace(request, fields.pop("namespace", None))
    if "expected_version" in known:
        version = _agreed("expected_version", [fields.pop("expected_version", None), expected_version(request)])
        fields |= {} if version is None else {"expected_version": version}
    return Call(services_of(request), namespace, fields, request.headers.get("Idempotency-Key"))


def query_call(request: Request, known: Properties) -> Call:
    """The call in a query string, each value read as the type that its schema says. Unknown names are refused."""
    query = request.query_params
    _refuse_unknown(query, known)
    fields = {name: _read(name, query.getlist(name), known[name]) for name in query if name != "namespace"}
    return Call(services_of(request), _namespace(request), fields, request.headers.get("Idempotency-Key"))


def path_ref(request: Request, namespace: str) -> MemoryRef:
    """The memory that the path names: `1,2,3`, `key:...` or `id:...`."""
    return inputs.memory_ref(namespace, request.path_params["coordinate"])


def expected_version(request: Request) -> int | None:
    """The version that If-Match names; None without it and for `*`. Raises InvalidInput."""
    given = request.headers.get("If-Match", "*").strip()
    if given == "*":
        return None
    match = _ETAG.fullmatch(given)
    if match is None:
        raise InvalidInput('If-Match must be a version: "3"', field="If-Match")
    return int(match[1] or match[2])


def _namespace(request: Request, in_body: object = None) -> str:
    given = _agreed("namespace", [in_body, *request.query_params.getlist("namespace")])
    return validate.namespace(DEFAULT_NAMESPACE if given is None else given)


def _agreed(field: str, values: Iterable[Any]) -> Any:
    given = [value for value in values if value is not None]
    if any(value != given[0] for value in given):
        raise InvalidInput(f"{field} is given twice, and differently", field=field)
    return given[0] if given else None


def _refuse_unknown(fields: Iterable[str], known: Properties) -> None:
    for field in fields:
        if field not in known:
            raise InvalidInput(f"unknown field {field!r}; known are {', '.join(known)}", field=field)


def _read(field: str, values: Sequence[str], schema: Schema) -> Any:
    if schema["type"] == "array":
        return [_read(field, [value], schema["items"]) for value in values]
    if len(values) > 1:
        raise InvalidInput(f"{field} is given more than once", field=field)
    text = values[0]
    match schema["type"]:
        case "number":
            try:
                return float(text)
            except ValueError:
                raise InvalidInput(f"{field} must be a number", field=field) from None
        case "integer":
            if not _INTEGER.fullmatch(text):
                raise InvalidInput(f"{field} must be an integer", field=field)
            return int(text)
        case "boolean":
            if text.lower() not in ("true", "false"):
                raise InvalidInput(f"{field} must be true or false", field=field)
            return text.lower() == "true"
        case _:
            return text
