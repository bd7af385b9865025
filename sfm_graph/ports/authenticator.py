"""Who a bearer token belongs to."""

from typing import Protocol

from sfm_graph.domain.access import Principal


class Authenticator(Protocol):
    """One kind of token: the static one, API keys, JWTs."""

    async def authenticate(self, token: str) -> Principal | None:
        """The principal of a token; None when it is not of this kind.

        Raises Unauthenticated for one of this kind that is wrong, expired or revoked, and Unavailable when that
        cannot be found out.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
