"""What is counted where it happens. Every label is one of a fixed set."""

from typing import Final

from sfm_graph import errors
from sfm_graph.settings import ROUTE_CLASSES
from sfm_graph.telemetry.registry import counter, plain_counter, state

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
