"""How much each principal may do: requests by class of route, and GraphQL cost."""

import ipaddress
import math
from typing import Any, Final

from sfm_graph.errors import BudgetSpent, QueryTooComplex, RateLimited
from sfm_graph.ports.rate_limiter import Limit, RateLimiter, Taken
from sfm_graph.services.access.guard import caller
from sfm_graph.settings import ROUTE_CLASSES, Settings
from sfm_graph.telemetry.counters import RATE_LIMITED

# Wrong tokens from one address: more than a client with an old token sends before someone looks, and no rate at which
# tokens are found.
GUESSES: Final = Limit(most=60, window_seconds=60)
# Whoever has one IPv6 address has the 2**64 of its network.
_IPV6_NETWORK_BITS: Final = 64


class Limits:
    """What the settings allow; the caller is the task's. Takes over the limiters.

    `guesses` counts addresses: by itself, so that no flood of them pushes out what principals have used up.
    """

    def __init__(self, settings: Settings, limiter: RateLimiter, guesses: RateLimiter) -> None:
        self._limiter = limiter
        self._guesses = guesses
        window = settings.rate_limit_window_seconds
        every = {} if settings.rate_limit_max is None else dict.fromkeys(ROUTE_CLASSES, settings.rate_limit_max)
        most_of = {**every, **settings.class_limits}
        self._limits = {name: Limit(most, window) for name, most in most_of.items()}
        self._budget = None if settings.cost_budget is None else Limit(settings.cost_budget, window)

    def limit_of(self, route_class: str) -> Limit | None:
        """The limit of a class, the same for every principal; None: no limit."""
        return self._limits.get(route_class)

    @property
    def budget(self) -> Limit | None:
        """The GraphQL cost that each principal may spend; None: no limit."""
        return self._budget

    async def take(self, route_class: str) -> Taken | None:
        """Count one request of the caller; None: its class has no limit."""
        limit = self._limits.get(route_class)
        if limit is None:
            return None
        return await self._limiter.take(f"{route_class}:{caller().principal.name}", limit)

    async def admit(self, route_class: str) -> Taken | None:
        """As `take`. Raises RateLimited when the caller's limit is used up."""
        taken = await self.take(route_class)
        if taken is not None and not taken.allowed:
            raise self.refusal(route_class, taken)
        return taken

    def refusal(self, route_class: str, taken: Taken) -> RateLimited:
        """The error for a request that was counted and not allowed."""
        RATE_LIMITED.add(route_class)
        limit = self._limits[route_class]
        return RateLimited(
            f"at most {limit.most} requests of the class {route_class} in {limit.window_seconds:g} s",
            **_until(taken),
            limit=limit.most,
        )

    async def left(self) -> Taken | None:
        """The caller's budget of GraphQL cost as it is; None: there is no limit."""
        return None if self._budget is None else await self._limiter.take(_cost_key(), self._budget, 0)

    async def spend(self, cost: int) -> Taken | None:
        """Take GraphQL cost from the caller's budget; None: there is no limit.

        Raises BudgetSpent when it does not suffice now, QueryTooComplex when it never would.
        """
        if self._budget is None:
            return None
        most, window = self._budget.most, self._budget.window_seconds
        if cost > most:
            raise QueryTooComplex(f"the request costs {cost}, beyond the budget of {most}", cost=cost, limit=most)
        taken = await self._limiter.take(_cost_key(), self._budget, cost)
        if not taken.allowed:
            RATE_LIMITED.add("cost")
            raise BudgetSpent(
                f"the request costs {cost}; {taken.remaining} is left of {most} in {window:g} s",
                **_until(taken),
                cost=cost,
                limit=most,
                remaining=taken.remaining,
                reset_seconds=round(taken.reset_seconds, 3),
            )
        return taken

    async def admit_guess(self, address: str) -> None:
        """Count a token that was wrong. Raises RateLimited when too many came from the address.

        One that is right is taken however many came: others behind the same proxy are not shut out by a guesser, who
        finds no secret of 256 bits anyway.
        """
        _check_guess(await self._guesses.take(network_of(address), GUESSES))

    async def state(self) -> dict[str, Any]:
        """A part of the health report: the limiter's."""
        return await self._limiter.state()

    async def aclose(self) -> None:
        """Close the limiters."""
        await self._limiter.aclose()
        await self._guesses.aclose()


def whole_seconds(seconds: float) -> int:
    """Seconds as headers have them: rounded up, so that whoever waits so long has waited long enough."""
    return math.ceil(seconds)


def _cost_key() -> str:
    return f"cost:{caller().principal.name}"


def _until(taken: Taken) -> dict[str, Any]:
    return {"retry_after": max(1, whole_seconds(taken.retry_after_seconds))}


def _check_guess(taken: Taken) -> None:
    if not taken.allowed:
        RATE_LIMITED.add("guess")
        raise RateLimited("too many wrong tokens from this address", **_until(taken))


def network_of(address: str) -> str:
    """What is counted as one of an address: itself, for IPv6 its network of 2**64."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(known, ipaddress.IPv6Address):
        if known.ipv4_mapped is not None:
            return str(known.ipv4_mapped)
        return str(ipaddress.ip_network((known, _IPV6_NETWORK_BITS), strict=False))
    return str(known)
