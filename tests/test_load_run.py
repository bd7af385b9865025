"""A short load run: every answer is right and no write is lost while the database and Redis die once."""

from load_run import Plan, load_run


async def test_answers_are_right_while_the_database_and_redis_die() -> None:
    outcome = await load_run(Plan(seconds=12, clients=6, database=(0.4,), redis=(0.7,), away_seconds=1))
    assert outcome.refused_while_away > 0
    assert outcome.requests["POST 201"] > 20
