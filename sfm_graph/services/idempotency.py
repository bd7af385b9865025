"""Idempotency keys: the same request again gives the first one's answer, kept 24 hours in its transaction."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

import orjson

from sfm_graph.domain import validate
from sfm_graph.errors import IdempotencyConflict, InvalidInput
from sfm_graph.store.database import LostRace, Session, WriteSession

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's key for one mutation; its scope is the principal, the namespace and the operation."""

    principal: str
    key: str
    body: bytes


def idempotency_key(principal: str, key: object, body: object) -> IdempotencyKey | None:
    """The key of a request with this body (any JSON value); None when the caller gave none.

    Raises InvalidInput for a body that is nested some 250 levels deep.
    """
    if key is None:
        return None
    checked = validate.name(key, "idempotency_key", max_chars=256)
    try:
        text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY, default=str)
    except orjson.JSONEncodeError as exc:
        raise InvalidInput("the body is nested too deeply") from exc
    return IdempotencyKey(principal, checked, blake2b(text, digest_size=16).digest())


async def once(
    session: WriteSession,
    namespace_id: int,
    operation: str,
    key: IdempotencyKey | None,
    work: Callable[[], Awaitable[T]],
    encode: Callable[[T], Any],
    decode: Callable[[Any], T],
) -> T:
    """Run `work`, or give the answer kept for the key. Raises IdempotencyConflict for another body."""
    if key is None:
        return await work()
    kept = await kept_answer(session, namespace_id, operation, key)
    if kept is not None:
        return decode(kept)
    answer = await work()
    text = orjson.dumps(encode(answer)).decode()
    scope = _scope(namespace_id, operation, key)
    if await session.row("idempotent_remember", **scope, body=key.body, answer=text) is None:
        raise LostRace("the same idempotency key was used at the same time")
    return answer


async def kept_answer(session: Session, namespace_id: int, operation: str, key: IdempotencyKey) -> Any:
    """The answer kept for a key, None without one. Raises IdempotencyConflict for another body."""
    row = await session.row("idempotent_answer", **_scope(namespace_id, operation, key))
    if row is None:
        return None
    if bytes(row[0]) != key.body:
        raise IdempotencyConflict(f"idempotency key {key.key!r} was used with another body", key=key.key)
    return row[1]


def _scope(namespace_id: int, operation: str, key: IdempotencyKey) -> dict[str, Any]:
    return {"namespace_id": namespace_id, "principal": key.principal, "operation": operation, "key": key.key}
