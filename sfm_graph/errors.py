"""Every error that a caller can meet, one class per cause.

    SfmError
    ├── InvalidInput                400  invalid_input
    │   ├── InvalidCoordinate       400  invalid_coordinate
    │   ├── InvalidCursor           400  invalid_cursor
    │   ├── InvalidWeight           400  invalid_weight
    │   ├── QueryTooComplex         400  query_too_complex
    │   └── WalkTooLarge            400  walk_too_large
    ├── Unauthenticated             401  unauthenticated
    ├── AccessRefused               403  access_refused
    ├── Forbidden                   403  forbidden
    ├── NotFound                    404  not_found
    │   ├── MemoryNotFound          404  memory_not_found
    │   ├── LinkNotFound            404  link_not_found
    │   ├── VersionNotFound         404  version_not_found
    │   └── NamespaceNotFound       404  namespace_not_found
    ├── Conflict                    409  conflict
    │   ├── VersionConflict         409  version_conflict
    │   ├── CoordinateImmutable     409  coordinate_immutable
    │   ├── KeyTaken                409  key_taken
    │   ├── IdempotencyConflict     409  idempotency_conflict
    │   ├── LegalHold               409  legal_hold
    │   └── ModelMismatch           409  model_mismatch
    ├── CursorExpired               410  cursor_expired
    ├── KnownExpired                410  known_expired
    ├── TooLarge                    413  too_large
    ├── UnsupportedMediaType        415  unsupported_media_type
    ├── HookRefused                 422  hook_refused
    ├── ContentRefused              422  content_refused
    ├── RateLimited                 429  rate_limited
    │   └── BudgetSpent             429  budget_spent
    ├── DatabaseFailure             500  internal_error
    └── Unavailable                 503  unavailable
        ├── SubscriberTooSlow       503  subscriber_too_slow
        ├── EventBusUnavailable     503  event_bus_unavailable
        ├── VectorIndexUnavailable  503  vector_index_unavailable
        ├── DatabaseUnavailable     503  database_unavailable
        ├── Overloaded              503  overloaded
        │   └── DeadlineExceeded    503  deadline_exceeded
        ├── EmbedderUnavailable     503  embedder_unavailable
        ├── RerankerUnavailable     503  reranker_unavailable
        └── PredictorUnavailable    503  predictor_unavailable

`SettingsError` stands apart: it stops the start and never reaches a caller.
"""

from typing import Any, ClassVar


class SfmError(Exception):
    """Base of every error that is rendered to a caller: a stable `code`, a status, the ids involved."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidInput(SfmError):
    """The request is malformed or out of bounds; sending it again cannot help."""

    code = "invalid_input"
    http_status = 400


class InvalidCoordinate(InvalidInput):
    """A coordinate is empty, longer than 64 numbers, or holds NaN or infinity."""

    code = "invalid_coordinate"


class InvalidCursor(InvalidInput):
    """A page cursor is damaged or was made by another query."""

    code = "invalid_cursor"


class InvalidWeight(InvalidInput):
    """A link weight is negative, NaN or infinite."""

    code = "invalid_weight"


class QueryTooComplex(InvalidInput):
    """A GraphQL document exceeds the limits on depth, tokens or aliases."""

    code = "query_too_complex"


class WalkTooLarge(InvalidInput):
    """A path search met more memories or links than one request may."""

    code = "walk_too_large"


class AccessRefused(SfmError):
    """The Host or Origin of the request is not on the allow-list."""

    code = "access_refused"
    http_status = 403


class Unauthenticated(SfmError):
    """The request has no bearer token, or one that is wrong, expired or revoked."""

    code = "unauthenticated"
    http_status = 401


class Forbidden(SfmError):
    """The principal may not do this; the message says what it would need."""

    code = "forbidden"
    http_status = 403


class RateLimited(SfmError):
    """The principal's limit of this class of requests is used up; `details.retry_after` says for how many seconds."""

    code = "rate_limited"
    http_status = 429


class BudgetSpent(RateLimited):
    """The principal's budget of GraphQL cost, or the namespace's budget of the predictor, is used up."""

    code = "budget_spent"


