"""Who a request comes from: the caller that a bearer token makes, or the lack of one."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from sfm_graph.domain.access import LOCAL, Principal
from sfm_graph.errors import Unauthenticated
from sfm_graph.ports.audit import Audit
from sfm_graph.ports.authenticator import Authenticator
from sfm_graph.ports.policy import Policy
from sfm_graph.services.access.guard import Caller

log = logging.getLogger("sfm_graph.audit")

# More than any token of ours, and as much as headers may have in most servers.
MAX_TOKEN_CHARS: Final = 16_384
_NEEDED: Final = "a bearer token is needed in the Authorization header"


class Authentication:
    """Asks authenticators, in order, whose token it is.

    `configured`: whether the settings name a way to authenticate. `keys_exist`: whether the database holds an API
    key, known at most 5 seconds late. `open_to_local`: whether only this machine can reach the service; then, while
    there is no way to authenticate at all, whoever has no token may do everything.
    """

    def __init__(
        self,
        authenticators: Sequence[Authenticator],
        policy: Policy,
        audit: Audit | None,
        *,
        configured: bool,
        keys_exist: Callable[[], Awaitable[bool]],
        open_to_local: bool,
    ) -> None:
        self._authenticators = tuple(authenticators)
        self._policy = policy
        self._audit = audit
        self._configured = configured
        self._keys_exist = keys_exist
        self._open_to_local = open_to_local
        # How often authentication failed since the start.
        self.failures = 0

    @property
    def local(self) -> Caller:
        """The caller that is this process itself, such as a command without `--url`."""
        return Caller(LOCAL, self._policy, self._audit)

    async def caller(self, token: str | None, client: str = "this process") -> Caller:
        """Who sends a token; with None, who sends none. `client`: from where, for the log.

        Raises Unauthenticated, and DatabaseUnavailable or Unavailable when that cannot be found out.
        """
        ask = self._without if token is None else partial(self._principal, token)
        try:
            principal = await ask()
        except Unauthenticated as refused:
            self.failures += 1
            # Not a row of the audit log, which anybody could fill so.
            log.warning("authentication failed for %s: %s", client, refused.message)
            raise
        return Caller(principal, self._policy, self._audit, ask)

    async def required(self) -> bool:
        """Whether a request needs a token. Raises DatabaseUnavailable."""
        return not self._open_to_local or await self.has_any()

    async def needed_after_revoking(self) -> bool:
        """As `required`, where a key was just revoked: that nobody needs a token now is a line of the log. Raises
        DatabaseUnavailable."""
        needed = await self.required()
        if not needed:
            log.warning("no API key is left: whoever reaches the service from this machine may do everything now")
        return needed

    async def has_any(self) -> bool:
        """Whether anybody could have a token: there is a static one, JWTs are taken, or an API key was made and not
        revoked. Raises DatabaseUnavailable."""
        return self._configured or await self._keys_exist()

    async def aclose(self) -> None:
        """Let go of the authenticators' connections."""
        for one in self._authenticators:
            await one.aclose()

    async def _without(self) -> Principal:
        if await self.required():
            raise Unauthenticated(_NEEDED)
        return LOCAL

    async def _principal(self, token: str) -> Principal:
        if 0 < len(token) <= MAX_TOKEN_CHARS:
            for one in self._authenticators:
                found = await one.authenticate(token)
                if found is not None:
                    return found
        raise Unauthenticated("the token is of no kind that this service takes")
