"""Ending copies, as GraphQL and REST do it alike."""

from sfm_graph.domain.copying import Copy
from sfm_graph.errors import InvalidInput
from sfm_graph.services.copying.copies import Copies


async def end_copy(copies: Copies, namespace: str, number: int, *, forget: bool, outgoing: bool) -> Copy:
    """End a copy into a namespace, or with `outgoing` one from it, whose memories cannot be forgotten from there.

    Raises InvalidInput, NotFound, and what forgetting raises.
    """
    if not outgoing:
        return await copies.revoke(namespace, number, forget=forget)
    if forget:
        raise InvalidInput("copied memories are forgotten where they are, not from the source", field="forget")
    return await copies.withdraw(namespace, number)