class NotFound(SfmError):
    """What the request names does not exist."""

    code = "not_found"
    http_status = 404


class MemoryNotFound(NotFound):
    """No memory has this id, key or coordinate in the namespace."""

    code = "memory_not_found"


class VersionNotFound(NotFound):
    """No such version of a memory or link is kept."""

    code = "version_not_found"


class LinkNotFound(NotFound):
    """No link has this id in the namespace."""

    code = "link_not_found"


class NamespaceNotFound(NotFound):
    """The namespace has never been written to, or was deleted."""

    code = "namespace_not_found"


class Conflict(SfmError):
    """The request contradicts the stored state."""

    code = "conflict"
    http_status = 409


class VersionConflict(Conflict):
    """`expectedVersion` or `If-Match` names another version than the stored one."""

    code = "version_conflict"


class CoordinateImmutable(Conflict):
    """A memory's coordinate never moves once given."""

    code = "coordinate_immutable"


class KeyTaken(Conflict):
    """The key and the coordinate of a write belong to two different memories."""

    code = "key_taken"


class LegalHold(Conflict):
    """The memory is held: it can neither be forgotten nor erased until the hold is lifted."""

    code = "legal_hold"


class IdempotencyConflict(Conflict):
    """An idempotency key was used before with another body."""

    code = "idempotency_conflict"


class ModelMismatch(Conflict):
    """The namespace holds vectors of another embedding model, or a given vector has another dimension."""

    code = "model_mismatch"


class CursorExpired(SfmError):
    """The changes after a cursor are no longer kept, or belong to another log; `details` say how to go on."""

    code = "cursor_expired"
    http_status = 410


class KnownExpired(SfmError):
    """What was known at a moment is no longer kept: `details["known_from"]` says from when on it is."""

    code = "known_expired"
    http_status = 410


class HookRefused(SfmError):
    """A `before` hook refused what was asked, failed, or took too long; nothing was done."""

    code = "hook_refused"
    http_status = 422


class ContentRefused(SfmError):
    """The namespace's content policy refuses what a memory says; nothing was stored."""

    code = "content_refused"
    http_status = 422


class TooLarge(SfmError):
    """A body, text, payload or batch exceeds its bound."""

    code = "too_large"
    http_status = 413


class UnsupportedMediaType(SfmError):
    """A write came with another content type than the route takes."""

    code = "unsupported_media_type"
    http_status = 415


class Unavailable(SfmError):
    """Something the answer needs is away; the same request may succeed later."""

    code = "unavailable"
    http_status = 503


class SubscriberTooSlow(Unavailable):
    """A subscriber took nothing for too long; `details.cursor` is where it goes on."""

    code = "subscriber_too_slow"


class EventBusUnavailable(Unavailable):
    """Kafka or Redis Streams cannot be reached, or refused events."""

    code = "event_bus_unavailable"


class VectorIndexUnavailable(Unavailable):
    """Qdrant cannot be reached, or refused a request."""

    code = "vector_index_unavailable"


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached, or does not start."""

    code = "database_unavailable"


class Overloaded(Unavailable):
    """No database connection became free, or the statement's time ran out."""

    code = "overloaded"


class DeadlineExceeded(Overloaded):
    """The request's time ran out."""

    code = "deadline_exceeded"


class EmbedderUnavailable(Unavailable):
    """The embedding model cannot be loaded or reached, or gave wrong vectors."""

    code = "embedder_unavailable"


class PredictorUnavailable(Unavailable):
    """The predictor is off, away, too slow, or gave what cannot be used; `details["state"]` says which."""

    code = "predictor_unavailable"


class RerankerUnavailable(Unavailable):
    """The reranker cannot be reached, or gave wrong scores."""

    code = "reranker_unavailable"


class DatabaseFailure(SfmError):
    """The database refused a statement for a reason that no caller can cause: a defect."""

    code = "internal_error"


class SettingsError(ValueError):
    """A setting is missing or wrong; the message names the variable."""
