"""What is counted where it happens. Every label is one of a fixed set."""

from collections.abc import Iterable
from typing import Final

from sfm_graph import errors
from sfm_graph.settings import ROUTE_CLASSES
from sfm_graph.telemetry.registry import counter, pair_counter, plain_counter, state

# The codes that a refusal may have: of errors.py, and those of HTTP and GraphQL themselves.
CODES: Final = frozenset(
    {one.code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.SfmError)}
    | {"method_not_allowed", "internal_error", "graphql_invalid", "other"}
)
REFUSALS = counter("sfm_refusals", "Errors that were answered, by code", "code", sorted(CODES))
AUTHENTICATIONS = counter(
    "sfm_authentications", "Requests by who they came from: a kind of credential, none, or one that was refused",
    "outcome", ("token", "key", "jwt", "local", "anonymous", "refused", "other"),
)  # fmt: skip
RATE_LIMITED = counter(
    "sfm_rate_limited", "Requests over their rate limit", "class",
    (*ROUTE_CLASSES, "cost", "guess", "other"),
)  # fmt: skip
RATE_LIMITER_DEGRADED = state("sfm_rate_limiter_degraded", "1 while limits are each process's own: Redis is away")
HOT_EVICTIONS = plain_counter("sfm_hot_evictions", "Namespaces put out of memory to make room")
RELAYED_EVENTS = plain_counter("sfm_relay_events", "Events that the bus has acknowledged")
RELAY_FAILURES = plain_counter("sfm_relay_failures", "Batches of events that the bus did not take")
SUBSCRIBER_DROPS = plain_counter("sfm_subscriber_drops", "Streams that were closed because their reader took nothing")
_HOOK_FAILURES = pair_counter("sfm_hook_failures", "Calls of hooks that failed or were late", ("hook", "point"))


class HookFailures:
    """Counts failures of the hooks that are switched on, at the points where they are called, and of no others."""

    def __init__(self, known: Iterable[tuple[str, str]]) -> None:
        self._children = {pair: _HOOK_FAILURES.labels(*pair) for pair in known}

    def add(self, hook: str, point: str) -> None:
        """Count one."""
        self._children[hook, point].inc()
