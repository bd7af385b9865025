"""Reading JSON bodies: strict, and off the event loop where it takes long. The guard bounds their size."""

import asyncio
from typing import Any

from fastapi import Request

from sfm_graph.domain.strict_json import parse_json
from sfm_graph.errors import InvalidInput

# About 1 ms of parsing.
INLINE_BYTES = 256 * 1024


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries. Raises InvalidInput, TooLarge."""
    body = await request.body()
    value = parse_json(body) if len(body) <= INLINE_BYTES else await asyncio.to_thread(parse_json, body)
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    return value
