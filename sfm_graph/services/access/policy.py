"""The default policy: scopes on namespaces."""

from sfm_graph.domain.access import Principal
from sfm_graph.ports.policy import Action, Decision

_ALLOWED = Decision(allowed=True)


class ScopesByNamespace:
    """Allows what the principal's own grant does: the scope, on the namespace."""

    async def decide(self, principal: Principal, action: Action) -> Decision:
        """Two look-ups; no I/O."""
        grant = principal.grant
        if action.scope not in grant.scopes:
            return Decision(False, f"this needs the scope {action.scope.value}")
        if action.namespace is not None and not grant.reach.covers(action.namespace):
            return Decision(False, f"this token does not reach the namespace {action.namespace!r}")
        return _ALLOWED
