"""What a request is charged: refused above the limit, and taken from its principal's budget before it is executed.

All that it may cost is taken, and nothing is given back. Requests that run at the same time can so never spend more
than the budget; and what a caller asks for is theirs to bound, by `first`, `limit` and `hops`.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from sfm_graph.domain.rate import Limit
from sfm_graph.errors import BudgetSpent
from sfm_graph.services.registry import Services

# A stream over its budget asks again no more often, and no less.
_LEAST_WAIT_SECONDS = 0.05
_MOST_WAIT_SECONDS = 60.0


@dataclass(slots=True)
class Bill:
    """What one operation may cost, or each event of a subscription. `paid`: it was, or is being, executed.

    `remaining` and `reset_seconds` are of the `budget` after it was charged, or refused; None without one.
    """

    requested: int
    limit: int
    is_subscription: bool
    budget: Limit | None
    paid: bool = False
    remaining: int = 0
    reset_seconds: float = 0.0

    async def pay(self, services: Services) -> None:
        """Take the cost from the caller's budget. Raises BudgetSpent."""
        try:
            taken = await services.limits.spend(self.requested)
        except BudgetSpent as error:
            self._left(error.details["remaining"], error.details["reset_seconds"])
            raise
        self.paid = True
        if taken is not None:
            self._left(taken.remaining, taken.reset_seconds)

    async def look(self, services: Services) -> None:
        """Find out how much is left of the caller's budget, without taking anything."""
        found = await services.limits.left()
        if found is not None:
            self._left(found.remaining, found.reset_seconds)

    async def pay_patiently(self, services: Services) -> None:
        """Take the cost of one more event, as soon as the budget has it."""
        while True:
            try:
                return await self.pay(services)
            except BudgetSpent as error:
                wait = float(error.details.get("retry_after", 1.0))
            await asyncio.sleep(min(max(wait, _LEAST_WAIT_SECONDS), _MOST_WAIT_SECONDS))

    def shown(self, actual: int) -> dict[str, Any]:
        """`extensions.cost` of an answer, refused or not, for which so much was read."""
        cost: dict[str, Any] = {"requested": self.requested, "actual": actual, "limit": self.limit}
        if self.budget is not None:
            cost["budget"] = {
                "limit": self.budget.most, "remaining": self.remaining, "resetSeconds": round(self.reset_seconds, 3),
            }  # fmt: skip
        return cost

    def _left(self, remaining: int, reset_seconds: float) -> None:
        self.remaining, self.reset_seconds = remaining, reset_seconds
