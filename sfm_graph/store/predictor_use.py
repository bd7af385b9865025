"""What namespaces have asked of the predictor, day by day."""

from sfm_graph.store.database import WriteSession


async def spend(session: WriteSession, namespace_id: int, most: int) -> bool:
    """Count one call of today (UTC); False where `most` have been made already. The first removes old days."""
    row = await session.row("predictor_spend", namespace_id=namespace_id, most=most)
    if row is None:
        return False
    if row[0] == 1:
        await session.run("predictor_use_prune", namespace_id=namespace_id)
    return True


async def count_tokens(session: WriteSession, namespace_id: int, tokens: int) -> None:
    """Add tokens to today's."""
    await session.run("predictor_tokens", namespace_id=namespace_id, tokens=min(tokens, 2**31))
