"""A service with a predictor that a test has written down, and the forms of both protocols."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from pydantic import SecretStr
from scripted_server import Answer, Reply, Request

from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import load_settings

KEY = "sk-very-secret-predictor-key"
NAMESPACE = "demo"

Say = Callable[[dict[str, Any]], Any]


def chat(kind: str, answer: Any) -> Reply:
    """An answer in a protocol's form; `answer` as JSON, or as it is when it is text."""
    text = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
    if kind == "ollama":
        return Reply({"message": {"content": text}, "done": True, "prompt_eval_count": 20, "eval_count": 10})
    return Reply({"choices": [{"message": {"content": text}}], "usage": {"total_tokens": 30}})


def prompt_of(request: Request) -> dict[str, Any]:
    """The JSON document of the user's message."""
    document: dict[str, Any] = orjson.loads(request.body["messages"][1]["content"])
    return document


def saying(say: Say, kind: str = "openai") -> Answer:
    """Answers made from what is asked: `say` gets the user's document."""
    return lambda request: chat(kind, say(prompt_of(request)))


@asynccontextmanager
async def predicting(
    dsn: str, url: str | None, *, background: bool = False, **settings: Any
) -> AsyncIterator[Services]:
    """A service on a test's database, with background work if need be; `url` None: without a predictor."""
    given: dict[str, Any] = {"postgres_url": SecretStr(dsn), "pool_max_size": 6, **settings}
    if url is not None:
        given = {"predictor": "openai", "predictor_url": url, "predictor_model": "tiny", **given}
        given.setdefault("predictor_api_key", SecretStr(KEY))
    async with open_runtime(load_settings(**given), maintenance=background) as services:
        yield services


async def remember(services: Services, *contents: str, **fields: Any) -> list[str]:
    """Store memories, keyed by their place; their global ids."""
    items = [{"content": content, "key": f"m{place}", **fields} for place, content in enumerate(contents)]
    stored = await services.memory_writes.store_many(NAMESPACE, items)
    return [one.memory.global_id for one in stored.stored]
